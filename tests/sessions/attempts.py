"""Attempts to write, by every way that is known; each takes a session that must refuse it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import psycopg.sql
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    Sequence,
    Table,
    column,
    delete,
    func,
    insert,
    select,
    table,
    text,
    update,
)
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from tests.sessions.rigs import Comment, Post

Attempt = Callable[[Session], object]
POST = table("post", column("title"))


def _changed(session: Session) -> Post:
    post = session.get_one(Post, 1)
    post.title = "changed"
    return post


def _add(session: Session) -> None:
    session.add(Post(id=9, title="new"))


def _delete(session: Session) -> None:
    session.delete(session.get_one(Comment, 1))


def _in_turn(*steps: Attempt) -> Attempt:
    def attempt(session: Session) -> None:
        for step in steps:
            step(session)

    return attempt


def _through_cascade(session: Session) -> None:
    post = session.get_one(Post, 1)
    post.comments.append(Comment(id=9, body="new"))


def _begin_block(session: Session) -> None:
    session.rollback()
    with session.begin():
        _changed(session)


def _statement(sql: str) -> Attempt:
    def attempt(session: Session) -> None:
        session.execute(text(sql))

    return attempt


def driver_sql(sql: str) -> Attempt:
    def attempt(session: Session) -> None:
        session.connection().exec_driver_sql(sql)

    return attempt


def _engine_begin(session: Session) -> None:
    bind: Any = session.get_bind()
    with bind.begin() as connection:
        connection.execute(text("UPDATE post SET title = 'changed'"))


def _engine_with_options(session: Session) -> None:
    bind: Any = session.get_bind()
    with bind.execution_options(stream_results=False).connect() as connection:
        connection.execute(text("UPDATE post SET title = 'changed'"))
        connection.commit()


def _raw_connection(session: Session) -> None:
    bind: Any = session.get_bind()
    raw = bind.raw_connection()
    try:
        raw.cursor().execute("UPDATE post SET title = 'changed'")
        raw.commit()
    finally:
        raw.close()


def _invalidated(session: Session) -> None:
    connection = session.connection()
    connection.invalidate()
    session.rollback()
    session.connection().connection.cursor().execute("UPDATE post SET title = 'changed'")


def raw_cursor(sql: str) -> Attempt:
    def attempt(session: Session) -> None:
        connection = session.connection().connection
        cursor = connection.cursor()
        try:
            cursor.execute(sql)
            connection.commit()
        finally:
            cursor.close()

    return attempt


def _autocommit(session: Session) -> None:
    session.rollback()
    connection = session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
    connection.execute(text("UPDATE post SET title = 'changed'"))


def _autocommit_raw(session: Session) -> None:
    session.rollback()
    connection = session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
    connection.connection.cursor().execute("UPDATE post SET title = 'changed'")


def _open_by_option(session: Session) -> None:
    session.rollback()
    connection = session.connection(execution_options={"postgresql_readonly": False})
    connection.connection.cursor().execute("UPDATE post SET title = 'changed'")


def _open_by_engine_option(session: Session) -> None:
    bind: Any = session.get_bind()
    with bind.execution_options(postgresql_readonly=False).begin() as connection:
        connection.connection.cursor().execute("UPDATE post SET title = 'changed'")


def _in_two_statements(first: str, second: str) -> Attempt:
    def attempt(session: Session) -> None:
        session.execute(text(first))
        session.commit()
        session.execute(text(second))
        session.commit()

    return attempt


UNIT_OF_WORK: dict[str, Attempt] = {
    "add, flush": _in_turn(_add, Session.flush),
    "add, commit": _in_turn(_add, Session.commit),
    "add, close": _add,
    "dirty, flush": _in_turn(_changed, Session.flush),
    "dirty, commit": _in_turn(_changed, Session.commit),
    "dirty, close": _changed,
    "dirty, begin_nested": _in_turn(_changed, Session.begin_nested),
    "dirty in a begin block": _begin_block,
    "delete, flush": _in_turn(_delete, Session.flush),
    "delete, close": _delete,
    "through a cascade": _through_cascade,
    "merge": lambda s: s.merge(Post(id=1, title="changed")),
    "bulk_save_objects": lambda s: s.bulk_save_objects([Post(id=9, title="new")]),
    "bulk_insert_mappings": lambda s: s.bulk_insert_mappings(Post, [{"id": 9, "title": "new"}]),
    "bulk_update_mappings": lambda s: s.bulk_update_mappings(Post, [{"id": 1, "title": "changed"}]),
}

STATEMENTS: dict[str, Attempt] = {
    "insert()": lambda s: s.execute(insert(Post).values(id=9, title="new")),
    "insert() of many": lambda s: s.execute(insert(Post), [{"id": 8, "title": "a"}, {"id": 9, "title": "b"}]),
    "insert().returning()": lambda s: s.scalars(insert(Post).returning(Post), [{"id": 9, "title": "new"}]).all(),
    "update()": lambda s: s.execute(update(Post).values(title="changed")),
    "update() by key": lambda s: s.execute(update(Post), [{"id": 1, "title": "changed"}]),
    "delete()": lambda s: s.execute(delete(Comment)),
    "query.delete": lambda s: s.query(Comment).delete(),
    "query.update": lambda s: s.query(Post).update({"title": "changed"}),
    "core on the connection": lambda s: s.connection().execute(
        update(table("post", column("title"))).values(title="changed")
    ),
    "create()": lambda s: Table("other", MetaData(), Column("id", Integer)).create(s.connection()),
    "text INSERT": _statement("INSERT INTO post VALUES (9, 'new')"),
    "text DELETE": _statement("DELETE FROM comment"),
    "text in a comment's shadow": _statement("/* SELECT */ -- SELECT\n DELETE FROM comment"),
    "text after a string that looks open": _statement("SELECT 'it''s' ; DELETE FROM comment"),
    "driver SQL": driver_sql("UPDATE post SET title = 'changed'"),
    "get_bind().begin()": _engine_begin,
    "get_bind().execution_options()": _engine_with_options,
    "CREATE TABLE AS": _statement("CREATE TABLE copy AS SELECT * FROM post"),
    "TEMP table": _statement("CREATE TEMP TABLE scratch (a int)"),
    "DROP": _statement("DROP TABLE comment"),
    "ALTER": _statement("ALTER TABLE post ADD COLUMN extra int"),
    "several statements": driver_sql("SELECT 1; DELETE FROM comment"),
    "a second statement behind white space": driver_sql("SELECT 1;\n\t\v;DELETE FROM comment"),
    "AUTOCOMMIT": _autocommit,
}

RAW: dict[str, Attempt] = {
    "raw cursor": raw_cursor("UPDATE post SET title = 'changed'"),
    "raw cursor, DDL": raw_cursor("CREATE TABLE other (a int)"),
    "raw cursor, TEMP": raw_cursor("CREATE TEMP TABLE scratch AS SELECT 1 AS a"),
    "raw_connection()": _raw_connection,
    "after invalidate()": _invalidated,
    "AUTOCOMMIT and a raw cursor": _autocommit_raw,
}

SQLITE_ONLY: dict[str, Attempt] = {
    name: driver_sql(name)
    for name in (
        "PRAGMA user_version = 7",
        "PRAGMA user_version(7)",
        "PRAGMA main.user_version=7",
        "PRAGMA query_only = OFF",
        "PRAGMA writable_schema = ON",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA optimize",
        "ATTACH 'other.db' AS other",
        "DETACH main",
        "VACUUM",
        "VACUUM INTO 'copy.db'",
        "REINDEX",
        "ANALYZE",
        "REPLACE INTO post VALUES (1, 'changed')",
        "WITH one AS (SELECT 1) DELETE FROM comment",
        "WITH one AS (SELECT 1) INSERT INTO post SELECT 9, 'new'",
        "INSERT INTO post VALUES (9, 'new') RETURNING id",
        "SELECT load_extension('x')",
        "CREATE TEMP VIEW v AS SELECT 1",
        "CREATE TRIGGER t AFTER INSERT ON post BEGIN SELECT 1; END",
    )
}


SQLITE_RAW: dict[str, Attempt] = {
    f"raw: {sql}": raw_cursor(sql)
    for sql in (
        "PRAGMA user_version = 7",
        "PRAGMA query_only = OFF",
        "ATTACH 'other.db' AS other",
        "VACUUM",
        "VACUUM INTO 'copy.db'",
        "REINDEX",
        "ANALYZE",
        "WITH one AS (SELECT 1) DELETE FROM comment",
        "CREATE VIRTUAL TABLE v USING fts5(a)",
        "ALTER TABLE comment RENAME TO other",
        "DROP TABLE comment",
        "UPDATE sqlite_master SET sql = 'CREATE TABLE post (id)'",
    )
}

POSTGRESQL_TEXTS = (
    "WITH gone AS (DELETE FROM comment RETURNING id) SELECT * FROM gone",
    "WITH a AS (SELECT 1), b AS MATERIALIZED (UPDATE post SET title = 'changed' RETURNING id) SELECT * FROM b",
    "WITH a AS (WITH b AS (DELETE FROM comment RETURNING id) SELECT * FROM b) SELECT * FROM a",
    "WITH a AS (SELECT 1) DELETE FROM comment",
    "WITH a AS (SELECT 1) MERGE INTO post p USING post q ON p.id = q.id WHEN MATCHED THEN DELETE",
    "SELECT nextval('counter')",
    "SELECT pg_catalog.nextval('counter')",
    "SELECT \"nextval\"('counter')",
    "SELECT setval('counter', 7)",
    "SELECT * FROM post FOR UPDATE",
    "SELECT * FROM post FOR NO KEY UPDATE",
    "SELECT * FROM post FOR SHARE",
    "SELECT * FROM post FOR KEY SHARE SKIP LOCKED",
    "SELECT * FROM (SELECT * FROM post FOR UPDATE) AS locked",
    "EXPLAIN ANALYZE UPDATE post SET title = 'changed'",
    "EXPLAIN (COSTS, ANALYZE TRUE) DELETE FROM comment",
    "EXPLAIN ANALYSE DELETE FROM comment",
    "EXPLAIN (ANALYZE off, ANALYZE) SELECT pg_notify('a', 'b')",
    "EXPLAIN (\"analyze\") SELECT pg_notify('a', 'b')",
    "EXPLAIN (U&\"\\0061nalyze\") SELECT pg_notify('a', 'b')",
    "SELECT * INTO copy FROM post",
    "SELECT id INTO TEMP copy FROM post",
    "SELECT rename_all()",
    "SELECT 1; DELETE FROM comment",
    "SELECT $x$;$x$; DELETE FROM comment",
    "SELECT E'\\';--'; DELETE FROM comment",
    "SELECT '\\'; DELETE FROM comment; --'",
    "/* a /* b */ */ DELETE FROM comment",
    "SELECT 1 /* /* */ ; DELETE FROM comment */ */; DELETE FROM comment",
    "SELECT E'a'\n'b\\', '; COMMIT; DELETE FROM comment; --'",
    "SELECT e'a' -- '\n  'b\\', ' || pg_notify('a', 'b') || '--'",
    "SELECT 1 AS as INTO TEMP copy",
    "TRUNCATE comment",
    "SET TRANSACTION READ WRITE",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "SET default_transaction_read_only = off",
    "SET LOCAL transaction_read_only = off",
    "SET transaction_read_only TO off",
    "SELECT set_config('transaction_read_only', 'off', false)",
    "SELECT set_config('default_transaction_read_only', 'off', false)",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_xact_lock(1)",
    "SELECT pg_advisory_unlock_all()",
    "SELECT * FROM pg_advisory_lock_shared(1)",
    "SELECT pg_notify('a', 'b')",
    "SELECT lo_create(0)",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT pg_logical_emit_message(false, 'a', 'b')",
    "SELECT query_to_xml('SELECT pg_notify(''a'', ''b'')', true, true, '')",
    "SELECT query_to_xml(E'SELECT pg\\x5fnotify(''a'', ''b'')', true, true, '')",
    "SELECT query_to_xml(U&'SELECT pg\\005fnotify(''a'', ''b'')', true, true, '')",
    "SELECT query_to_xml('SELECT pg_no' || 'tify(''a'', ''b'')', true, true, '')",
    "SELECT query_to_xml('SELECT pg_no'\n'tify(''a'', ''b'')', true, true, '')",
    "SELECT * FROM crosstab('SELECT 1', 'SELECT pg_notify(''a'', ''b'')') AS t(a int)",
    "SELECT ts_rewrite('a', 'SELECT ''a''::tsquery, ''b''::tsquery FROM pg_notify(''a'', ''b'')')",
    "LISTEN a",
    "NOTIFY a, 'b'",
    "UNLISTEN *",
    "VACUUM post",
    "ANALYZE post",
    "CLUSTER post",
    "REINDEX TABLE post",
    "CHECKPOINT",
    "LOCK TABLE post",
    "DO $$ BEGIN DELETE FROM comment; END $$",
    "CALL tidy()",
    "PREPARE p AS DELETE FROM comment",
    "EXECUTE p",
    "DEALLOCATE ALL",
    "DISCARD ALL",
    "RESET ALL",
    "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM post",
    "SET ROLE pg_read_all_data",
    "SET LOCAL ROLE pg_read_all_data",
    "SET SESSION AUTHORIZATION araponga",
    "COMMIT",
    "ROLLBACK",
    "BEGIN READ WRITE",
    "START TRANSACTION READ WRITE",
    "PREPARE TRANSACTION 'x'",
    "COPY post FROM STDIN",
    "COPY post TO '/tmp/never'",
    "COPY (DELETE FROM comment RETURNING id) TO STDOUT",
    "GRANT SELECT ON post TO PUBLIC",
    "COMMENT ON TABLE post IS 'x'",
    "REFRESH MATERIALIZED VIEW titles",
    "INSERT INTO post VALUES (9, 'new') ON CONFLICT DO NOTHING RETURNING id",
    "ALTER SYSTEM SET work_mem = '1MB'",
)
POSTGRESQL_ONLY: dict[str, Attempt] = {
    **{sql: driver_sql(sql) for sql in POSTGRESQL_TEXTS},
    "Sequence.next_value()": lambda s: s.scalar(select(Sequence("counter").next_value())),
    "Sequence on the connection": lambda s: s.connection().scalar(Sequence("counter")),
    "with_for_update()": lambda s: s.scalars(select(Post).with_for_update()).all(),
    "get(with_for_update=True)": lambda s: s.get(Post, 1, with_for_update=True),
    "func.pg_notify": lambda s: s.scalar(select(func.pg_notify("a", "b"))),
    "select() over a writing cte": lambda s: s.execute(
        select(delete(Comment).returning(Comment.id).cte("gone").c.id)
    ).all(),
    "SET, then UPDATE": _in_two_statements("SET TRANSACTION READ WRITE", "UPDATE post SET title = 'changed'"),
    "set_config, then a CTE": _in_two_statements(
        "SELECT set_config('default_transaction_read_only', 'off', false)",
        "WITH a AS (UPDATE post SET title = 'changed' RETURNING 1) SELECT * FROM a",
    ),
    "postgresql_readonly=False": _open_by_option,
    "postgresql_readonly=False on the engine": _open_by_engine_option,
}


def _driver_copy(session: Session) -> None:
    """COPY as each driver offers it, past SQLAlchemy."""
    connection: Any = session.connection().connection
    driver = connection.driver_connection
    dialect = session.get_bind().dialect
    if dialect.driver == "asyncpg":
        await_only(driver.copy_records_to_table("post", records=[(9, "new")]))
    elif dialect.is_async:
        await_only(_copy_async(driver))
    elif dialect.driver == "psycopg":
        with driver.cursor() as cursor, cursor.copy("COPY post FROM STDIN") as copy:
            copy.write_row((9, "new"))
    else:
        driver.cursor().copy_expert("COPY post FROM STDIN", io.StringIO("9\tnew\n"))
    connection.commit()


async def _copy_async(driver: Any) -> None:
    async with driver.cursor() as cursor, cursor.copy("COPY post FROM STDIN") as copy:
        await copy.write_row((9, "new"))


def _driver_execute(session: Session) -> None:
    driver: Any = session.connection().connection.driver_connection
    outcome = driver.execute("UPDATE post SET title = 'changed'") if hasattr(driver, "execute") else None
    if outcome is None:
        driver.cursor().execute("UPDATE post SET title = 'changed'")
    elif hasattr(outcome, "__await__"):
        await_only(outcome)


def _awaited(outcome: Any) -> None:
    if hasattr(outcome, "__await__"):
        await_only(outcome)


def _driver(session: Session) -> Any:
    return session.connection().connection.driver_connection


def _call(name: str, *arguments: Any, **options: Any) -> Attempt:
    """A method of the driver's connection."""

    def attempt(session: Session) -> None:
        _awaited(getattr(_driver(session), name)(*arguments, **options))

    return attempt


