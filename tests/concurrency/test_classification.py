"""What an error means, by SQLSTATE and driver code: a table with the errors of every supported driver."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, cast

import asyncpg  # type: ignore[import-untyped]
import psycopg
import psycopg2  # type: ignore[import-untyped]
import psycopg2.errors  # type: ignore[import-untyped]
import pymysql
import pytest
from mysql.connector import errors as mysql_connector
from sqlalchemy import create_engine, text
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import DBAPIError, IntegrityError, InternalError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from araponga_infra.concurrency import ConcurrencyConflictError, PreconditionFailedError
from araponga_infra.concurrency.classification import DriverCode, Failure, classify, driver_code


def wrapped(original: BaseException, kind: type[DBAPIError] = OperationalError, *, lost: bool = False) -> DBAPIError:
    return kind("UPDATE post", {}, original, connection_invalidated=lost)


def asyncpg_error(original: Exception) -> Exception:
    """As SQLAlchemy's adapter hands it on: the newer ones keep the SQLSTATE themselves, older ones had it set."""
    adapted: Any = AsyncAdapt_asyncpg_dbapi.Error
    error: Any = adapted(str(original), original)
    error.sqlstate = original.sqlstate  # type: ignore[attr-defined]
    return cast("Exception", error)


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = code
    return error


def pg8000_error(sqlstate: str) -> Exception:
    return Exception({"S": "ERROR", "C": sqlstate, "M": "could not serialize access"})


class MariadbError(Exception):
    """The shape of mariadb.Error, whose wheel needs a C client library."""

    def __init__(self, errno: int, sqlstate: str) -> None:
        super().__init__("Deadlock found when trying to get lock")
        self.errno = errno
        self.sqlstate = sqlstate


CONFLICTS: dict[str, BaseException] = {
    "psycopg 40001": psycopg.errors.SerializationFailure(),
    "psycopg 40P01": psycopg.errors.DeadlockDetected(),
    "psycopg2 40001": type("E", (psycopg2.errors.SerializationFailure,), {"pgcode": "40001"})(),
    "psycopg2 40P01": type("E", (psycopg2.errors.DeadlockDetected,), {"pgcode": "40P01"})(),
    "asyncpg 40001": asyncpg_error(asyncpg.SerializationError("no")),
    "asyncpg 40P01": asyncpg_error(asyncpg.DeadlockDetectedError("no")),
    "pg8000 40001": pg8000_error("40001"),
    "sqlite BUSY": sqlite_error(5),
    "sqlite BUSY_RECOVERY": sqlite_error(261),
    "sqlite BUSY_SNAPSHOT": sqlite_error(517),
    "sqlite BUSY_TIMEOUT": sqlite_error(773),
    "PyMySQL 1205": pymysql.err.OperationalError(1205, "Lock wait timeout exceeded"),
    "PyMySQL 1213": pymysql.err.OperationalError(1213, "Deadlock found"),
    "mysql-connector 1205": mysql_connector.DatabaseError("Lock wait timeout", errno=1205, sqlstate="HY000"),
    "mysql-connector 1213": mysql_connector.InternalError("Deadlock found", errno=1213, sqlstate="40001"),
    "mariadb 1213": MariadbError(1213, "40001"),
}

LOSSES: dict[str, DBAPIError] = {
    "psycopg 57P01": wrapped(psycopg.errors.AdminShutdown()),
    "psycopg broken": wrapped(psycopg.OperationalError("consuming input failed"), lost=True),
    "psycopg2 broken": wrapped(psycopg2.OperationalError("server closed the connection"), lost=True),
    "asyncpg 08003": wrapped(asyncpg_error(asyncpg.ConnectionDoesNotExistError("closed")), DBAPIError),
    "asyncpg 57P02": wrapped(asyncpg_error(asyncpg.CrashShutdownError("crash")), DBAPIError),
    "PyMySQL 2013": wrapped(pymysql.err.OperationalError(2013, "Lost connection")),
    "mysql-connector 2006": wrapped(mysql_connector.OperationalError("gone away", errno=2006)),
}

