"""The engines behind a replica set: made from URLs, or the host's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sqlalchemy import URL, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from araponga_infra.clock import Clock
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.sessions.engines import ReadOnlyEngine, async_own_engine, guarded, is_in_memory, own_engine
from araponga_infra.sessions.fallback import FallbackEngine
from araponga_infra.sessions.health import Limits
from araponga_infra.sessions.replica import Replica
from araponga_infra.telemetry import Report
from araponga_infra.urls import async_engine_from_url, engine_from_url

__all__ = ["Servers", "Target", "servers_of"]

Target: TypeAlias = str | URL | Engine | AsyncEngine


@dataclass(frozen=True)
class Servers:
    """`owned` are the engines that were made here, and are to be closed here."""

    writer: Engine
    primary: ReadOnlyEngine
    replicas: tuple[Replica, ...]
    owned: tuple[Engine, ...]


def servers_of(
    primary: Target,
    replicas: Sequence[Target],
    *,
    is_async: bool,
    limits: Limits,
    clock: Clock,
    report: Report | None,
) -> Servers:
    """Make what is named by URL and guard what is handed in; opens no connection.

    Raises:
        InvalidArgumentError: an engine of the wrong kind, a malformed URL, or a replica of another kind of database.
        MissingExtraError: a driver is not installed.
    """
    if isinstance(replicas, (str, URL, Engine, AsyncEngine)):
        raise InvalidArgumentError("replicas is a single one: pass a sequence of URLs or engines, as in [replica]")
    writer = _writer(primary, is_async)
    reader = _primary_reader(primary, writer, is_async)
    made = [_reader(target, f"replicas[{index}]", is_async) for index, target in enumerate(replicas)]
    for index, engine in enumerate(made):
        _check_kind(engine, writer, f"replicas[{index}]")
    members = tuple(
        Replica(number, engine, limits=limits, clock=clock, report=report) for number, engine in enumerate(made, 1)
    )
    owned: list[Engine] = [
        engine for target, engine in zip(replicas, made, strict=True) if isinstance(target, (str, URL))
    ]
    if isinstance(primary, (str, URL)):
        owned += [writer, reader]
    return Servers(writer, reader, members, tuple(owned))


def _writer(primary: Target, is_async: bool) -> Engine:
    if isinstance(primary, (str, URL)):
        if is_async:
            return async_engine_from_url(primary, argument="primary").sync_engine
        return engine_from_url(primary, argument="primary")
    return _host_engine(primary, "primary", is_async)


def _primary_reader(primary: Target, writer: Engine, is_async: bool) -> ReadOnlyEngine:
    if not isinstance(primary, (str, URL)) or is_in_memory(writer.url):
        return guarded(writer)
    return FallbackEngine(_own(primary, "primary", is_async))


def _reader(target: Target, argument: str, is_async: bool) -> ReadOnlyEngine:
    if isinstance(target, (str, URL)):
        return _own(target, argument, is_async)
    return ReadOnlyEngine(_host_engine(target, argument, is_async), {})


def _own(url: str | URL, argument: str, is_async: bool) -> ReadOnlyEngine:
    if is_async:
        return async_own_engine(url, argument=argument)
    return own_engine(url, argument=argument)


def _host_engine(target: object, argument: str, is_async: bool) -> Engine:
    if is_async and isinstance(target, AsyncEngine):
        return target.sync_engine
    if not is_async and isinstance(target, Engine) and not target.dialect.is_async:
        return target
    kind, cls = ("AsyncEngine", "AsyncReplicaSet") if is_async else ("Engine", "ReplicaSet")
    raise InvalidArgumentError(f"{argument} is a {type(target).__name__}: {cls} takes a database URL or an {kind}")


def _check_kind(replica: Engine, primary: Engine, argument: str) -> None:
    if replica.dialect.name != primary.dialect.name or primary.dialect.name not in ("postgresql", "sqlite"):
        raise InvalidArgumentError(
            f"{argument} is a {replica.dialect.name} database next to a primary of {primary.dialect.name}: "
            "replicas are PostgreSQL standbys of a PostgreSQL primary, or SQLite files next to one"
        )
