"""The server layer: the database itself refuses to write, whatever the text looked like.

On an engine of our own each connection is made read-only once, when it is opened. On the host's engine a connection is
made read-only while it is checked out, and given back as it was.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeAlias

from sqlalchemy import Connection, Dialect, util
from sqlalchemy.pool import Pool, PoolProxiedConnection, SingletonThreadPool, StaticPool

from araponga_infra.errors import InvalidArgumentError
from araponga_infra.sessions.lexer import Family
from araponga_infra.sessions.pragmas import Gate, authorize

__all__ = [
    "MySQLServer",
    "PostgreSQLServer",
    "SQLiteServer",
    "Server",
    "Undo",
    "family_of",
    "server_for",
    "sqlstate_of",
]

Undo: TypeAlias = Callable[[Any], None]
"""Takes the DBAPI connection and makes it what it was."""


class Server(Protocol):
    """How one kind of database is kept from writing."""

    @property
    def guards_each_statement(self) -> bool:
        """Whether `arm` and `disarm` belong around each statement, since others use the connection at the same time."""
        ...

    @property
    def acts_at_begin(self) -> bool:
        """Whether `begin` does anything."""
        ...

    def connect(self, dialect: Dialect, arguments: list[Any], options: dict[str, Any], /) -> Any:
        """Open a connection for an engine of our own; None leaves it to SQLAlchemy."""
        ...

    def arm(self, dialect: Dialect, connection: Any, /) -> None:
        """Make a connection of our own read-only for good."""
        ...

    def disarm(self, dialect: Dialect, connection: Any, /) -> None:
        """Undo `arm`."""
        ...

    def arm_for_checkout(self, dialect: Dialect, checked_out: PoolProxiedConnection, /) -> Undo | None:
        """Make the host's connection read-only until the returned function is called."""
        ...

    def begin(self, connection: Connection, pooled: PoolProxiedConnection, is_own: bool, /) -> None:
        """What a transaction needs at its beginning."""
        ...

    def has_left_its_guard(self, driver: Any, /) -> bool:
        """Whether the driver's own connection would run a statement outside of what keeps it read-only."""
        ...

    def keeps_autocommit_read_only(self, dialect: Dialect, connection: Any, /) -> bool:
        """Whether statements outside of a transaction are refused as well."""
        ...

    def is_refusal(self, error: BaseException, /) -> bool:
        """Whether the database says: this session is read-only."""
        ...

    def aborts_transaction(self) -> bool:
        """Whether a refused statement takes its transaction along."""
        ...


def family_of(dialect: Dialect) -> Family:
    """The family of a dialect.

    Raises:
        InvalidArgumentError: a database whose connections we cannot make read-only.
    """
    name = "mysql" if dialect.name == "mariadb" else dialect.name
    try:
        return Family(name)
    except ValueError:
        raise InvalidArgumentError(
            f"{dialect.name} is not a database that a read-only session can guard: "
            "use PostgreSQL, SQLite, MySQL or MariaDB"
        ) from None


def server_for(dialect: Dialect, pool: Pool) -> Server:
    """The server layer for connections of `pool`.

    Raises:
        InvalidArgumentError: as `family_of`.
    """
    family = family_of(dialect)
    if family is Family.POSTGRESQL:
        return PostgreSQLServer(puts_off_begin=dialect.driver == "asyncpg")
    if family is Family.MYSQL:
        return MySQLServer()
    return SQLiteServer(is_shared=isinstance(pool, (StaticPool, SingletonThreadPool)))


def sqlstate_of(error: BaseException) -> str:
    """The SQLSTATE of a driver's error: psycopg 3 and asyncpg say `sqlstate`, psycopg2 `pgcode`."""
    return str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")


_READ_ONLY_TRANSACTION = "25006"
_STRINGS = "standard_conforming_strings"
_SETTING = "default_transaction_read_only"


