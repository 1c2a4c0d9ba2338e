"""FastAPI: `install(app)`, and the parts as dependencies.

    from araponga_infra.integrations.fastapi import IfMatch, Infra, ReadSession, WriteSession, install

Sessions have the scope of the endpoint function: COMMIT happens when the function has returned, before anything of the
response is sent, so a COMMIT that fails is never reported as success. For the same reason a body that is streamed opens
a session of its own: `infra.read(after=last_write)` inside the generator.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, TypeAlias

from sqlalchemy.ext.asyncio import AsyncSession

from araponga_infra.concurrency import IfMatch as _IfMatch
from araponga_infra.extras import import_extra
from araponga_infra.infrastructure import AsyncInfrastructure
from araponga_infra.sessions import AsyncReadOnlySession

import_extra("fastapi", extra="fastapi", needed_for="araponga_infra.integrations.fastapi")

from fastapi import Depends, Header
from starlette.requests import HTTPConnection

from araponga_infra.integrations.starlette import (
    Araponga,
    if_match_of,
    infra_of,
    install,
    last_write_of,
    read_session,
)

__all__ = ["Araponga", "IfMatch", "Infra", "LastWrite", "ReadSession", "WriteSession", "install"]


async def _infra(connection: HTTPConnection) -> AsyncInfrastructure:
    return infra_of(connection)


async def _last_write(connection: HTTPConnection) -> str | None:
    return last_write_of(connection)


async def _read_session(connection: HTTPConnection) -> AsyncIterator[AsyncReadOnlySession]:
    async with read_session(connection) as session:
        yield session


async def _write_session(connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
    async with infra_of(connection).write() as session:
        yield session


async def _if_match(
    connection: HTTPConnection,
    _if_match: Annotated[str | None, Header(alias="If-Match", description="ETag of the version to change")] = None,
) -> _IfMatch:
    return if_match_of(connection)


Infra: TypeAlias = Annotated[AsyncInfrastructure, Depends(_infra)]
"""The parts: `.cache`, `.events`, `.concurrency`, `.replicas`, `.write()`, `.read()`."""

ReadSession: TypeAlias = Annotated[AsyncReadOnlySession, Depends(_read_session, scope="function")]
"""A read-only session on a replica that has seen this client's last write; given back before the response is sent."""

WriteSession: TypeAlias = Annotated[AsyncSession, Depends(_write_session, scope="function")]
"""A session on the primary: COMMIT after the endpoint has returned and before the response is sent, ROLLBACK when the
endpoint raises. Nothing is retried; for that, take `Infra` and run a unit of work by `infra.concurrency.execute`."""

IfMatch: TypeAlias = Annotated[_IfMatch, Depends(_if_match)]
"""The request's If-Match, for `expect_version`: 428 without, 400 when it cannot be read."""

LastWrite: TypeAlias = Annotated[str | None, Depends(_last_write)]
"""The token of this client's last write, for `infra.read(after=...)`; None when it sent none."""
