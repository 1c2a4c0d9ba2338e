"""An observer hears of what a capture found."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from araponga_infra.observers import CountingObserver
from araponga_infra.queries import QueryInspector
from araponga_infra.queries.records import NPlusOneFound, SlowStatementFound
from araponga_infra.telemetry import Record
from araponga_infra.testing.clock import FakeClock

from .models import Post


class Recording:
    def __init__(self) -> None:
        self.seen: list[Record] = []

    def observe(self, record: Record) -> None:
        self.seen.append(record)


def test_an_n_plus_one_is_reported_at_the_end(engine: Engine) -> None:
    observer = Recording()
    with QueryInspector(engine, observer=observer).capture(), Session(engine) as session:
        assert [post.author.name for post in session.scalars(select(Post))]
        assert observer.seen == []
    (found,) = observer.seen
    assert isinstance(found, NPlusOneFound)
    assert (found.times, found.origin) == (4, "lazy load")
    assert found.file == __file__


def test_a_slow_statement_is_reported_also_where_the_block_fails(engine: Engine) -> None:
    observer, clock = Recording(), FakeClock()
    inspector = QueryInspector(engine, slow_after=1, clock=clock, observer=observer)

    def ask() -> None:
        with engine.connect() as connection:
            raw = connection.connection.dbapi_connection
            assert raw is not None
            raw.create_function("take", 1, lambda seconds: clock.advance(seconds))
            connection.execute(text("SELECT take(2)"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), inspector.capture():
        ask()
    (found,) = observer.seen
    assert isinstance(found, SlowStatementFound)
    assert (found.shape, found.seconds) == ("SELECT take(?)", 2)


def test_what_is_fine_is_not_reported(engine: Engine) -> None:
    observer = CountingObserver()
    with QueryInspector(engine, observer=observer).capture(), Session(engine) as session:
        session.scalars(select(Post)).all()
    assert list(observer.snapshot()) == []
