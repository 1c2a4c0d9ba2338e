"""`assert_max_queries` and `no_n_plus_one`, as a test of a host uses them."""

from __future__ import annotations

import warnings
from importlib import import_module

import pytest
from fastapi import FastAPI
from flask import Flask
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, selectinload

from araponga_infra import InvalidArgumentError
from araponga_infra.testing.queries import assert_max_queries, no_n_plus_one

from .models import Post


def test_enough_is_enough(any_engine: Engine) -> None:
    with assert_max_queries(2) as report, Session(any_engine) as session:
        session.scalars(select(Post).options(selectinload(Post.author))).all()
        session.commit()
    assert len(report) == 2


def test_one_too_many_lists_shapes_and_lines(engine: Engine) -> None:
    def ask(session: Session) -> None:
        session.scalars(select(Post.id).where(Post.title == "secret")).all()
        for _ in range(2):
            session.execute(text("SELECT 2"))

    with pytest.raises(AssertionError) as failure, assert_max_queries(1), Session(engine) as session:
        ask(session)
    message = str(failure.value)
    assert message.startswith("3 queries, at most 1 expected")
    assert "1x SELECT post.id FROM post WHERE post.title = ?" in message
    assert "2x SELECT ?" in message
    assert "tests/queries/test_expectations.py:" in message
    assert "secret" not in message


def test_every_engine_counts() -> None:
    one, other = (create_engine("sqlite://") for _ in range(2))

    def ask() -> None:
        for engine in (one, other):
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))

    with pytest.raises(AssertionError, match="2 queries"), assert_max_queries(1):
        ask()
    one.dispose()
    other.dispose()


def test_an_error_in_the_block_goes_first(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError), assert_max_queries(0), engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) / 0


def test_savepoints_do_not_count(engine: Engine) -> None:
    with assert_max_queries(0) as report, Session(engine) as session, session.begin(), session.begin_nested():
        session.connection()
    assert len(report.statements) == 2


def test_no_n_plus_one_names_line_and_cure(engine: Engine) -> None:
    with pytest.raises(AssertionError) as failure, Session(engine) as session, no_n_plus_one():
        assert [post.author.name for post in session.scalars(select(Post))]
    message = str(failure.value)
    assert "4 times SELECT author.id" in message
    assert "assert [post.author.name for post in" in message
    assert "selectinload(Post.author)" in message


def test_no_n_plus_one_passes_what_repeats_less(engine: Engine) -> None:
    with Session(engine) as session, no_n_plus_one(min_repeats=5) as report:
        assert [post.author.name for post in session.scalars(select(Post))]
    assert len(report) == 5


@pytest.mark.anyio
async def test_around_awaits(async_engine: AsyncEngine) -> None:
    async with AsyncSession(async_engine) as session:
        with no_n_plus_one(), assert_max_queries(2):
            posts = await session.scalars(select(Post).options(selectinload(Post.author)))
            assert [post.author.name for post in posts]
        with pytest.raises(AssertionError, match="1 queries, at most 0"), assert_max_queries(0):
            await session.execute(text("SELECT 1"))


def test_the_application_behind_a_test_client(engine: Engine) -> None:
    fastapi, flask = FastAPI(), Flask("test")

    def read() -> str:
        with engine.connect() as connection:
            return str(connection.scalar(text("SELECT 1")))

    async def read_on_the_loop() -> str:
        return read()

    fastapi.get("/thread")(read)
    fastapi.get("/loop")(read_on_the_loop)
    flask.get("/")(read)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = import_module("fastapi.testclient").TestClient(fastapi)
    for ask in (lambda: client.get("/thread"), lambda: client.get("/loop"), lambda: flask.test_client().get("/")):
        with assert_max_queries(1) as report:
            ask()
        assert len(report) == 1


def test_one_expectation_may_be_used_again_but_not_within_itself(engine: Engine) -> None:
    none = assert_max_queries(0)
    with none:
        pass
    with none, pytest.raises(InvalidArgumentError, match="open already"), none:
        pass


@pytest.mark.parametrize("maximum", [-1, True, 1.5, None])
def test_a_maximum_that_is_none(maximum: object) -> None:
    with pytest.raises(InvalidArgumentError, match="maximum="):
        assert_max_queries(maximum)  # type: ignore[arg-type]


@pytest.mark.parametrize("min_repeats", [1, 0, 2.5])
def test_once_is_no_repetition(min_repeats: object) -> None:
    with pytest.raises(InvalidArgumentError, match="min_repeats="):
        no_n_plus_one(min_repeats=min_repeats)  # type: ignore[arg-type]
