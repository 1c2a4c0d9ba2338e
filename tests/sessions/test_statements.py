"""The statement layer: whatever reads passes, whatever else is refused, as each database cuts its SQL."""

from __future__ import annotations

import sqlite3
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError

from araponga_infra.sessions.lexer import Family
from araponga_infra.sessions.statements import judge
from tests.servers.postgres import PostgresDatabase
from tests.sessions import attempts, sql_grammar

PG, LITE, MY = Family.POSTGRESQL, Family.SQLITE, Family.MYSQL

READS_EVERYWHERE = (
    "SELECT 1",
    "select id, title from post where id = 1 order by 2",
    "SELECT 'DELETE FROM post; --', title AS update_me FROM post",
    "SELECT p.update, p.delete FROM post p",
    "SELECT count(*) OVER (PARTITION BY title ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM post",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT * FROM n",
    "WITH a AS (SELECT 1), b AS (SELECT * FROM a) SELECT * FROM b",
    "SELECT 1 /* DELETE FROM post */ -- DROP TABLE post",
    "SELECT 1;",
    "SELECT 1; SELECT 2; ;",
    "SELECT * FROM post WHERE id IN (SELECT post_id FROM comment) AND EXISTS (SELECT 1)",
    "EXPLAIN SELECT 1",
    "SAVEPOINT a",
    "RELEASE SAVEPOINT a",
    "ROLLBACK TO SAVEPOINT a",
    "VALUES (1), (2)",
    "SELECT id FROM post WHERE post.lock IN (1, 2) OR lock IN (3)",
    "",
)
READS = {
    PG: (
        *READS_EVERYWHERE,
        'SELECT "delete", update FROM "insert"',
        "SELECT (update) FROM t",
        "SELECT count(delete) FROM t WHERE x IN (update, delete)",
        "SELECT substring(title FROM 1 FOR 2) FROM post",
        "SELECT substring(title FOR update) FROM post",
        "SELECT 1 AS into, t.into FROM t",
        "SELECT $$ ; DELETE FROM post; $$, $tag$ $$ ; $tag$, $1",
        "SELECT E'\\'; DELETE FROM post; --'",
        "SELECT U&'d\\0061t\\+000061', B'1', X'ff', N'x'",
        "SELECT /* a /* nested */ ; DELETE */ 1",
        "(SELECT 1) UNION ALL (SELECT 2) ORDER BY 1",
        "((SELECT 1))",
        "TABLE post",
        "SELECT * FROM (VALUES (1, 2)) AS v(a, b)",
        "SELECT * FROM json_to_record('{}') AS x(update int, delete text)",
        "SELECT now(), pg_sleep(0), count_posts(), currval('counter'), pg_last_wal_replay_lsn()",
        "SELECT t FROM generate_series(1, 3) WITH ORDINALITY AS g(t, n) FETCH FIRST 2 ROWS WITH TIES",
        "SELECT timestamp with time zone '2026-01-01' AT TIME ZONE 'UTC'",
        "WITH a AS NOT MATERIALIZED (SELECT 1) SELECT * FROM a",
        "WITH RECURSIVE a(n) AS (SELECT 1 UNION ALL SELECT n FROM a) SEARCH DEPTH FIRST BY n SET o SELECT 1",
        "WITH RECURSIVE a(n) AS (SELECT 1 UNION ALL SELECT n FROM a WHERE n < 1) CYCLE n SET c USING p SELECT 1",
        "EXPLAIN UPDATE post SET title = 'x'",
        "EXPLAIN (FORMAT JSON, COSTS OFF) DELETE FROM post",
        "EXPLAIN (ANALYZE OFF) DELETE FROM post",
        "EXPLAIN ANALYZE SELECT 1",
        "EXPLAIN (ANALYZE, BUFFERS) WITH a AS (SELECT 1) SELECT * FROM a",
        "EXPLAIN (SELECT 1)",
        "SHOW server_version",
        "SHOW ALL",
        "SET LOCAL statement_timeout = '5s'",
        "SET LOCAL app.tenant = '7'",
        "SET LOCAL enable_seqscan = off",
        "SET LOCAL TIME ZONE 'UTC'",
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY, DEFERRABLE",
        "SELECT set_config('app.tenant', %(tenant)s, true)",
        "SELECT query_to_xml('SELECT 1', true, true, '')",
        "DECLARE c CURSOR FOR SELECT 1",
        "DECLARE c NO SCROLL CURSOR WITHOUT HOLD FOR SELECT 1",
        "DECLARE hold CURSOR FOR SELECT hold FROM post",
        "SELECT title FROM post WHERE title LIKE 'a\\_' ESCAPE '\\'",
        "SELECT E'a'\n'b\\', pg_notify(1) ' || 'x'",
        "SELECT 1 AS as, p.as FROM post p",
        "SELECT * FROM crosstab('SELECT 1', 'SELECT 2') AS t(a int)",
        "SELECT * FROM crosstab('SELECT 1', 2) AS t(a int)",
        "FETCH ALL FROM c",
        "MOVE 1 FROM c",
        "CLOSE c",
        "COPY post TO STDOUT",
        "COPY post (id, title) TO STDOUT WITH (FORMAT csv)",
        "COPY (SELECT * FROM post) TO STDOUT",
        "SELECT lo_get(1)",
        "SELECT 1FROM post",
    ),
    LITE: (
        *READS_EVERYWHERE,
        'SELECT [delete], `update`, "insert" FROM post',
        "SELECT 1 /* never closed",
        "EXPLAIN QUERY PLAN DELETE FROM post",
        "PRAGMA table_info(post)",
        'PRAGMA main.table_info("post")',
        "PRAGMA foreign_keys",
        "PRAGMA journal_mode",
        "SELECT * FROM pragma_table_info('post')",
        "BEGIN",
        "COMMIT",
        "SELECT replace(title, 'a', 'b') FROM post",
    ),
    MY: (
        *READS_EVERYWHERE,
        'SELECT "it\\"s", `update` FROM post # DELETE',
        "SELECT 1--1",
        "SELECT 'a\\'; DELETE FROM post; -- '",
        "SELECT /*+ MAX_EXECUTION_TIME(10) */ 1",
        "SHOW TABLES",
        "DESCRIBE post",
        "DESC post",
        "EXPLAIN FORMAT=JSON DELETE FROM post",
        "ANALYZE FORMAT=JSON SELECT 1",
    ),
}
WRITES = {
    PG: tuple(sql for sql in attempts.POSTGRESQL_TEXTS if sql != "SELECT rename_all()"),
    LITE: tuple(attempts.SQLITE_ONLY),
    MY: (
        "DELETE FROM post",
        "SELECT 1 /*! ; DELETE FROM post */",
        "SELECT /*M!100100 1 */ INTO OUTFILE 'x'",
        "SELECT 1--1; DELETE FROM post",
        "SELECT 'a\\\\'; DELETE FROM post; -- '",
        "SELECT * FROM post INTO OUTFILE '/tmp/x'",
        "SELECT * FROM post INTO @a",
        "SELECT * FROM post LOCK IN SHARE MODE",
        "SELECT * FROM post FOR UPDATE",
        "SELECT GET_LOCK('a', 1)",
        "SELECT get_lock ('a', 1)",
        "SELECT NEXT VALUE FOR counter",
        "SET SESSION TRANSACTION READ WRITE",
        "SET @a = 1",
        "START TRANSACTION READ WRITE",
        "HANDLER post OPEN",
        "REPLACE INTO post VALUES (1, 'x')",
        "LOAD DATA INFILE 'x' INTO TABLE post",
        "ANALYZE TABLE post",
        "ANALYZE UPDATE post SET title = 'x'",
        "DO SLEEP(0)",
        "USE other",
        "KILL 1",
        "LOCK TABLES post WRITE",
        "FLUSH TABLES",
        "CALL tidy()",
        "CREATE TEMPORARY TABLE t (a int)",
    ),
}


