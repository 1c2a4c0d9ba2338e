"""The connection of a read-only engine: where SQLAlchemy's execution meets the statement layer and the server layer.

SQLAlchemy's own hooks would do for most of this, but an engine with any listener pays for all of them at every step,
which is more than the guards cost; and listeners for errors sit on the dialect, which the host's engine shares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, cast

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import PoolProxiedConnection

from araponga_infra.sessions.errors import ReadOnlyViolationError
from araponga_infra.sessions.raw import guarded_driver, refusal_by_server, refusal_of, unguarded
from araponga_infra.sessions.server import sqlstate_of
from araponga_infra.sessions.statements import judge

if TYPE_CHECKING:
    from araponga_infra.sessions.engines import ReadOnlyEngine

__all__ = ["ReadOnlyConnection", "refuse_opening_options"]

_INSUFFICIENT_PRIVILEGE = "42501"
_SEAMS = (
    "_begin_impl",
    "_commit_impl",
    "_cursor_execute",
    "_exec_insertmany_context",
    "_exec_single_context",
    "_handle_dbapi_exception",
    "_revalidate_connection",
    "_rollback_impl",
)


class ReadOnlyConnection(Connection):
    """Judges each statement, makes each transaction read-only, and translates the database's own refusal."""

    engine: ReadOnlyEngine  # pyright: ignore[reportIncompatibleVariableOverride] - the only one that makes these

    def __init__(self, engine: Any, connection: PoolProxiedConnection | None = None, **options: Any) -> None:
        # An engine's own options are set on the driver in here; they may open what was guarded at checkout.
        self._is_for_itself = is_opened = bool(engine._execution_options)
        super().__init__(engine, connection=_checked_out(engine) if connection is None else connection, **options)
        if is_opened:
            self._is_for_itself = False
            engine.guard_again(self.pooled)

    # The driver

    @property
    def connection(self) -> PoolProxiedConnection:
        if self._is_for_itself:
            return self.pooled
        return guarded_driver(self.pooled, self.engine.family, self.engine.server)

    @property
    def pooled(self) -> PoolProxiedConnection:
        """The driver's connection itself, for the guards' own use."""
        return self._dbapi_connection or super().connection

    def _revalidate_connection(self) -> PoolProxiedConnection:
        pooled: PoolProxiedConnection = unguarded(super()._revalidate_connection())
        self._dbapi_connection = pooled
        return pooled

    # Statements

    def _exec_single_context(self, dialect: Any, context: Any, statement: Any, parameters: Any) -> Any:
        engine = self.engine
        if not engine.judge(context.statement).is_read:
            self._check(context.statement, context.cursor)
        if engine.server.guards_each_statement:
            return self._guarded(super()._exec_single_context, dialect, context, statement, parameters)
        result = super()._exec_single_context(dialect, context, statement, parameters)
        engine.has_answered()
        return result

    def _exec_insertmany_context(self, dialect: Any, context: Any) -> Any:
        self._check(context.statement, context.cursor)
        return self._guarded(super()._exec_insertmany_context, dialect, context)

    def _cursor_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        self._check(statement, cursor)
        self._guarded(super()._cursor_execute, cursor, statement, parameters, context)

    def _check(self, statement: str, cursor: Any) -> None:
        refusal = refusal_of(statement, self.engine.family)
        if refusal is not None:
            cursor.close()
            raise refusal

    def _guarded(self, execute: Any, *arguments: Any) -> Any:
        """A database in memory has one connection for all, which is guarded only for the time of a statement."""
        server, dialect = self.engine.server, self.engine.dialect
        if not server.guards_each_statement:
            return execute(*arguments)
        pooled = self.pooled
        server.arm(dialect, pooled.dbapi_connection)
        try:
            return execute(*arguments)
        finally:
            if pooled.dbapi_connection is not None:
                server.disarm(dialect, pooled.dbapi_connection)

    # Transactions and options

    # SQLAlchemy asks for the driver's connection in these; nobody looks at what it gets.

    def _begin_impl(self, transaction: Any) -> None:
        engine = self.engine
        if engine.server.acts_at_begin:
            engine.server.begin(self, self.pooled, engine.is_own)
        self._is_for_itself = True
        try:
            super()._begin_impl(transaction)
        finally:
            self._is_for_itself = False

    def _rollback_impl(self) -> None:
        self._is_for_itself = True
        try:
            super()._rollback_impl()
        finally:
            self._is_for_itself = False

    def _commit_impl(self) -> None:
        self._is_for_itself = True
        try:
            super()._commit_impl()
        finally:
            self._is_for_itself = False

    def execution_options(self, **options: Any) -> Any:
        refuse_opening_options(options)
        if str(options.get("isolation_level", "")).upper() == "AUTOCOMMIT" and not self._keeps_autocommit_read_only():
            raise ReadOnlyViolationError(
                "AUTOCOMMIT would leave the read-only transaction: give the factory a URL instead of an engine, "
                "or read without it",
                layer="session",
            )
        self._is_for_itself = True
        try:
            return super().execution_options(**options)
        finally:
            self._is_for_itself = False

    def _keeps_autocommit_read_only(self) -> bool:
        engine = self.engine
        return engine.is_own and engine.server.keeps_autocommit_read_only(engine.dialect, self.pooled.dbapi_connection)

    # Errors

    def _handle_dbapi_exception(self, e: BaseException, *arguments: Any, **options: Any) -> NoReturn:
        try:
            super()._handle_dbapi_exception(e, *arguments, **options)
        except DBAPIError as error:
            if error.connection_invalidated:
                self.engine.has_lost_connection(e)
            elif self._is_refusal(e, error.statement):
                self._end_refused_transaction()
                raise refusal_by_server(e) from e
            raise

    def _is_refusal(self, error: BaseException, statement: str | None) -> bool:
        """Read-only is what the database says: always. No privilege: only for what was not a read anyway."""
        if self.engine.server.is_refusal(error):
            return True
        is_denied = sqlstate_of(error) == _INSUFFICIENT_PRIVILEGE
        return is_denied and statement is not None and not judge(statement, self.engine.family).is_read

    def _end_refused_transaction(self) -> None:
        """Nothing can be lost in it, and the next read must not fail with "current transaction is aborted"."""
        if self.engine.server.aborts_transaction() and not self.in_nested_transaction():
            cast(Any, self.pooled).rollback()


def _checked_out(engine: Any) -> PoolProxiedConnection:
    """As SQLAlchemy does it: an error of the driver comes out wrapped."""
    try:
        pooled: PoolProxiedConnection = engine.check_out()
    except engine.dialect.loaded_dbapi.Error as error:
        Connection._handle_dbapi_exception_noconnection(error, engine.dialect, engine)
        raise
    return pooled


def refuse_opening_options(options: Any) -> None:
    """Refuse an execution option that opens a read-only connection.

    Raises:
        ReadOnlyViolationError: `postgresql_readonly=False`.
    """
    if options.get("postgresql_readonly") is False:
        raise ReadOnlyViolationError(
            "postgresql_readonly=False would open a read-only session: use a session that may write", layer="session"
        )


for _seam in _SEAMS:
    if not hasattr(Connection, _seam):  # pragma: no cover - a release of SQLAlchemy that this one does not know
        raise ImportError(f"this release of SQLAlchemy has no Connection.{_seam}: read-only sessions cannot guard it")
