"""Rows for display, read on a standby."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from sqlalchemy import Select

from araponga_infra import AsyncInfrastructure, AsyncReadOnlySession

from .domain import Base

Row = TypeVar("Row", bound=Base)
T = TypeVar("T")


class Reads:
    """Reads that have seen this client's last write. Each is a unit: when the standby it runs on dies or hangs in the
    middle of it, it runs again on another server, and the client waits a moment instead of being answered with 503."""

    def __init__(self, infra: AsyncInfrastructure, last_write: str | None) -> None:
        self._infra = infra
        self._last_write = last_write

    async def one(self, kind: type[Row], id: int) -> Row:
        """
        Raises:
            NoResultFound: there is none of that id.
        """

        async def get(session: AsyncReadOnlySession) -> Row:
            return await session.get_one(kind, id)

        return await self._run(get)

    async def all(self, statement: Select[Row]) -> Sequence[Row]:
        async def select(session: AsyncReadOnlySession) -> Sequence[Row]:
            return (await session.scalars(statement)).all()

        return await self._run(select)

    async def _run(self, work: Callable[[AsyncReadOnlySession], Awaitable[T]]) -> T:
        return await self._infra.replicas.run(work, after=self._last_write)
