"""Reading stays natural: what a read-only session does when nothing, or something, goes wrong."""

from __future__ import annotations

import asyncio
import gc
import pickle
import sqlite3
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, inspect, select, text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, selectinload
from sqlalchemy.pool import QueuePool, StaticPool
from sqlalchemy.util import await_only

from araponga_infra import InvalidArgumentError
from araponga_infra.sessions import (
    AsyncReadOnlySessionFactory,
    ReadOnlySession,
    ReadOnlySessionFactory,
    ReadOnlyViolationError,
)  # fmt: skip
from tests.servers.postgres import PostgresDatabase, PostgresServer
from tests.sessions import attempts, rigs
from tests.sessions.rigs import Comment, Post, Rig

pytestmark = pytest.mark.anyio
EVERY_RIG = [*rigs.SQLITE, *(name for name in rigs.POSTGRESQL if "psycopg2" not in name)]


@pytest.fixture(params=EVERY_RIG)
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    if request.param in rigs.SQLITE:
        made = rigs.sqlite_rig(request.param, str(tmp_path / "content.db"))
        await rigs.fill(made)
        yield made
        await made.close()
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    kind, driver, by_engine = rigs.POSTGRESQL[request.param]
    with server.temporary_database() as database:
        made = kind(database.url(driver), by_engine=by_engine, pool_size=1, max_overflow=0)
        await rigs.fill(made, rigs.POSTGRESQL_ONLY)
        yield made
        await made.close()


def change(session: Session) -> Post:
    post = session.get_one(Post, 1)
    post.title = "changed"
    return post


async def test_reads_are_untouched(rig: Rig) -> None:
    def read(session: Session) -> Any:
        posts = session.scalars(select(Post).options(selectinload(Post.comments)).order_by(Post.id)).all()
        lazily = session.get_one(Comment, 1).post.title
        streamed = [post.id for post in session.scalars(select(Post).order_by(Post.id).execution_options(yield_per=1))]
        counted = session.scalar(text("WITH p AS (SELECT * FROM post) SELECT count(*) FROM p"))
        with session.begin_nested():
            nested = session.query(Post).count()
        session.commit()
        return [post.title for post in posts], lazily, streamed, counted, nested

    assert await rig.run(read) == (["first", "second"], "first", [1, 2], 2, 2)


async def test_a_select_with_changed_objects_is_not_flushed_first(rig: Rig) -> None:
    def read(session: Session) -> int:
        change(session)
        session.add(Post(id=9, title="new"))
        seen = len(session.scalars(select(Post)).all()) + session.query(Post).count()
        session.rollback()
        return seen

    assert await rig.run(read) == 4


async def test_a_refused_commit_rolls_back_and_the_session_reads_on(rig: Rig) -> None:
    def read(session: Session) -> str:
        post = change(session)
        with pytest.raises(ReadOnlyViolationError) as refused:
            session.commit()
        assert refused.value.layer == "session"
        return post.title

    assert await rig.run(read) == "first"


async def test_a_refused_flush_in_a_begin_block_is_raised_once(rig: Rig) -> None:
    def read(session: Session) -> None:
        with pytest.raises(ReadOnlyViolationError), session.begin():
            change(session)
        assert session.get_one(Post, 1).title == "first"

    await rig.run(read)


async def test_a_refused_statement_leaves_the_transaction_readable(rig: Rig) -> None:
    def read(session: Session) -> str:
        for sql in ("UPDATE post SET title = 'x'", "DELETE FROM comment"):
            with pytest.raises(ReadOnlyViolationError) as refused:
                session.execute(text(sql))
            assert refused.value.layer == "statement"
        return session.get_one(Post, 1).title

    assert await rig.run(read) == "first"


@pytest.mark.parametrize("rig", list(rigs.POSTGRESQL), indirect=True)
async def test_what_only_the_server_can_refuse_is_wrapped_and_reading_goes_on(rig: Rig) -> None:
    def read(session: Session) -> str:
        with pytest.raises(ReadOnlyViolationError) as refused:
            session.execute(text("SELECT rename_all()"))
        assert refused.value.layer == "server"
        assert refused.value.__cause__ is not None
        assert session.scalar(text("SELECT count_posts()")) == 2
        return session.get_one(Post, 1).title

    assert await rig.run(read) == "first"