def _after_ending(end: str) -> Attempt:
    """The driver's own execute, once the transaction that was made read-only is over."""

    def attempt(session: Session) -> None:
        connection: Any = session.connection().connection
        driver = connection.driver_connection
        getattr(connection, end)()
        _awaited((driver if hasattr(driver, "execute") else driver.cursor()).execute("SELECT rename_all()"))

    return attempt


def _transaction_of_the_driver(session: Session) -> None:
    connection: Any = session.connection().connection
    driver = connection.driver_connection
    connection.rollback()
    await_only(driver.transaction().start())
    await_only(driver.execute("SELECT rename_all()"))


def _through_the_cursor(session: Session) -> None:
    connection: Any = session.connection().connection.cursor().connection
    (connection if hasattr(connection, "execute") else connection.cursor()).execute("UPDATE post SET title = 'changed'")


def _run_async(session: Session) -> None:
    adapter: Any = session.connection().connection.dbapi_connection
    adapter.run_async(lambda driver: driver.execute("SELECT 1; UPDATE post SET title = 'changed'"))


def _callproc(session: Session) -> None:
    session.connection().connection.cursor().callproc("pg_notify", ["a", "b"])


def _composed(session: Session) -> None:
    session.connection().connection.cursor().execute(psycopg.sql.SQL("COMMIT; UPDATE post SET title = 'changed'"))