@pytest.mark.parametrize(("family", "sql"), [(family, sql) for family, reads in READS.items() for sql in reads])
def test_a_read_passes(family: Family, sql: str) -> None:
    assert judge(sql, family).reason == ""


@pytest.mark.parametrize(("family", "sql"), [(family, sql) for family, writes in WRITES.items() for sql in writes])
def test_what_is_no_read_is_refused(family: Family, sql: str) -> None:
    assert judge(sql, family).reason != ""


@pytest.mark.parametrize(
    "sql", ["SELECT 'open", 'SELECT "open', "SELECT 1 /* open", "SELECT (1", "SELECT 1)", 'SELECT U&"d\\0061t"(1)']
)
def test_what_cannot_be_read_to_its_end_is_refused(sql: str) -> None:
    assert not judge(sql, PG).is_read


def test_nesting_has_an_end() -> None:
    assert judge("SELECT " + "(" * 50 + "1" + ")" * 50, PG).is_read
    assert not judge("SELECT " + "(" * 5000 + "1" + ")" * 5000, PG).is_read


@given(sql_grammar.reads(PG))
def test_generated_reads_pass_on_postgresql(sql: str) -> None:
    assert judge(sql, PG).reason == ""


@given(sql_grammar.writes(PG))
def test_generated_writes_are_refused_on_postgresql(sql: str) -> None:
    assert not judge(sql, PG).is_read


@given(sql_grammar.reads(LITE))
def test_generated_reads_pass_and_run_on_sqlite(sql: str) -> None:
    assert judge(sql, LITE).reason == ""
    with_content().execute(sql).fetchall()


@given(st.one_of(sql_grammar.writes(LITE), sql_grammar.scrambled(LITE)))
def test_what_passes_never_changes_the_database_on_sqlite(sql: str) -> None:
    database = with_content()
    before = list(database.iterdump())
    if judge(sql, LITE).is_read:
        for statement in sql.split(";"):
            try:
                database.execute(statement).fetchall()
            except sqlite3.Error:
                continue
    assert list(database.iterdump()) == before


def test_what_passes_never_changes_the_database_on_postgresql(postgres_database: PostgresDatabase) -> None:
    engine = create_engine(postgres_database.url("psycopg"))
    with engine.begin() as connection:
        connection.exec_driver_sql(sql_grammar.SCHEMA)

    @given(st.one_of(sql_grammar.reads(PG), sql_grammar.writes(PG), sql_grammar.scrambled(PG)))
    def run(sql: str) -> None:
        if not judge(sql, PG).is_read:
            return
        with engine.connect() as connection:
            before = connection.exec_driver_sql(EVERYTHING).all()
            with suppress(DBAPIError), connection.begin_nested():
                connection.exec_driver_sql(sql)
            assert connection.exec_driver_sql(EVERYTHING).all() == before

    run()
    engine.dispose()


@given(st.text(max_size=60))
def test_any_text_gets_a_verdict(sql: str) -> None:
    for family in Family:
        assert isinstance(judge(sql, family).is_read, bool)


EVERYTHING = (
    "SELECT count(*), (SELECT string_agg(p::text, ';' ORDER BY id) FROM post p), "
    "(SELECT string_agg(c::text, ';' ORDER BY id) FROM comment c) FROM pg_class"
)
_content: list[sqlite3.Connection] = []


def with_content() -> sqlite3.Connection:
    if not _content:
        database = sqlite3.connect(":memory:", isolation_level=None)
        database.executescript(sql_grammar.SCHEMA)
        _content.append(database)
    return _content[0]