@pytest.mark.parametrize("rig", list(rigs.POSTGRESQL), indirect=True)
async def test_a_missing_grant_on_a_read_is_not_called_a_violation(rig: Rig) -> None:
    await rig.write(lambda s: s.execute(text("CREATE TABLE secret (a int)")))
    await rig.write(lambda s: s.execute(text("CREATE ROLE reader_only NOLOGIN")))
    try:

        def read(session: Session) -> None:
            driver: Any = session.connection()
            driver.pooled.dbapi_connection.cursor().execute("SET LOCAL ROLE reader_only")
            with pytest.raises(DBAPIError) as denied:
                session.execute(text("SELECT * FROM secret"))
            assert isinstance(denied.value, (ProgrammingError, DBAPIError))

        await rig.run(read)
    finally:
        await rig.write(lambda s: s.execute(text("DROP ROLE reader_only")))


@pytest.mark.parametrize("rig", [name for name in rigs.SQLITE if "in memory" not in name], indirect=True)
async def test_sqlite_itself_refuses_what_gets_past_the_text(rig: Rig) -> None:
    def read(session: Session) -> None:
        connection: Any = session.connection()
        with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
            connection.pooled.dbapi_connection.cursor().execute("UPDATE post SET title = 'changed'")

    await rig.run(read)


async def test_a_connection_of_another_engine_is_guarded(rig: Rig) -> None:
    def read(session: Session) -> None:
        connection = session.connection(bind_arguments={"bind": rig.plain_engine})
        with pytest.raises(ReadOnlyViolationError):
            connection.execute(text("UPDATE post SET title = 'changed'"))

    await rig.run(read)
    assert await rigs.content(rig) == rigs.CONTENT


async def test_the_isolation_level_can_be_asked_for_and_set(rig: Rig) -> None:
    def read(session: Session) -> str:
        connection = session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
        return connection.get_isolation_level()

    assert await rig.run(read) == "SERIALIZABLE"


async def test_tables_can_be_inspected(rig: Rig) -> None:
    def read(session: Session) -> Any:
        inspector = inspect(session.connection())
        columns = [column["name"] for column in inspector.get_columns("post")]
        return sorted(inspector.get_table_names()), columns, len(inspector.get_foreign_keys("comment"))

    assert await rig.run(read) == (["comment", "post"], ["id", "title"], 1)


@pytest.mark.parametrize("rig", list(rigs.SQLITE), indirect=True)
async def test_what_virtual_tables_do_to_answer_a_read_is_no_write(rig: Rig) -> None:
    def fill(session: Session) -> None:
        session.execute(text("CREATE VIRTUAL TABLE words USING fts5(body)"))
        session.execute(text("INSERT INTO words SELECT 'feira de trocas'"))

    def read(session: Session) -> Any:
        found = text("SELECT snippet(words, 0, '[', ']', '', 9) FROM words WHERE words MATCH 'feira' ORDER BY rank")
        keys = text("SELECT key FROM json_each('{\"a\": 1}')")
        return session.scalar(found), session.scalar(keys)

    await rig.write(fill)
    assert await rig.run(read) == ("[feira] de trocas", "a")


async def test_the_drivers_own_reads_pass(rig: Rig) -> None:
    def read(session: Session) -> Any:
        cursor = session.connection().connection.cursor()
        cursor.execute("SELECT title FROM post ORDER BY id")
        return [tuple(row) for row in cursor.fetchall()]

    assert await rig.run(read) == [("first",), ("second",)]


@pytest.mark.parametrize("rig", [name for name in rigs.POSTGRESQL if "host" in name], indirect=True)
@pytest.mark.parametrize("level", ["AUTOCOMMIT", "REPEATABLE READ"])
async def test_an_engine_of_the_host_with_a_level_of_its_own_is_read(rig: Rig, level: str) -> None:
    """A replica's engine often is in AUTOCOMMIT; its connections are, again, once they are given back."""
    if isinstance(rig, rigs.AsyncRig):
        leveled = rig.async_engine.execution_options(isolation_level=level)
        async with AsyncReadOnlySessionFactory(leveled)() as session:
            await session.run_sync(read_and_be_refused)
    else:
        with ReadOnlySessionFactory(rig.plain_engine.execution_options(isolation_level=level))() as reading:
            read_and_be_refused(reading)
    await rig.write(lambda session: session.execute(text("UPDATE post SET title = 'edited' WHERE id = 1")))
    assert (await rigs.content(rig))[0] == (1, "edited")


