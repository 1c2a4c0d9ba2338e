"""Engines that only read: one of our own for a URL, or the host's engine seen through a guard."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.pool import PoolProxiedConnection

from araponga_infra.errors import InvalidArgumentError
from araponga_infra.sessions.errors import ReadOnlyViolationError
from araponga_infra.sessions.lexer import Family
from araponga_infra.sessions.raw import (
    ReadOnlyConnection,
    guarded_driver,
    real_connection,
    refusal_by_server,
    refusal_of,
)
from araponga_infra.sessions.server import Server, SQLiteServer, Undo, family_of, server_for, sqlstate_of
from araponga_infra.sessions.statements import judge
from araponga_infra.urls import async_engine_from_url, database_url, engine_from_url

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import ExceptionContext

__all__ = ["ReadOnlyEngine", "async_own_engine", "at_checkin", "guarded", "is_in_memory", "own_engine"]

_INSUFFICIENT_PRIVILEGE = "42501"
_guarding = threading.Lock()
_GUARDED = "_araponga_infra_read_only"


class ReadOnlyEngine(OptionEngine):
    """The engine it is made from, seen through the statement layer and the server layer.

    It shares the other's pool, dialect and listeners, and adds none there: what the host does through its own engine
    is not touched.
    """

    _connection_cls = ReadOnlyConnection
    is_own = False
    """Whether its connections were read-only from the first, and nobody else uses them."""

    def __init__(self, proxied: Engine, execution_options: Any) -> None:
        super().__init__(proxied, execution_options)
        self.family = family_of(proxied.dialect)
        self.server = server_for(self.family, proxied.pool)
        self.is_own = getattr(proxied, "is_own", False)
        if not isinstance(proxied, ReadOnlyEngine):
            _listen(self, self.family, self.server)

    def raw_connection(self) -> PoolProxiedConnection:
        """Every way to a connection comes through here, also the one that replaces an invalidated connection."""
        return guarded_driver(self.check_out(), self.family, self.server)

    def check_out(self) -> PoolProxiedConnection:
        """A connection of the pool that the database will not let write."""
        checked_out = super().raw_connection()
        if not self.is_own:
            self._arm(checked_out)
        return checked_out

    def _arm(self, checked_out: PoolProxiedConnection) -> None:
        try:
            undo = self.server.arm_for_checkout(self.dialect, checked_out.dbapi_connection)
        except BaseException:
            checked_out.close()
            raise
        if undo is not None:
            at_checkin(checked_out, undo)


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
    server = server_for(family_of(engine.dialect), engine.pool)
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


def _listen(engine: ReadOnlyEngine, family: Family, server: Server) -> None:
    def check_statement(
        _connection: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> tuple[str, Any]:
        refusal = refusal_of(statement, family)
        if refusal is not None:
            raise refusal
        return statement, parameters

    def check_options(connection: Connection, options: dict[str, Any]) -> None:
        _refuse_opening_options(options)
        is_autocommit = str(options.get("isolation_level", "")).upper() == "AUTOCOMMIT"
        dbapi_connection = real_connection(connection).dbapi_connection
        if is_autocommit and not (
            engine.is_own and server.keeps_autocommit_read_only(engine.dialect, dbapi_connection)
        ):
            raise ReadOnlyViolationError(
                "AUTOCOMMIT would leave the read-only transaction: give the factory a URL instead of an engine, "
                "or read without it",
                layer="session",
            )

    def check_engine_options(_engine: Engine, options: dict[str, Any]) -> None:
        _refuse_opening_options(options)

    def begin(connection: Connection) -> None:
        server.begin(connection, real_connection(connection), engine.is_own)

    def translate(context: ExceptionContext) -> None:
        _raise_refusal(context, family, server)

    event.listen(engine, "before_cursor_execute", check_statement, retval=True)
    event.listen(engine, "set_connection_execution_options", check_options)
    event.listen(engine, "set_engine_execution_options", check_engine_options)
    event.listen(engine, "handle_error", translate)
    if family is not Family.SQLITE:
        event.listen(engine, "begin", begin)
    elif isinstance(server, SQLiteServer) and server.is_shared:
        _guard_each_statement(engine, server)


def _refuse_opening_options(options: dict[str, Any]) -> None:
    if options.get("postgresql_readonly") is False:
        raise ReadOnlyViolationError(
            "postgresql_readonly=False would open a read-only session: use a session that may write", layer="session"
        )


def _guard_each_statement(engine: Engine, server: SQLiteServer) -> None:
    def guard(connection: Connection, *_arguments: Any) -> None:
        server.arm(engine.dialect, real_connection(connection).dbapi_connection)

    def release(connection: Connection, *_arguments: Any) -> None:
        server.set_authorizer(engine.dialect, real_connection(connection).dbapi_connection, None)

    def release_after_error(context: ExceptionContext) -> None:
        if context.connection is not None and not context.is_disconnect:
            release(context.connection)

    event.listen(engine, "before_cursor_execute", guard)
    event.listen(engine, "after_cursor_execute", release)
    event.listen(engine, "handle_error", release_after_error, insert=True)


def _raise_refusal(context: ExceptionContext, family: Family, server: Server) -> None:
    """Read-only is what the database says: always. No privilege: only for what was not a read anyway."""
    error = context.original_exception
    is_refusal = server.is_refusal(error) or (
        sqlstate_of(error) == _INSUFFICIENT_PRIVILEGE
        and context.statement is not None
        and not judge(context.statement, family).is_read
    )
    if not is_refusal:
        return
    connection = context.connection
    if server.aborts_transaction() and connection is not None and not connection.in_nested_transaction():
        # Nothing can be lost in it, and the next read must not fail with "current transaction is aborted".
        cast(Any, real_connection(connection)).rollback()
    raise refusal_by_server(error) from error
