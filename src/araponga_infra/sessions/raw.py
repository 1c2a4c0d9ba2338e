"""The driver behind a read-only session: usable, and judged and translated like everything else.

SQLAlchemy's own execution does not come through here, only a caller who asks a connection for its driver.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from sqlalchemy.pool import PoolProxiedConnection

from araponga_infra.sessions.errors import ReadOnlyViolationError
from araponga_infra.sessions.lexer import Family
from araponga_infra.sessions.server import Server
from araponga_infra.sessions.statements import judge

__all__ = ["guarded_driver", "refusal_by_server", "refusal_of", "unguarded"]

_TAKE_SQL = frozenset(
    (
        "execute", "executemany", "executescript", "execute_insert", "execute_fetchall", "fetch", "fetchrow",
        "fetchval", "fetchmany", "prepare", "stream", "copy", "copy_expert", "copy_from_query", "cursor",
    )
)  # fmt: skip
_NAMES_OF_SQL = ("query", "sql", "operation", "statement", "command")
_OPEN_IT = frozenset(
    (
        "lobject", "set_session", "set_autocommit", "set_read_only", "set_isolation_level", "reset", "pgconn",
        "callproc", "set_authorizer", "add_listener", "enable_load_extension", "load_extension", "deserialize",
        "setconfig",
    )
)  # fmt: skip
_NEED_THE_TRANSACTION = _TAKE_SQL | {"transaction", "copy_records_to_table", "copy_to_table"}
_SET_TO_OPEN = frozenset(("autocommit", "read_only", "readonly"))


def refusal_of(statement: str, family: Family) -> ReadOnlyViolationError | None:
    """The error of the statement layer for what is not a read."""
    verdict = judge(statement, family)
    if verdict.is_read:
        return None
    return ReadOnlyViolationError(
        f"refused, nothing was written: {verdict.reason}. Use a session that may write", layer="statement"
    )


def refusal_by_server(error: BaseException) -> ReadOnlyViolationError:
    """The error of the server layer for what the database refused."""
    first_line = str(error).partition("\n")[0].rstrip(".")
    return ReadOnlyViolationError(
        f"refused by the database, nothing was written: {first_line}. Use a session that may write", layer="server"
    )


def _is_handle(value: object) -> bool:
    return any(hasattr(value, name) for name in ("__enter__", "__aenter__", "execute", "fetchone", "cursor"))


def _called_with_guarded(adapter: Any, work: Callable[[Any], Any], driver: Any) -> Any:
    return work(adapter._follow(driver))


def _driver_of(target: Any) -> Any:
    """The driver's own connection behind a pooled connection, an adapter or a cursor."""
    for name in ("dbapi_connection", "driver_connection", "connection"):
        target = getattr(target, name, target)
    return target


def guarded_driver(pooled: PoolProxiedConnection, family: Family, server: Server) -> PoolProxiedConnection:
    """A pooled connection for a caller who wants the driver itself."""
    return cast(PoolProxiedConnection, _Guarded(unguarded(pooled), family, server))


def unguarded(pooled: Any) -> Any:
    """What `guarded_driver` was made from, for SQLAlchemy's own use."""
    return pooled._target if type(pooled) is _Guarded else pooled


class _Guarded:
    """Stands for a driver's object and whatever its calls return that can be called again.

    SQL given to it is judged first; the database's "read-only" comes out as `ReadOnlyViolationError`.
    """

    __slots__ = ("_family", "_server", "_target")
    _family: Family
    _server: Server
    _target: Any

    def __init__(self, target: Any, family: Family, server: Server) -> None:
        object.__setattr__(self, "_target", target)
        object.__setattr__(self, "_family", family)
        object.__setattr__(self, "_server", server)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
        """Drivers ask `isinstance(connection, Connection)`."""
        return cast(Any, type(self._target))

    def __getattr__(self, name: str) -> Any:
        if name in _OPEN_IT:
            raise ReadOnlyViolationError(f"{name}() of the driver could open a read-only session", layer="session")
        value = getattr(self._target, name)
        if isinstance(value, type):
            return value
        if _is_handle(value):
            return self._follow(value)
        return self._guarded_call(name, value) if callable(value) else value

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SET_TO_OPEN:
            raise ReadOnlyViolationError(f"{name} of the driver could open a read-only session", layer="session")
        setattr(self._target, name, value)

    def _guarded_call(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any, **options: Any) -> Any:
            if name in _NEED_THE_TRANSACTION:
                self._check_transaction(name)
            if name in _TAKE_SQL:
                self._judge(name, arguments, options)
            if name == "run_async":
                # SQLAlchemy's adapters hand the driver's connection to the caller's function here.
                arguments = (partial(_called_with_guarded, self, arguments[0]), *arguments[1:])
            if name == "blobopen" and options.get("readonly") is not True:
                raise ReadOnlyViolationError("blobopen() without readonly=True could write", layer="session")
            return self._follow(self._translated(call, *arguments, **options))

        return guarded

    def _check_transaction(self, name: str) -> None:
        if self._server.has_left_its_guard(self._target):
            raise ReadOnlyViolationError(
                f"{name}() of the driver after COMMIT or ROLLBACK would run outside of the read-only transaction: "
                "ask the session for its connection again",
                layer="session",
            )

    def _judge(self, name: str, arguments: Sequence[Any], options: Mapping[str, Any]) -> None:
        given = arguments[0] if arguments else next((options[key] for key in _NAMES_OF_SQL if key in options), None)
        statement = self._text_of(given)
        # A cursor takes nothing, its class, or a name for one on the server; only asyncpg's takes a query.
        if name == "cursor" and (statement is None or statement.isidentifier()):
            return
        if statement is None:
            raise ReadOnlyViolationError(
                f"{name}() of the driver got a {type(given).__name__}: pass the statement as text, which can be judged",
                layer="statement",
            )
        refusal = refusal_of(statement, self._family)
        if refusal is not None:
            raise refusal

    def _text_of(self, given: Any) -> str | None:
        """psycopg takes bytes and composed statements, too."""
        if isinstance(given, bytes):
            return given.decode("utf-8", "surrogateescape")
        if hasattr(given, "as_string"):
            return str(given.as_string(_driver_of(self._target)))
        return given if isinstance(given, str) else None

    def _translated(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return call(*arguments, **options)
        except Exception as error:
            self._raise_translated(error)

    def _raise_translated(self, error: Exception) -> None:
        if self._server.is_refusal(error):
            raise refusal_by_server(error) from error
        raise error

    def _follow(self, result: Any) -> Any:
        if result is None:
            return None
        if inspect.iscoroutine(result):
            return self._awaited(result)
        return _Guarded(result, self._family, self._server) if _is_handle(result) else result

    async def _awaited(self, result: Awaitable[Any]) -> Any:
        try:
            return self._follow(await result)
        except Exception as error:
            self._raise_translated(error)

    def __await__(self) -> Any:
        return self._awaited(self._target).__await__()

    def __enter__(self) -> Any:
        return self._follow(self._translated(self._target.__enter__))

    def __exit__(self, *exception: object) -> Any:
        return self._translated(self._target.__exit__, *exception)

    async def __aenter__(self) -> Any:
        return await self._awaited(self._target.__aenter__())

    async def __aexit__(self, *exception: object) -> Any:
        return await self._awaited(self._target.__aexit__(*exception))

    def __iter__(self) -> Any:
        target: Any = self._target
        return iter(target)

    def __aiter__(self) -> Any:
        target: Any = self._target
        return target.__aiter__()

    def __repr__(self) -> str:
        return repr(self._target)