def read_and_be_refused(session: Session) -> None:
    assert session.get_one(Post, 1).title == "first"
    with pytest.raises(ReadOnlyViolationError):
        session.execute(text("SELECT rename_all()"))


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg"])
@pytest.mark.parametrize("by_engine", [False, True])
async def test_an_engine_made_in_autocommit_is_read_and_stays_so(
    postgres_database: PostgresDatabase, driver: str, by_engine: bool
) -> None:
    kind: Any = rigs.AsyncRig if driver == "asyncpg" else Rig
    filling = kind(postgres_database.url(driver))
    await rigs.fill(filling, rigs.POSTGRESQL_ONLY)
    await filling.close()
    rig = kind(postgres_database.url(driver), by_engine=by_engine, isolation_level="AUTOCOMMIT", pool_size=1)
    await rig.run(read_and_be_refused)
    update = text("UPDATE post SET title = 'edited' WHERE id = 1")
    if kind is Rig:
        with rig.plain_engine.connect() as connection:
            connection.execute(update)
    else:
        async with rig.async_engine.connect() as connection:
            await connection.execute(update)
    assert (await rigs.content(rig))[0] == (1, "edited")
    await rig.close()


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg"])
@pytest.mark.parametrize("by_engine", [False, True])
async def test_a_server_that_cuts_strings_otherwise_is_refused(
    postgres_database: PostgresDatabase, driver: str, by_engine: bool
) -> None:
    """There a backslash hides the quote that ends a string, where the statement layer sees it end."""
    postgres_database.execute(f"ALTER DATABASE {postgres_database.name} SET standard_conforming_strings = off")
    kind: Any = rigs.AsyncRig if driver == "asyncpg" else Rig
    rig = kind(postgres_database.url(driver), by_engine=by_engine)
    with pytest.raises(InvalidArgumentError, match="standard_conforming_strings is off"):
        await rig.run(lambda session: session.scalar(text("SELECT 1")))
    await rig.close()


def pooled(session: Session) -> Any:
    """The driver's connection past the statement layer, so that only the database itself is left to refuse."""
    connection: Any = session.connection()
    return connection.pooled.dbapi_connection


HOSTS_FILES = ["sqlite, host's engine", "aiosqlite, host's engine"]


@pytest.mark.parametrize("rig", HOSTS_FILES, indirect=True)
async def test_sqlite_refuses_again_what_the_host_had_it_compile_before(rig: Rig) -> None:
    """The driver keeps compiled statements, which SQLite runs again without asking its authorizer."""
    write = "UPDATE post SET title = 'from the host'"

    def refused(session: Session) -> None:
        with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
            pooled(session).cursor().execute(write)

    for _ in range(2):
        await rig.run(lambda session: session.get_one(Post, 1))
        await rig.write(lambda session: pooled_by_host(session).cursor().execute(write))
        await rig.run(refused)


def pooled_by_host(session: Session) -> Any:
    return session.connection().connection.dbapi_connection


@pytest.mark.parametrize("rig", HOSTS_FILES, indirect=True)
async def test_sqlite_refuses_after_the_host_has_set_an_authorizer_of_its_own(rig: Rig) -> None:
    def allow_everything(session: Session) -> None:
        driver: Any = session.connection().connection.driver_connection
        if hasattr(driver, "_execute"):
            await_only(driver._execute(driver._conn.set_authorizer, None))
        else:
            driver.set_authorizer(None)

    def refused(session: Session) -> None:
        with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
            pooled(session).cursor().execute("UPDATE post SET title = 'changed'")

    await rig.run(refused)
    await rig.write(allow_everything)
    await rig.run(refused)


@pytest.mark.parametrize("rig", HOSTS_FILES, indirect=True)
async def test_reading_again_on_the_hosts_sqlite_compiles_nothing_again(rig: Rig) -> None:
    """An authorizer that is set makes SQLite compile its statements again, which costs more than all other guards."""
    gates: list[object] = []

    def read(session: Session) -> None:
        gate = session.connection().info["araponga_infra.read_only_gate"]()
        assert gate.is_closed
        gates.append(gate)
        session.get_one(Post, 1)

    for _ in range(3):
        await rig.run(read)
    assert len(set(gates)) == 1


@pytest.mark.parametrize("rig", [name for name in rigs.POSTGRESQL if "host" in name], indirect=True)
async def test_autocommit_on_an_engine_of_the_host_is_refused(rig: Rig) -> None:
    def read(session: Session) -> None:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})

    with pytest.raises(ReadOnlyViolationError, match="AUTOCOMMIT"):
        await rig.run(read)


async def test_an_error_in_flight_is_never_hidden(rig: Rig) -> None:
    def read(session: Session) -> None:
        change(session)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await rig.run(read)


async def test_an_error_handled_outside_does_not_silence_the_close(rig: Rig) -> None:
    try:
        raise KeyError
    except KeyError:
        with pytest.raises(ReadOnlyViolationError):
            await rig.run(change)