OTHERS: dict[str, BaseException] = {
    "unique violation, psycopg": wrapped(psycopg.errors.UniqueViolation(), IntegrityError),
    "unique violation, asyncpg": wrapped(asyncpg_error(asyncpg.UniqueViolationError("twice")), IntegrityError),
    "unique violation, sqlite": wrapped(sqlite_error(2067), IntegrityError),
    "duplicate entry, PyMySQL": wrapped(pymysql.err.IntegrityError(1062, "Duplicate entry"), IntegrityError),
    "statement timeout": wrapped(psycopg.errors.QueryCanceled()),
    "lock not available": wrapped(psycopg.errors.LockNotAvailable()),
    "aborted transaction": wrapped(psycopg.errors.InFailedSqlTransaction(), InternalError),
    "sqlite LOCKED": wrapped(sqlite_error(6)),
    "the same class with another code": wrapped(psycopg.errors.DiskFull()),
    "a driver's error that was not wrapped": psycopg.errors.SerializationFailure(),
    "the work's own": ValueError("mine"),
    "a failed precondition": PreconditionFailedError(),
    "a connection of the work's own": ConnectionResetError(),
}


@pytest.mark.parametrize("name", CONFLICTS)
@pytest.mark.parametrize("kind", [OperationalError, DBAPIError, InternalError])
@pytest.mark.parametrize("is_committing", [False, True])
def test_concurrent_changes_by_code_whatever_the_class(name: str, kind: type[DBAPIError], is_committing: bool) -> None:
    assert classify(wrapped(CONFLICTS[name], kind), is_committing=is_committing) is Failure.CONFLICT


@pytest.mark.parametrize("name", LOSSES)
def test_a_lost_connection_leaves_the_outcome_open_only_after_commit_was_sent(name: str) -> None:
    assert classify(LOSSES[name], is_committing=False) is Failure.CONNECTION_LOST
    assert classify(LOSSES[name], is_committing=True) is Failure.OUTCOME_UNKNOWN


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_a_matter_of_concurrency(name: str) -> None:
    assert classify(OTHERS[name], is_committing=False) is Failure.OTHER


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), EOFError()], ids=repr)
def test_a_bare_network_error_during_commit_leaves_the_outcome_open(error: Exception) -> None:
    """asyncpg's and the event loop's own errors are not always wrapped."""
    assert classify(error, is_committing=True) is Failure.OUTCOME_UNKNOWN


def test_an_error_without_a_code_during_commit_leaves_the_outcome_open() -> None:
    assert classify(wrapped(psycopg.OperationalError("?")), is_committing=True) is Failure.OUTCOME_UNKNOWN


def test_a_server_that_refuses_the_commit_has_decided() -> None:
    deferred = wrapped(psycopg.errors.ForeignKeyViolation(), IntegrityError)
    assert classify(deferred, is_committing=True) is Failure.OTHER


def test_stale_rows_and_conflicts_of_others_code() -> None:
    assert classify(StaleDataError(), is_committing=False) is Failure.STALE
    assert classify(ConcurrencyConflictError(), is_committing=False) is Failure.CONFLICT


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, DriverCode()),
        (psycopg.errors.DeadlockDetected(), DriverCode(sqlstate="40P01")),
        (sqlite_error(517), DriverCode(sqlite=517)),
        (pymysql.err.OperationalError(1213, ""), DriverCode(mysql=1213)),
        (pg8000_error("40001"), DriverCode(sqlstate="40001")),
        (OSError(111, "refused"), DriverCode(mysql=111)),
    ],
)
def test_reading_a_drivers_code(error: BaseException | None, code: DriverCode) -> None:
    assert driver_code(error) == code


def test_a_busy_sqlite_file_has_that_code(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'busy.db'}", connect_args={"timeout": 0})
    with engine.connect() as writer, Session(engine) as session:
        writer.execute(text("CREATE TABLE t (i)"))
        writer.exec_driver_sql("BEGIN IMMEDIATE")
        busy: Any
        with pytest.raises(OperationalError) as busy:
            session.execute(text("INSERT INTO t VALUES (1)"))
        assert classify(busy.value, is_committing=False) is Failure.CONFLICT
    engine.dispose()