class PostgreSQLServer:
    """Read-only as the connection's default, else READ ONLY in each BEGIN by the driver's own switch.

    Args:
        puts_off_begin: SQLAlchemy's adapter sends BEGIN with its first statement, before which the raw driver would run
            outside of the transaction.
    """

    guards_each_statement = False

    acts_at_begin = True

    def __init__(self, *, puts_off_begin: bool) -> None:
        self._puts_off_begin = puts_off_begin

    def connect(self, dialect: Dialect, arguments: list[Any], options: dict[str, Any]) -> Any:
        try:
            return dialect.connect(*arguments, **_with_read_only_default(dialect, options))
        except Exception as error:
            # A pooler that does not know the setting refuses the connection; each BEGIN still says READ ONLY.
            if "unsupported startup parameter" not in str(error):
                raise
        return dialect.connect(*arguments, **options)

    def arm(self, dialect: Dialect, connection: Any) -> None:
        _refuse_other_strings(dialect.get_driver_connection(connection))
        # READ ONLY in each BEGIN costs a tenth of a short read, so it is for where the default did not get through.
        if not self.keeps_autocommit_read_only(dialect, connection):
            _set_readonly(dialect, connection, True)

    def disarm(self, dialect: Dialect, connection: Any) -> None:
        _set_readonly(dialect, connection, False)

    def arm_for_checkout(self, dialect: Dialect, checked_out: PoolProxiedConnection) -> Undo | None:
        connection: Any = checked_out.dbapi_connection
        driver = dialect.get_driver_connection(connection)
        _refuse_other_strings(driver)
        if _is_in_transaction(driver):
            _run(connection, "SET TRANSACTION READ ONLY")
            return None
        before = dialect.get_readonly(connection)  # type: ignore[attr-defined]
        was_autocommit = bool(connection.autocommit)
        if was_autocommit:
            _leave_autocommit(dialect, connection)
        _set_readonly(dialect, connection, True)
        return partial(self._disarm, dialect, before, was_autocommit)

    def _disarm(self, dialect: Dialect, before: bool | None, was_autocommit: bool, connection: Any) -> None:
        if _is_in_transaction(dialect.get_driver_connection(connection)):
            connection.rollback()
        _set_readonly(dialect, connection, before)
        if was_autocommit:
            dialect.set_isolation_level(connection, "AUTOCOMMIT")

    def begin(self, connection: Connection, pooled: PoolProxiedConnection, is_own: bool) -> None:
        driver = pooled.driver_connection
        if _is_in_transaction(driver):
            return
        if is_own and _reported(driver, _SETTING) != "on":
            # Behind a pooler it never was; else a function that was called here has changed it.
            _set_readonly(connection.dialect, pooled.dbapi_connection, True)
        if not self._puts_off_begin:
            return
        adapter: Any = pooled.dbapi_connection
        try:
            util.await_only(adapter._start_transaction())
        except Exception as error:
            # As SQLAlchemy does for a BEGIN of its own: wrapped, and a lost connection is dropped from the pool.
            connection._handle_dbapi_exception(error, None, None, None, None)

    def keeps_autocommit_read_only(self, dialect: Dialect, connection: Any) -> bool:
        return _reported(dialect.get_driver_connection(connection), _SETTING) == "on"

    def has_left_its_guard(self, driver: Any) -> bool:
        """asyncpg runs what comes outside of a transaction at once; the others begin one, READ ONLY."""
        is_in_doubt = self._puts_off_begin and hasattr(driver, "is_in_transaction")
        return is_in_doubt and not driver.is_in_transaction() and _reported(driver, _SETTING) != "on"

    def is_refusal(self, error: BaseException) -> bool:
        return sqlstate_of(error) == _READ_ONLY_TRANSACTION

    def aborts_transaction(self) -> bool:
        return True


def _with_read_only_default(dialect: Dialect, options: dict[str, Any]) -> dict[str, Any]:
    if options.get("target_session_attrs") == "read-write":
        # A session that is read-only by default does not count as one that writes, on whatever server.
        options = {**options, "target_session_attrs": "primary"}
    if dialect.driver == "asyncpg":
        return {**options, "server_settings": {**options.get("server_settings", {}), _SETTING: "on"}}
    if dialect.driver in ("psycopg", "psycopg2"):
        return {**options, "options": f"{options.get('options', '')} -c {_SETTING}=on".strip()}
    return options


def _leave_autocommit(dialect: Dialect, connection: Any) -> None:
    connection.autocommit = False
    if connection.autocommit:  # asyncpg's adapter goes back to the level that was set last, which is this one
        dialect.set_isolation_level(connection, dialect.default_isolation_level or "READ COMMITTED")


def _set_readonly(dialect: Dialect, connection: Any, value: bool | None) -> None:
    dialect.set_readonly(connection, value)  # type: ignore[attr-defined]


def _is_in_transaction(driver: Any) -> bool:
    if hasattr(driver, "pgconn"):  # psycopg 3: its `info` costs twenty times as much
        return bool(driver.pgconn.transaction_status)
    if hasattr(driver, "is_in_transaction"):
        return bool(driver.is_in_transaction())
    return bool(driver.info.transaction_status)