async def test_setting_what_is_there_already_is_no_change(rig: Rig) -> None:
    def read(session: Session) -> None:
        post = session.get_one(Post, 1)
        post.title = str(post.title)
        session.commit()

    await rig.run(read)


async def test_the_connection_is_back_before_close_complains(rig: Rig) -> None:
    with pytest.raises(ReadOnlyViolationError, match="Post"):
        await rig.run(change)
    pool: Any = rig.plain_engine.pool
    if isinstance(pool, QueuePool):
        assert pool.checkedout() == 0
    assert await rig.run(lambda session: session.get_one(Post, 1).title) == "first"


async def test_an_object_taken_in_without_a_load_is_read(rig: Rig) -> None:
    detached = await rig.run(lambda session: session.get_one(Comment, 1))

    def read(session: Session) -> str:
        return session.merge(detached, load=False).post.title

    assert await rig.run(read) == "first"


@pytest.mark.parametrize("rig", [name for name in EVERY_RIG if "in memory" not in name], indirect=True)
async def test_what_is_loaded_is_not_kept_alive(rig: Rig) -> None:
    def read(session: Session) -> bool:
        post = session.get_one(Post, 1)
        gone = weakref.ref(post)
        assert post.comments[0].body == "nice"
        del post
        gc.collect()
        return gone() is None

    assert await rig.run(read)


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_streamed_rows_hold_bounded_memory(count: int) -> None:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    rigs.Base.metadata.create_all(engine)
    rows = text(
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
        "SELECT i AS id, 'title' AS title FROM n"
    ).columns(Post.id, Post.title)
    objects: dict[int, int] = {}
    with ReadOnlySessionFactory(engine)() as session:
        for post in session.scalars(select(Post).from_statement(rows).execution_options(yield_per=1000)):
            if post.id in (10_000, count):
                objects[post.id] = len(gc.get_objects())
    assert objects[count] - objects[10_000] < 10_000
    engine.dispose()


async def test_an_ordinary_async_session_takes_the_guarded_class(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'content.db'}")
    async with engine.begin() as connection:
        await connection.run_sync(rigs.Base.metadata.create_all)
    make = async_sessionmaker(engine, sync_session_class=ReadOnlySession)
    async with make() as session:
        with pytest.raises(ReadOnlyViolationError):
            await session.execute(text("DELETE FROM post"))
        with pytest.raises(ReadOnlyViolationError):
            await session.run_sync(attempts.UNIT_OF_WORK["add, flush"])
    async with AsyncSession(engine) as session, session.begin():
        session.add(Post(id=1, title="new"))
    await engine.dispose()


async def test_closing_in_finally_hides_nothing_in_async_code(tmp_path: Path) -> None:
    async def read(factory: AsyncReadOnlySessionFactory, *, fail: bool) -> None:
        session = factory()
        try:
            session.add(Post(id=9, title="new"))
            if fail:
                raise KeyError("mine")
        finally:
            await session.close()

    async with AsyncReadOnlySessionFactory(f"sqlite:///{tmp_path / 'content.db'}") as factory:
        with pytest.raises(KeyError, match="mine"):
            await read(factory, fail=True)
        with pytest.raises(ReadOnlyViolationError):
            await read(factory, fail=False)


async def test_a_cancelled_reader_gives_its_connection_back(tmp_path: Path) -> None:
    async with AsyncReadOnlySessionFactory(f"sqlite:///{tmp_path / 'content.db'}") as factory:
        has_begun = asyncio.Event()

        async def read() -> None:
            async with factory() as session:
                await session.scalar(text("SELECT 1"))
                has_begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(read())
        await has_begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        pool: Any = factory.engine.pool
        assert not isinstance(pool, QueuePool) or pool.checkedout() == 0


