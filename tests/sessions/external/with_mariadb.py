"""The bypass matrix on MariaDB.

Not collected by default, since it needs Debian's package: `pytest tests/sessions/external/with_mariadb.py`, with
pymysql and aiomysql installed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from araponga_infra.sessions import ReadOnlyViolationError
from tests.sessions import attempts, rigs
from tests.sessions.external.programs import mariadb
from tests.sessions.rigs import AsyncRig, Rig
from tests.sessions.test_matrix import assert_all_refused

pytestmark = pytest.mark.anyio

RIGS: dict[str, tuple[Any, str, bool]] = {
    "pymysql": (Rig, "mysql+pymysql", False),
    "pymysql, host's engine": (Rig, "mysql+pymysql", True),
    "pymysql, mariadb://": (Rig, "mariadb+pymysql", False),
    "aiomysql": (AsyncRig, "mysql+aiomysql", False),
    "aiomysql, host's engine": (AsyncRig, "mysql+aiomysql", True),
}
TEXTS = (
    "SET SESSION TRANSACTION READ WRITE",
    "SET TRANSACTION READ WRITE",
    "SET @@session.tx_read_only = 0",
    "START TRANSACTION READ WRITE",
    "SELECT 1 /*! INTO OUTFILE '/tmp/never' */",
    "/*!50000 DELETE FROM comment */",
    "/*M!100000 DELETE FROM comment */",
    "SELECT 1--1; DELETE FROM comment",
    "SELECT * FROM post FOR UPDATE",
    "SELECT * FROM post LOCK IN SHARE MODE",
    "SELECT GET_LOCK('a', 0)",
    "SELECT NEXT VALUE FOR counter",
    "SELECT NEXTVAL(counter)",
    "SELECT 1 INTO @a",
    "WITH a AS (SELECT 1) DELETE FROM comment",
    "REPLACE INTO post VALUES (1, 'changed')",
    "INSERT INTO post VALUES (9, 'new') RETURNING id",
    "CREATE TEMPORARY TABLE scratch (a int)",
    "ANALYZE UPDATE post SET title = 'changed'",
    "ANALYZE TABLE post",
    "LOCK TABLES post WRITE",
    "HANDLER post OPEN",
    "PREPARE p FROM 'DELETE FROM comment'",
    "EXECUTE IMMEDIATE 'DELETE FROM comment'",
    "CALL tidy()",
    "DO rename_all()",
    "FLUSH TABLES",
    "RENAME TABLE post TO other",
    "LOAD DATA INFILE 'x' INTO TABLE post",
)
SERVER_ONLY: dict[str, attempts.Attempt] = {
    "function that writes": lambda session: session.execute(text("SELECT rename_all()")),
    "raw cursor": attempts.raw_cursor("UPDATE post SET title = 'changed'"),
    "raw cursor, function that writes": attempts.raw_cursor("SELECT rename_all()"),
}
FILLING = (
    "CREATE SEQUENCE counter",
    "CREATE FUNCTION rename_all() RETURNS INT BEGIN UPDATE post SET title = 'changed'; RETURN 1; END",
    "CREATE PROCEDURE tidy() DELETE FROM comment",
)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with mariadb() as address:
        yield address


@pytest.fixture(params=RIGS)
async def rig(request: pytest.FixtureRequest, server: str) -> AsyncIterator[Rig]:
    kind, driver, by_engine = RIGS[request.param]
    admin = create_engine(f"mysql+pymysql://{server}/mysql")
    with admin.begin() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS content"))
        connection.execute(text("CREATE DATABASE content"))
    admin.dispose()
    made = kind(f"{driver}://{server}/content?charset=utf8mb4", by_engine=by_engine, pool_size=1, max_overflow=0)
    await rigs.fill(made, FILLING)
    yield made
    await made.close()


async def test_every_way_to_write_is_refused(rig: Rig) -> None:
    texts = {sql: attempts.driver_sql(sql) for sql in TEXTS}
    await assert_all_refused(rig, attempts.UNIT_OF_WORK, attempts.STATEMENTS, texts, SERVER_ONLY)

    def work(session: Session) -> None:
        session.get_one(rigs.Post, 1).title = "edited"
        session.execute(text("CREATE TABLE another (a int)"))
        session.execute(text("DROP TABLE another"))

    await rig.write(work)
    assert (await rigs.content(rig))[0] == (1, "edited")


async def test_reads_are_untouched_and_go_on_after_a_refusal(rig: Rig) -> None:
    def read(session: Session) -> Any:
        with pytest.raises(ReadOnlyViolationError) as refused:
            session.execute(text("SELECT rename_all()"))
        assert refused.value.layer == "server"
        with session.begin_nested():
            counted = session.query(rigs.Post).count()
        return counted, len(session.execute(text("SHOW TABLES")).all())

    assert await rig.run(read) == (2, 3)
