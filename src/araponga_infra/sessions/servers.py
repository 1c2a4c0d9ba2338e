"""The engines behind a replica set: made from URLs, or the host's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TypeAlias

from sqlalchemy import URL, Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from araponga_infra.clock import Clock
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.sessions.engines import ReadOnlyEngine, async_own_engine, guarded, is_in_memory, own_engine
from araponga_infra.sessions.fallback import FallbackEngine
from araponga_infra.sessions.health import Chooser, Limits
from araponga_infra.sessions.replica import Replica
from araponga_infra.telemetry import Report
from araponga_infra.urls import (
    async_engine_from_url,
    check_pool_size,
    database_url,
    engine_from_url,
    host_and_port,
    pool_options,
)

__all__ = ["Servers", "Target", "check_choices", "servers_of"]

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
    pool_size: int | None,
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
    if not isinstance(replicas, Sequence):
        raise InvalidArgumentError(
            f"replicas is a {type(replicas).__name__}: pass a sequence of URLs or engines, or ()"
        )
    check_pool_size(pool_size, "pool_size")
    writer = _writer(primary, is_async, pool_size)
    reader = _primary_reader(primary, writer, is_async, pool_size)
    made: list[ReadOnlyEngine] = []
    for index, target in enumerate(replicas):
        argument = f"replicas[{index}]"
        for one in _each_host(target, argument, is_async):
            made.append(_reader(one, argument, is_async, pool_size, limits))
            _check_kind(made[-1], writer, argument)
    members = tuple(
        Replica(number, engine, limits=limits, clock=clock, report=report) for number, engine in enumerate(made, 1)
    )
    owned: list[Engine] = [engine for engine in made if engine.is_own]
    if isinstance(primary, (str, URL)):
        owned += [writer, reader]
    return Servers(writer, reader, members, tuple(owned))


def check_choices(session_class: type[Session], choose: Chooser) -> None:
    """
    Raises:
        InvalidArgumentError: no class of sessions, or nothing that can be asked to choose.
    """
    if not isinstance(session_class, type) or not issubclass(session_class, Session):
        raise InvalidArgumentError(f"session_class={session_class!r} is not a subclass of sqlalchemy.orm.Session")
    if not callable(choose):
        raise InvalidArgumentError(f"choose={choose!r} is not a function that takes candidates and returns one of them")


_CHOOSE_A_HOST = ("host", "port", "target_session_attrs", "load_balance_hosts")


def _each_host(target: Target, argument: str, is_async: bool) -> list[Target]:
    """A URL with several hosts as one URL per host.

    A pool whose connections are on different servers cannot say what "it" has replayed, and after an outage stays
    where its connections happen to be.
    """
    if not isinstance(target, (str, URL)):
        return [target]
    url = database_url(target, is_async=is_async, argument=argument)
    named = url.query.get("host", ())
    hosts = [host for part in ((named,) if isinstance(named, str) else named) for host in part.split(",")]
    if len(hosts) < 2 or url.get_backend_name() != "postgresql":
        return [url]
    ports = str(url.query.get("port", "")).split(",")
    alone = url.difference_update_query(_CHOOSE_A_HOST)
    return [_at_host(alone, host, ports[min(number, len(ports) - 1)]) for number, host in enumerate(hosts)]


def _at_host(url: URL, host: str, port: str) -> URL:
    name, own_port = host_and_port(host)
    number = own_port or port
    return url.set(host=name, port=int(number) if number else None)


def _writer(primary: Target, is_async: bool, pool_size: int | None) -> Engine:
    if isinstance(primary, (str, URL)):
        options = pool_options(database_url(primary, is_async=is_async, argument="primary"), pool_size)
        if is_async:
            return async_engine_from_url(primary, argument="primary", **options).sync_engine
        return engine_from_url(primary, argument="primary", **options)
    return _host_engine(primary, "primary", is_async)


def _primary_reader(primary: Target, writer: Engine, is_async: bool, pool_size: int | None) -> ReadOnlyEngine:
    if not isinstance(primary, (str, URL)) or is_in_memory(writer.url):
        return guarded(writer)
    return FallbackEngine(_own(primary, "primary", is_async, **pool_options(writer.url, pool_size)))


def _reader(target: Target, argument: str, is_async: bool, pool_size: int | None, limits: Limits) -> ReadOnlyEngine:
    if not isinstance(target, (str, URL)):
        return ReadOnlyEngine(_host_engine(target, argument, is_async), {})
    url = database_url(target, is_async=is_async, argument=argument)
    return _own(url, argument, is_async, **_impatient(url, limits), **pool_options(url, pool_size))


_SHORTEST_CONNECT_SECONDS = 2
_SHORTEST_POOL_SECONDS = 1.0


def _impatient(url: URL, limits: Limits) -> dict[str, object]:
    """A replica that does not take connections is worth little waiting: others can serve. What the URL says stays."""
    if url.get_backend_name() != "postgresql":
        return {}
    name = "timeout" if url.get_driver_name() == "asyncpg" else "connect_timeout"
    seconds = max(_SHORTEST_CONNECT_SECONDS, ceil(limits.check_timeout_seconds))
    return {
        "connect_args": {} if name in url.query else {name: seconds},
        "pool_timeout": max(_SHORTEST_POOL_SECONDS, limits.max_wait_seconds),
    }


def _own(url: str | URL, argument: str, is_async: bool, **options: object) -> ReadOnlyEngine:
    if is_async:
        return async_own_engine(url, argument=argument, **options)
    return own_engine(url, argument=argument, **options)


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