def _reported(driver: Any, setting: str) -> str | None:
    if hasattr(driver, "pgconn"):
        reported: bytes | None = driver.pgconn.parameter_status(setting.encode())
        return None if reported is None else reported.decode()
    if hasattr(driver, "get_settings"):
        return getattr(driver.get_settings(), setting, None)
    value: str | None = driver.info.parameter_status(setting)
    return value


def _refuse_other_strings(driver: Any) -> None:
    if _reported(driver, _STRINGS) == "off":
        raise InvalidArgumentError(
            f"{_STRINGS} is off on this connection: a read-only session cannot tell where its strings end, "
            f"set it to on, as in ALTER ROLE ... SET {_STRINGS} = on"
        )


class MySQLServer:
    """The session READ ONLY on our own connections; on the host's, START TRANSACTION READ ONLY."""

    guards_each_statement = False
    acts_at_begin = True
    _REFUSED = 1792

    def connect(self, _dialect: Dialect, _arguments: list[Any], _options: dict[str, Any]) -> Any:
        return None

    def arm(self, _dialect: Dialect, connection: Any) -> None:
        _run(connection, "SET SESSION TRANSACTION READ ONLY")

    def disarm(self, _dialect: Dialect, connection: Any) -> None:
        _run(connection, "SET SESSION TRANSACTION READ WRITE")

    def arm_for_checkout(self, _dialect: Dialect, _checked_out: PoolProxiedConnection) -> Undo | None:
        return None

    def begin(self, _connection: Connection, pooled: PoolProxiedConnection, is_own: bool) -> None:
        if not is_own:
            _run(pooled.dbapi_connection, "START TRANSACTION READ ONLY")

    def has_left_its_guard(self, _driver: Any) -> bool:
        return False

    def keeps_autocommit_read_only(self, _dialect: Dialect, _connection: Any) -> bool:
        return False

    def is_refusal(self, error: BaseException) -> bool:
        return bool(error.args) and error.args[0] == self._REFUSED

    def aborts_transaction(self) -> bool:
        return False


def _run(connection: Any, statement: str) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
    finally:
        cursor.close()


_GATE = "araponga_infra.read_only_gate"
"""In a pooled connection's `info`: a weak reference, so that only the connection itself keeps its gate alive. Once the
host has set an authorizer of its own, there is no gate to be found any more, and the next checkout sets a new one."""


class SQLiteServer:
    """An authorizer: SQLite asks it about every action of every statement that it compiles.

    Args:
        is_shared: one DBAPI connection serves several checkouts at once, so that it is guarded only while a statement
            of a read-only session runs.
    """

    acts_at_begin = False
    _NOT_AUTHORIZED = 23

    def __init__(self, *, is_shared: bool) -> None:
        self.guards_each_statement = is_shared

    def connect(self, _dialect: Dialect, _arguments: list[Any], _options: dict[str, Any]) -> Any:
        return None

    def arm(self, dialect: Dialect, connection: Any) -> None:
        self._set_authorizer(dialect, connection, authorize)

    def disarm(self, dialect: Dialect, connection: Any) -> None:
        self._set_authorizer(dialect, connection, None)

    def arm_for_checkout(self, dialect: Dialect, checked_out: PoolProxiedConnection) -> Undo | None:
        if self.guards_each_statement:
            return None
        known = checked_out.info.get(_GATE)
        gate: Gate | None = None if known is None else known()
        if gate is None or gate.has_let_pass:
            gate = Gate()
            self._set_authorizer(dialect, checked_out.dbapi_connection, gate)
            checked_out.info[_GATE] = weakref.ref(gate)
        gate.is_closed = True
        return gate.open

    def _set_authorizer(self, dialect: Dialect, connection: Any, callback: Callable[..., int] | None) -> None:
        driver = dialect.get_driver_connection(connection)
        if hasattr(driver, "_execute"):  # aiosqlite: older releases have no set_authorizer of their own
            util.await_only(driver._execute(driver._conn.set_authorizer, callback))
        else:
            driver.set_authorizer(callback)

    def begin(self, _connection: Connection, _pooled: PoolProxiedConnection, _is_own: bool) -> None:
        """The guard is on the connection."""

    def has_left_its_guard(self, _driver: Any) -> bool:
        return False

    def keeps_autocommit_read_only(self, _dialect: Dialect, _connection: Any) -> bool:
        return True

    def is_refusal(self, error: BaseException) -> bool:
        return getattr(error, "sqlite_errorcode", None) == self._NOT_AUTHORIZED

    def aborts_transaction(self) -> bool:
        return False