def _run_async_notify(session: Session) -> None:
    adapter: Any = session.connection().connection.dbapi_connection
    adapter.run_async(lambda driver: driver.execute("SELECT pg_notify('a', 'b')"))


def _by_engine_option(**options: Any) -> Attempt:
    def attempt(session: Session) -> None:
        bind: Any = session.get_bind()
        with bind.execution_options(**options).connect() as connection:
            connection.execute(text("SELECT rename_all()"))
            connection.commit()

    return attempt


def _opened_by_a_function(session: Session) -> None:
    session.execute(text("SELECT open_up()"))
    session.commit()
    session.execute(text("SELECT rename_all()"))


def _cursor_in_bytes(session: Session) -> None:
    session.connection().connection.cursor().execute(b"COMMIT; UPDATE post SET title = 'changed'")


def _cursor_by_keyword(session: Session) -> None:
    cursor: Any = session.connection().connection.cursor()
    name = "operation" if session.get_bind().dialect.driver == "asyncpg" else "query"
    cursor.execute(**{name: "COMMIT; UPDATE post SET title = 'changed'"})


POSTGRESQL_OPENED: dict[str, Attempt] = {
    "raw: in bytes": _cursor_in_bytes,
    "raw: by keyword": _cursor_by_keyword,
    "raw: after its ROLLBACK": _after_ending("rollback"),
    "raw: after its COMMIT": _after_ending("commit"),
    "engine option AUTOCOMMIT": _by_engine_option(isolation_level="AUTOCOMMIT"),
    "a function that opens what follows": _opened_by_a_function,
}
_PSYCOPG: dict[str, Attempt] = {
    "raw: composed": _composed,
    "raw: by keyword, on the driver's connection": _call("execute", query="UPDATE post SET title = 'changed'"),
    "raw: set_autocommit": _call("set_autocommit", True),
    "raw: set_read_only": _call("set_read_only", False),
    "raw: pgconn": lambda session: _driver(session).pgconn.exec_(b"UPDATE post SET title = 'changed'"),
}
OPENED_BY_DRIVER: dict[str, dict[str, Attempt]] = {
    "psycopg": {"raw: the connection of a cursor": _through_the_cursor, **_PSYCOPG},
    "async psycopg": {**_PSYCOPG, "raw: run_async": _run_async_notify},
    "psycopg2": {
        "raw: the connection of a cursor": _through_the_cursor,
        "raw: set_isolation_level": _call("set_isolation_level", 0),
        "raw: reset": _call("reset"),
        "raw: callproc": _callproc,
    },
    "asyncpg": {
        "raw: run_async": _run_async_notify,
        "raw: by keyword, on the driver's connection": _call("execute", query="UPDATE post SET title = 'changed'"),
        "raw: a transaction of the driver": _transaction_of_the_driver,
        "raw: reset": _call("reset"),
    },
    "pysqlite": {
        "raw: blobopen": _call("blobopen", "post", "title", 1),
        "raw: deserialize": _call("deserialize", b""),
        "raw: the connection of a cursor": _through_the_cursor,
    },
    "aiosqlite": {
        "raw: execute_fetchall": _call("execute_fetchall", "UPDATE post SET title = 'changed'"),
        "raw: run_async": _run_async,
    },
}
"""Ways that one driver has and others do not."""

POSTGRESQL_RAW: dict[str, Attempt] = {
    "raw: COPY on the driver's connection": _driver_copy,
    "raw: the driver's own execute": _driver_execute,
    "raw: function that writes": raw_cursor("SELECT rename_all()"),
    "raw: CTE": raw_cursor("WITH a AS (DELETE FROM comment RETURNING 1) SELECT * FROM a"),
    "raw: nextval": raw_cursor("SELECT nextval('counter')"),
}


def everything(*tables: dict[str, Attempt]) -> Iterator[tuple[str, Attempt]]:
    for names in tables:
        yield from names.items()
