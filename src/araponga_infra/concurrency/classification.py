"""What an error means for a unit of work: one pure function, by SQLSTATE and driver code, never by exception class.

Codes: PostgreSQL manual, appendix A "Error Codes"; sqlite.org, "Result and Extended Result Codes"; MySQL 8.0 manual,
"Server Error Message Reference".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import cast

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm.exc import StaleDataError

from araponga_infra.concurrency.errors import ConcurrencyConflictError, PreconditionFailedError

__all__ = ["DriverCode", "Failure", "classify", "driver_code", "is_unreachable"]

_SERIALIZATION_STATES = frozenset({"40001", "40P01"})
_LOSS_STATES = frozenset({"57P01", "57P02", "57P03", "57P05"})
"""The server ends this connection: admin_shutdown, crash_shutdown, cannot_connect_now, idle_session_timeout."""
_LOSS_STATE_CLASS = "08"
_SQLITE_BUSY = 5
_SQLITE_PRIMARY_CODE = 0xFF
"""Extended codes keep the primary one in the low byte: BUSY_RECOVERY 261, BUSY_SNAPSHOT 517, BUSY_TIMEOUT 773."""
_MYSQL_CONFLICTS = frozenset({1205, 1213})
"""ER_LOCK_WAIT_TIMEOUT and ER_LOCK_DEADLOCK."""
_MYSQL_LOSSES = frozenset({1053, 1927, 2006, 2013, 2014, 2055, 4031})


class Failure(Enum):
    """What went wrong with an attempt."""

    STALE = "a row was not as expected; the rows' versions tell whether somebody else changed them"
    CONFLICT = "the database or the work itself reported a concurrent change"
    CONNECTION_LOST = "the connection was lost before COMMIT was sent"
    OUTCOME_UNKNOWN = "the connection was lost after COMMIT was sent"
    OTHER = "not a matter of concurrency"


@dataclass(frozen=True)
class DriverCode:
    """The code that a driver's error carries, whichever way that driver spells it."""

    sqlstate: str | None = None
    sqlite: int | None = None
    mysql: int | None = None


def classify(error: BaseException, *, is_committing: bool) -> Failure:
    """Tell what an attempt died of.

    Args:
        error: as it came out of the session or the work.
        is_committing: COMMIT had been sent, so that a lost connection leaves its outcome open.
    """
    if isinstance(error, PreconditionFailedError):
        return Failure.OTHER
    if isinstance(error, ConcurrencyConflictError):
        return Failure.CONFLICT
    if isinstance(error, StaleDataError):
        return Failure.STALE
    if is_connection_loss(error, is_committing=is_committing):
        return Failure.OUTCOME_UNKNOWN if is_committing else Failure.CONNECTION_LOST
    if isinstance(error, DBAPIError) and is_conflict_code(driver_code(error.orig)):
        return Failure.CONFLICT
    return Failure.OTHER


def is_conflict_code(code: DriverCode) -> bool:
    return (
        code.sqlstate in _SERIALIZATION_STATES
        or (code.sqlite is not None and code.sqlite & _SQLITE_PRIMARY_CODE == _SQLITE_BUSY)
        or code.mysql in _MYSQL_CONFLICTS
    )


def is_connection_loss(error: BaseException, *, is_committing: bool = False) -> bool:
    """Whether the connection is gone. While committing, an error without any server's code is taken for a loss."""
    if isinstance(error, DBAPIError):
        code = driver_code(error.orig)
        return error.connection_invalidated or _is_loss_code(code) or (is_committing and code == DriverCode())
    return is_committing and isinstance(error, (ConnectionError, TimeoutError, EOFError))


def is_unreachable(error: BaseException) -> bool:
    """Whether this may be a server that is down or restarting: a loss, or a connect that failed without its answer."""
    return is_connection_loss(error, is_committing=True)


def _is_loss_code(code: DriverCode) -> bool:
    state = code.sqlstate or ""
    return state.startswith(_LOSS_STATE_CLASS) or state in _LOSS_STATES or code.mysql in _MYSQL_LOSSES


def driver_code(error: BaseException | None) -> DriverCode:
    """Read the code from a driver's own error (`DBAPIError.orig`).

    psycopg 3 and asyncpg have `sqlstate`, psycopg2 `pgcode`, pg8000 a mapping with "C"; sqlite3 and aiosqlite
    `sqlite_errorcode`; mysql-connector and mariadb `errno`; PyMySQL, mysqlclient, aiomysql and asyncmy a number as
    first argument.
    """
    if error is None:
        return DriverCode()
    sqlite = getattr(error, "sqlite_errorcode", None)
    if isinstance(sqlite, int):
        return DriverCode(sqlite=sqlite)
    first = error.args[0] if error.args else None
    sqlstate = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if sqlstate is None and isinstance(first, dict):
        sqlstate = cast("dict[str, str]", first).get("C")
    number = getattr(error, "errno", None)
    mysql = number if isinstance(number, int) else first if isinstance(first, int) else None
    return DriverCode(sqlstate=sqlstate if isinstance(sqlstate, str) else None, mysql=mysql)