def file_engine(tmp_path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{tmp_path / 'content.db'}")
    rigs.Base.metadata.create_all(engine)
    return engine


def test_the_hosts_engine_has_no_listener_of_ours(tmp_path: Path) -> None:
    def listeners() -> tuple[bool, bool, int]:
        """Of this engine and of all engines: other parts may listen to the class."""
        return engine._has_events, engine.dialect._has_events, len(engine.pool.dispatch.checkin)

    engine = file_engine(tmp_path)
    before = listeners()
    with ReadOnlySessionFactory(engine)() as session:
        session.scalar(text("SELECT 1"))
        assert session.get_bind() is not engine
    assert listeners() == before
    engine.dispose()


def test_factories_of_one_engine_share_its_guard(tmp_path: Path) -> None:
    engine = file_engine(tmp_path)
    gone = weakref.ref(engine)
    assert ReadOnlySessionFactory(engine).engine is ReadOnlySessionFactory(engine).engine
    engine.dispose()
    del engine
    gc.collect()
    assert gone() is None


def test_writing_next_to_an_open_read_on_one_connection() -> None:
    """In memory, one connection serves both: the guard must not be felt by the other session."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    rigs.Base.metadata.create_all(engine)
    with ReadOnlySession(engine) as reading:
        reading.scalar(text("SELECT 1"))
        with Session(engine) as session, session.begin():
            session.add(Post(id=1, title="new"))
        assert reading.get_one(Post, 1).title == "new"
    engine.dispose()


def test_begin_listeners_of_the_host_still_work(tmp_path: Path) -> None:
    engine = file_engine(tmp_path)
    event.listen(engine, "connect", lambda connection, _record: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    with ReadOnlySession(engine) as reading:
        assert reading.scalar(text("SELECT count(*) FROM post")) == 0
    with Session(engine) as session, session.begin():
        session.add(Post(id=1, title="new"))
    engine.dispose()


def test_a_host_listener_sees_the_reads_too(tmp_path: Path) -> None:
    engine = file_engine(tmp_path)
    seen: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: seen.append(arguments[2]))
    with ReadOnlySession(engine) as session:
        session.scalar(text("SELECT 1"))
    assert seen == ["SELECT 1"]
    engine.dispose()


def test_a_connection_as_bind_is_refused(tmp_path: Path) -> None:
    engine = file_engine(tmp_path)
    with engine.connect() as connection:
        with pytest.raises(InvalidArgumentError, match="bind is a Connection"):
            ReadOnlySession(connection)
        with ReadOnlySession(engine) as session, pytest.raises(InvalidArgumentError):
            session.execute(text("SELECT 1"), bind_arguments={"bind": connection})
    engine.dispose()


def test_another_engine_in_bind_arguments_is_guarded(tmp_path: Path) -> None:
    engine, other = file_engine(tmp_path), file_engine(tmp_path)
    with ReadOnlySession(engine) as session, pytest.raises(ReadOnlyViolationError):
        session.execute(text("DELETE FROM post"), bind_arguments={"bind": other})
    engine.dispose()
    other.dispose()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
@pytest.mark.parametrize("factory", [ReadOnlySessionFactory, AsyncReadOnlySessionFactory])
def test_a_database_in_memory_by_url_is_refused(factory: Any, url: str) -> None:
    with pytest.raises(InvalidArgumentError, match="url_or_engine names a SQLite database in memory"):
        factory(url)


@pytest.mark.parametrize("wrong", [None, 7, object(), "no url", ""])
@pytest.mark.parametrize("factory", [ReadOnlySessionFactory, AsyncReadOnlySessionFactory])
def test_bad_arguments_are_named(factory: Any, wrong: object) -> None:
    with pytest.raises(InvalidArgumentError, match="url_or_engine"):
        factory(wrong)


def test_each_factory_names_the_other_for_its_engines() -> None:
    sync_engine, async_engine = create_engine("sqlite://"), create_async_engine("sqlite+aiosqlite://")
    with pytest.raises(InvalidArgumentError, match="AsyncReadOnlySessionFactory"):
        ReadOnlySessionFactory(async_engine)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match=" ReadOnlySessionFactory"):
        AsyncReadOnlySessionFactory(sync_engine)  # type: ignore[arg-type]


def test_a_database_that_cannot_be_guarded_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="mssql"):
        ReadOnlySessionFactory(create_engine("mssql+pymssql://x", module=sqlite3))


def test_the_error_pickles_and_no_password_is_shown() -> None:
    error = pickle.loads(pickle.dumps(ReadOnlyViolationError("no", layer="server")))
    assert (str(error), error.layer) == ("no", "server")
    assert "secret" not in repr(ReadOnlySessionFactory("postgresql://u:secret@h/x"))
    assert "secret" not in repr(AsyncReadOnlySessionFactory("postgresql://u:secret@h/x"))


@pytest.mark.parametrize("rig", ["psycopg", "async psycopg", "asyncpg", "psycopg2"], indirect=True)
async def test_autocommit_on_an_engine_of_our_own_reads(rig: Rig) -> None:
    def read(session: Session) -> Any:
        connection = session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        with pytest.raises(ReadOnlyViolationError):
            connection.execute(text("SELECT rename_all()"))
        return connection.scalar(text("SELECT count_posts()"))

    assert await rig.run(read) == 2
