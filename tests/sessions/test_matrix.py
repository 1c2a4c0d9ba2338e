"""Every known way to write, over every driver, on an engine of our own and on the host's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from araponga_infra.sessions import ReadOnlyViolationError
from tests.servers.postgres import PostgresServer
from tests.sessions import attempts, rigs
from tests.sessions.rigs import CONTENT, Rig

pytestmark = pytest.mark.anyio


@pytest.fixture(params=rigs.SQLITE)
async def sqlite(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    rig = rigs.sqlite_rig(request.param, str(tmp_path / "content.db"))
    await rigs.fill(rig)
    yield rig
    await rig.close()


@pytest.fixture(params=rigs.POSTGRESQL)
async def postgresql(request: pytest.FixtureRequest, postgres: PostgresServer) -> AsyncIterator[Rig]:
    kind, driver, by_engine = rigs.POSTGRESQL[request.param]
    with postgres.temporary_database() as database:
        rig = kind(database.url(driver), by_engine=by_engine, pool_size=1, max_overflow=0)
        await rigs.fill(rig, rigs.POSTGRESQL_ONLY)
        yield rig
        await rig.close()


async def outcome(rig: Rig, attempt: attempts.Attempt) -> str:
    try:
        await rig.run(attempt)
    except ReadOnlyViolationError:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


async def assert_all_refused(rig: Rig, *tables: dict[str, attempts.Attempt]) -> None:
    outcomes = {name: await outcome(rig, attempt) for name, attempt in attempts.everything(*tables)}
    assert {name: what for name, what in outcomes.items() if what != "refused"} == {}
    assert await rigs.content(rig) == CONTENT


def raw_attempts(rig: Rig) -> dict[str, attempts.Attempt]:
    """A database in memory is gone with the connection that is invalidated."""
    lasting = dict(attempts.RAW)
    if isinstance(rig.plain_engine.pool, StaticPool):
        del lasting["after invalidate()"]
    return lasting


def opened_by_driver(rig: Rig) -> dict[str, attempts.Attempt]:
    dialect = rig.plain_engine.dialect
    name = f"async {dialect.driver}" if dialect.is_async and dialect.driver == "psycopg" else dialect.driver
    return attempts.OPENED_BY_DRIVER[name]


async def assert_an_ordinary_session_writes(rig: Rig) -> None:
    def work(session: Session) -> None:
        session.get_one(rigs.Post, 1).title = "edited"
        session.execute(text("CREATE TABLE another (a int)"))
        session.execute(text("CREATE TEMP TABLE temporary (a int)"))
        session.execute(text("DROP TABLE temporary"))
        session.execute(text("DROP TABLE another"))

    await rig.write(work)
    assert (await rigs.content(rig))[0] == (1, "edited")


async def test_every_way_to_write_is_refused_on_sqlite(
    sqlite: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    await assert_all_refused(sqlite, attempts.UNIT_OF_WORK, attempts.STATEMENTS, attempts.SQLITE_ONLY)
    await assert_all_refused(sqlite, attempts.SQLITE_RAW, raw_attempts(sqlite), opened_by_driver(sqlite))
    assert not (tmp_path / "other.db").exists()
    assert not (tmp_path / "copy.db").exists()
    await assert_an_ordinary_session_writes(sqlite)


async def test_every_way_to_write_is_refused_on_postgresql(postgresql: Rig) -> None:
    await assert_all_refused(postgresql, attempts.UNIT_OF_WORK, attempts.STATEMENTS, attempts.POSTGRESQL_ONLY)
    await assert_all_refused(postgresql, attempts.RAW, attempts.POSTGRESQL_RAW, attempts.POSTGRESQL_OPENED)
    await assert_all_refused(postgresql, opened_by_driver(postgresql))
    await assert_an_ordinary_session_writes(postgresql)
