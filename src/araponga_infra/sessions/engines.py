"""Engines that only read: one of our own for a URL, or the host's engine seen through a guard."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

from sqlalchemy import URL, Engine, event
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.pool import PoolProxiedConnection

from araponga_infra.errors import InvalidArgumentError
from araponga_infra.sessions.connection import ReadOnlyConnection, refuse_opening_options
from araponga_infra.sessions.lexer import Family
from araponga_infra.sessions.raw import guarded_driver
from araponga_infra.sessions.server import Server, Undo, family_of, server_for
from araponga_infra.sessions.statements import JUDGES, Verdict
from araponga_infra.urls import async_engine_from_url, database_url, engine_from_url

__all__ = ["ReadOnlyEngine", "async_own_engine", "at_checkin", "guarded", "is_in_memory", "own_engine"]

_guarding = threading.Lock()
_GUARDED = "_araponga_infra_read_only"


class ReadOnlyEngine(OptionEngine):
    """The engine it is made from, seen through the statement layer and the server layer.

    It shares the other's pool, dialect and listeners, and adds none there: what the host does through its own engine
    is not touched.
    """

    _connection_cls = ReadOnlyConnection
    is_own: bool = False
    """Whether its connections were read-only from the first, and nobody else uses them."""

    def __init__(self, proxied: Engine, execution_options: Any) -> None:
        refuse_opening_options(execution_options)
        super().__init__(proxied, execution_options)
        self.family: Family = family_of(proxied.dialect)
        self.server: Server = server_for(proxied.dialect, proxied.pool)
        self.judge: Callable[[str], Verdict] = JUDGES[self.family]
        self.is_own = getattr(proxied, "is_own", False)

    def raw_connection(self) -> PoolProxiedConnection:
        return guarded_driver(self.check_out(), self.family, self.server)

    def check_out(self) -> PoolProxiedConnection:
        """A connection of the pool that the database will not let write."""
        checked_out = self._proxied.pool.connect()
        if not self.is_own:
            self._arm(checked_out)
        return checked_out

    def _arm(self, checked_out: PoolProxiedConnection) -> None:
        try:
            undo = self.server.arm_for_checkout(self.dialect, checked_out)
        except BaseException:
            checked_out.close()
            raise
        if undo is not None:
            at_checkin(checked_out, undo)

    def guard_again(self, checked_out: PoolProxiedConnection) -> None:
        """Take back what an option of the engine has set on the driver: AUTOCOMMIT, READ WRITE."""
        connection = checked_out.dbapi_connection
        if not self.is_own or not self.server.keeps_autocommit_read_only(self.dialect, connection):
            self.server.arm_for_checkout(self.dialect, checked_out)

    def has_answered(self) -> None:
        """A statement was answered."""

    def has_lost_connection(self, error: BaseException) -> None:
        """A connection was lost."""


ReadOnlyEngine._option_cls = ReadOnlyEngine


def at_checkin(checked_out: PoolProxiedConnection, undo: Undo) -> None:
    """SQLAlchemy undoes its own isolation levels this way: once, when this checkout ends, before the next begins."""
    record = cast(Any, checked_out)._connection_record
    record.finalize_callback.append(undo)


def guarded(engine: Engine) -> ReadOnlyEngine:
    """The host's engine seen through the guard; the same object for the same engine.

    Raises:
        InvalidArgumentError: a database that cannot be guarded.
    """
    if isinstance(engine, ReadOnlyEngine):
        return engine
    with _guarding:
        # Kept on the engine itself: any table of ours would keep the engine alive, since the guard refers to it.
        known: ReadOnlyEngine | None = engine.__dict__.get(_GUARDED)
        if known is None:
            known = ReadOnlyEngine(engine, {})
            engine.__dict__[_GUARDED] = known
        return known


def own_engine(url: str | URL, *, argument: str = "url", **options: object) -> ReadOnlyEngine:
    """An engine of our own whose connections are read-only from the first; opens none yet.

    Raises:
        InvalidArgumentError: a malformed URL, a database that cannot be guarded, or a SQLite database in memory, which
            a second engine would not see.
        MissingExtraError: the driver is not installed.
    """
    parsed = database_url(url, argument=argument)
    _refuse_memory(parsed, argument)
    return _arm_engine(engine_from_url(parsed, argument=argument, **options))


def async_own_engine(url: str | URL, *, argument: str = "url", **options: object) -> ReadOnlyEngine:
    """The same with an async driver: what `AsyncEngine` wraps."""
    parsed = database_url(url, is_async=True, argument=argument)
    _refuse_memory(parsed, argument)
    return _arm_engine(async_engine_from_url(parsed, argument=argument, **options).sync_engine)


def _refuse_memory(url: URL, argument: str) -> None:
    if is_in_memory(url):
        raise InvalidArgumentError(
            f"{argument} names a SQLite database in memory, which an engine of its own would see empty: "
            "pass the engine that filled it, or name a file as in sqlite:///file.db"
        )


def is_in_memory(url: URL) -> bool:
    """Whether it is a SQLite database that only the connection which filled it can see."""
    if url.get_backend_name() != "sqlite":
        return False
    path = url.database or ":memory:"
    is_shared = "cache=shared" in path or url.query.get("cache") == "shared"
    return (":memory:" in path or "mode=memory" in path or url.query.get("mode") == "memory") and not is_shared


def _arm_engine(engine: Engine) -> ReadOnlyEngine:
    server = server_for(engine.dialect, engine.pool)
    dialect = engine.dialect

    def connect(_dialect: Any, _record: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        return server.connect(dialect, arguments, options)

    def arm(connection: Any, _record: Any) -> None:
        server.arm(dialect, connection)

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "connect", arm)
    only_reads = ReadOnlyEngine(engine, {})
    only_reads.is_own = True
    return only_reads
