"""A capture sees what its block sends: all of it, nothing else, and no value."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, insert, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from araponga_infra import InvalidArgumentError
from araponga_infra.queries import Origin, QueryInspector
from araponga_infra.queries import capture as capture_module
from araponga_infra.testing.clock import FakeClock

from .models import Author, Post


def _line_of(function: object, text: str) -> int:
    lines, first = inspect.getsourcelines(function)  # type: ignore[arg-type]
    return first + next(number for number, line in enumerate(lines) if text in line)


@pytest.mark.parametrize("any_engine", ["sqlite", "psycopg", "psycopg2"], indirect=True)
def test_a_statement_has_shape_types_origin_and_line(any_engine: Engine) -> None:
    inspector = QueryInspector(any_engine)
    with inspector.capture() as report, Session(any_engine) as session:
        session.scalars(select(Post.title).where(Post.id == 3, Post.title != "secret title")).all()
    (statement,) = report.statements
    assert statement.shape.replace("::INTEGER", "").replace("::VARCHAR", "") == (
        "SELECT post.title FROM post WHERE post.id = ? AND post.title != ?"
    )
    assert (statement.parameters, statement.parameter_sets) == (("int", "str"), 1)
    assert statement.origin is Origin.QUERY
    assert statement.seconds is not None
    assert not statement.failed
    assert statement.place is not None
    here = test_a_statement_has_shape_types_origin_and_line
    assert str(statement.place) == f"tests/queries/test_capture.py:{_line_of(here, 'session.scalars(')}"
    assert statement.place.function == here.__name__
    assert "secret title" not in f"{report!r}{report}{statement!r}"


@pytest.fixture
def library(tmp_path: Path) -> ModuleType:
    """Installed code that asks in its own lines."""
    file = tmp_path / "site-packages" / "library.py"
    file.parent.mkdir()
    file.write_text("def ask(connection, statement):\n    connection.execute(statement)\n")
    spec = spec_from_file_location("library", file)
    assert spec is not None
    module = module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


def test_the_line_is_the_hosts_where_a_library_asks_for_it(engine: Engine, library: ModuleType) -> None:
    with QueryInspector(engine).capture() as report, engine.connect() as connection:
        library.ask(connection, text("SELECT 1"))
    (statement,) = report.statements
    assert statement.place is not None
    assert statement.place.file == __file__


def test_the_line_is_a_librarys_where_the_host_itself_is_installed(engine: Engine, library: ModuleType) -> None:
    with QueryInspector(engine).capture() as report, ThreadPoolExecutor(1) as pool, engine.connect() as connection:
        pool.submit(copy_context().run, library.ask, connection, text("SELECT 1")).result()
    (statement,) = report.statements
    assert statement.place is not None
    assert (statement.place.file, statement.place.line) == (library.__file__, 2)


@pytest.mark.anyio
async def test_async_code_is_seen_with_its_line(async_engine: AsyncEngine) -> None:
    async def titles(session: AsyncSession) -> list[str]:
        return list(await session.scalars(select(Post.title)))

    with QueryInspector(async_engine).capture() as report:
        async with AsyncSession(async_engine) as session:
            assert len(await titles(session)) == 4
    (statement,) = report.statements
    assert statement.place is not None
    assert statement.place.function.endswith("titles")
    assert statement.place.source == "return list(await session.scalars(select(Post.title)))"


def test_literals_in_the_text_are_not_kept(engine: Engine) -> None:
    with QueryInspector(engine).capture() as report, engine.connect() as connection:
        connection.execute(text("SELECT 'secret' AS a, \"other secret\" AS b"))
        connection.exec_driver_sql("SELECT 'secret'")
    assert "secret" not in f"{report}{report.statements!r}"
    assert report.statements[0].shape == "SELECT ? AS a, ? AS b"


def test_only_the_inspected_engine_is_seen(engine: Engine) -> None:
    other = create_engine("sqlite://")
    with QueryInspector(engine).capture() as report, other.connect() as connection:
        connection.execute(text("SELECT 1"))
    assert report.statements == ()
    other.dispose()


def test_an_engine_with_options_of_its_own_is_the_same_engine(engine: Engine) -> None:
    derived = engine.execution_options(isolation_level="SERIALIZABLE")
    with QueryInspector(engine).capture() as report, derived.connect() as connection:
        connection.execute(text("SELECT 1"))
    assert len(report.statements) == 1


def test_a_connection_that_was_open_before_is_seen(engine: Engine) -> None:
    inspector = QueryInspector(engine)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        with inspector.capture() as report:
            connection.execute(text("SELECT 2"))
        connection.execute(text("SELECT 3"))
    assert len(report.statements) == 1


@pytest.mark.parametrize("any_engine", ["sqlite", "psycopg", "psycopg2"], indirect=True)
def test_what_a_driver_asks_at_its_first_connection_is_not_the_hosts(
    any_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    any_engine.dispose()
    fresh = create_engine(any_engine.url)
    with QueryInspector(fresh).capture() as report, fresh.connect() as connection:
        connection.execute(text("SELECT 1"))
    assert len(report.statements) == 1
    assert caplog.messages == []
    fresh.dispose()


def test_captures_nest(engine: Engine) -> None:
    inspector = QueryInspector(engine)
    with inspector.capture() as outer, engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        with inspector.capture() as inner:
            connection.execute(text("SELECT 2"))
    assert (len(outer.statements), len(inner.statements)) == (2, 1)


def test_another_thread_is_not_seen(engine: Engine) -> None:
    def ask() -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    with ThreadPoolExecutor(1) as pool, QueryInspector(engine).capture() as report:
        pool.submit(ask).result()
    assert report.statements == ()


@pytest.mark.anyio
async def test_tasks_and_threads_of_the_block_are_seen_others_are_not(engine: Engine) -> None:
    may_ask, asked = asyncio.Event(), asyncio.Event()

    def ask() -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    async def ask_in_task() -> None:
        ask()

    async def outsider() -> None:
        await may_ask.wait()
        ask()
        asked.set()

    outside = asyncio.create_task(outsider())
    with QueryInspector(engine).capture() as report:
        await asyncio.create_task(ask_in_task())
        await asyncio.to_thread(ask)
        may_ask.set()
        await asked.wait()
    await outside
    assert len(report.statements) == 2


@pytest.mark.anyio
async def test_a_task_that_outlives_the_block_is_no_longer_seen(engine: Engine) -> None:
    closed = asyncio.Event()

    async def ask_late() -> None:
        await closed.wait()
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    with QueryInspector(engine).capture() as report:
        late = asyncio.create_task(ask_late())
        await asyncio.sleep(0)
    closed.set()
    await late
    assert report.statements == ()


def test_time_is_measured_and_slow_statements_stand_out(engine: Engine) -> None:
    clock = FakeClock()
    inspector = QueryInspector(engine, slow_after=2, clock=clock)
    with engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        assert raw is not None
        raw.create_function("take", 1, lambda seconds: clock.advance(seconds))
        with inspector.capture() as report:
            connection.execute(text("SELECT take(1)"))
            connection.execute(text("SELECT take(2)"))
            connection.execute(text("SELECT take(:seconds)"), {"seconds": 3})
    assert [statement.seconds for statement in report.statements] == [1, 2, 3]
    assert [statement.seconds for statement in report.slow] == [3, 2]
    assert report.seconds == 6


def test_a_statement_that_fails_is_seen_with_its_time(engine: Engine) -> None:
    with QueryInspector(engine).capture() as report, engine.connect() as connection, pytest.raises(SQLAlchemyError):
        connection.execute(text("SELECT * FROM nowhere"))
    (statement,) = report.statements
    assert statement.failed
    assert statement.seconds is not None


def test_a_capture_keeps_a_bounded_number_of_statements_and_counts_the_rest(engine: Engine) -> None:
    with capture_module.capture(max_statements=3) as report, engine.connect() as connection:
        for _ in range(5):
            connection.execute(text("SELECT 1"))
    assert (len(report.statements), report.dropped, len(report)) == (3, 2, 5)
    assert "2 more" in str(report)


def test_many_parameter_sets_are_one_statement(engine: Engine) -> None:
    with QueryInspector(engine).capture() as report, engine.begin() as connection:
        connection.execute(insert(Author), [{"name": f"n{n}", "biography": ""} for n in range(50)])
    (statement,) = report.statements
    assert (statement.origin, statement.parameter_sets) == (Origin.WRITE, 50)


def test_an_error_of_the_recorder_never_reaches_the_statement(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(capture_module, "facts_of", broken)
    with caplog.at_level(logging.ERROR), QueryInspector(engine).capture() as report, engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    assert report.statements == ()
    assert "could not be recorded" in caplog.text


def test_listeners_of_others_are_still_asked_once(engine: Engine) -> None:
    asked: list[str] = []

    def count(cursor: object, sql: str, parameters: object, context: object) -> bool:
        asked.append(sql)
        return False

    def answer(cursor: sqlite3.Cursor, sql: str, parameters: object, context: object) -> bool:
        if "mine" in sql:
            cursor.execute("SELECT 'theirs' AS a")
            return True
        return False

    with QueryInspector(engine).capture() as report, engine.connect() as connection:
        event.listen(Engine, "do_execute", count, insert=True)
        event.listen(engine, "do_execute", count)
        event.listen(engine, "do_execute", answer)
        try:
            assert connection.execute(text("SELECT 'mine' AS a")).scalar() == "theirs"
            assert connection.execute(text("SELECT 'ours' AS a")).scalar() == "ours"
        finally:
            event.remove(Engine, "do_execute", count)
    assert asked == ["SELECT 'mine' AS a"] * 2 + ["SELECT 'ours' AS a"] * 2
    assert len(report.statements) == 2


def test_statements_without_parameters(any_engine: Engine) -> None:
    with QueryInspector(any_engine).capture() as report, any_engine.connect() as connection:
        plain = connection.execution_options(no_parameters=True)
        assert plain.exec_driver_sql("SELECT 1 % 2").scalar() == 1
    assert [(s.shape, s.parameters) for s in report.statements] == [("SELECT ? % ?", ())]


def test_units_are_transactions_of_a_connection(engine: Engine) -> None:
    with QueryInspector(engine).capture() as report, engine.connect() as connection:
        for _ in range(2):
            connection.execute(text("SELECT 1"))
            connection.execute(text("SELECT 2"))
            connection.rollback()
    one, two, three, four = (statement.unit for statement in report.statements)
    assert one == two
    assert three == four
    assert one != three


def test_without_a_capture_nothing_is_kept(engine: Engine) -> None:
    QueryInspector(engine)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        assert connection.get_transaction() not in capture_module._units


def test_every_thread_has_captures_of_its_own(engine: Engine) -> None:
    inspector, barrier = QueryInspector(engine), threading.Barrier(4)

    def ask(times: int) -> int:
        with inspector.capture() as report, engine.connect() as connection:
            barrier.wait(10)
            for _ in range(times):
                connection.execute(text("SELECT 1"))
        return len(report.statements)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [0, 1, 2, 3]


@pytest.mark.parametrize("engine_like", [None, "sqlite://", Connection])
def test_not_an_engine(engine_like: object) -> None:
    with pytest.raises(InvalidArgumentError, match="create_engine"):
        QueryInspector(engine_like)  # type: ignore[type-var]


def test_a_negative_slow_after(engine: Engine) -> None:
    with pytest.raises(InvalidArgumentError, match="slow_after=-1"):
        QueryInspector(engine, slow_after=-1)
