"""What a SQL store tidies up by itself, and its tables in the host's schema."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, create_engine, inspect, text

from araponga_infra.errors import InvalidArgumentError
from araponga_infra.events import DeadReason, SqlAlchemyEventStore
from araponga_infra.events.stores.sqlalchemy.listening import channel_of
from araponga_infra.events.values import DeadFilter, Message, Subscription
from araponga_infra.testing.clock import FakeClock


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> Engine:
    engine: Engine = request.getfixturevalue(f"{request.param}_engine")
    return engine


def test_a_handler_that_no_process_has_had_for_a_week_is_gone(engine: Engine, clock: FakeClock) -> None:
    source = SqlAlchemyEventStore(engine)
    source.create_schema()
    store = source.sync_store(clock)
    store.register([Subscription("mail", "e"), Subscription("index", "e")])
    store.append([Message(uuid4(), "e", 1, b"{}", window_seconds=60.0)])
    clock.advance(timedelta(days=6))
    store.register([Subscription("index", "e")])
    clock.advance(timedelta(days=2))
    keeper = store.lease_keeper()
    keeper.reap(["index"])
    keeper.close()
    letters = store.dead_page(DeadFilter(), 10, None).items
    assert [(each.handler, each.reason) for each in letters] == [("mail", DeadReason.HANDLER_GONE)]
    assert store.append([Message(uuid4(), "e", 1, b"{}")]).deliveries == 1
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM araponga_accepted")).scalar() == 0


def test_three_instances_may_create_the_schema_at_once(engine: Engine) -> None:
    errors: list[BaseException] = []
    barrier = threading.Barrier(3)

    def create() -> None:
        barrier.wait()
        try:
            SqlAlchemyEventStore(engine).create_schema()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=create) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert "araponga_deliveries" in inspect(engine).get_table_names()


def test_tables_live_in_the_hosts_schema(postgres_database: Any, clock: FakeClock) -> None:
    engine = create_engine(postgres_database.url("psycopg"))
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA infra"))
    source = SqlAlchemyEventStore(engine, schema="infra")
    source.create_schema()
    store = source.sync_store(clock)
    store.register([Subscription("mail", "e")])
    assert store.append([Message(uuid4(), "e", 1, b"{}", ordering_key="k")]).deliveries == 1
    assert inspect(engine).get_table_names() == []
    assert "araponga_deliveries" in inspect(engine).get_table_names(schema="infra")
    engine.dispose()


def test_what_is_no_engine_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="engine is a str"):
        SqlAlchemyEventStore("sqlite://")  # type: ignore[type-var]


def test_passwords_are_not_shown(postgres_database: Any) -> None:
    engine = create_engine(postgres_database.url("psycopg", with_password=True))
    assert str(engine.url.password) not in repr(SqlAlchemyEventStore(engine))


def test_a_schema_of_a_long_name_has_a_channel_that_notify_and_listen_agree_on(postgres_database: Any) -> None:
    """A notification is a hint, so that nothing else would show it missing: polling finds what it spoke of."""
    assert channel_of("infra") == "araponga_events_infra"
    assert channel_of(None) == "araponga_events"
    channel = channel_of("x" * 63)
    assert channel != channel_of("y" * 63)
    engine = create_engine(postgres_database.url("psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f'LISTEN "{channel}"'))
        connection.execute(text("SELECT pg_notify(:channel, '')"), {"channel": channel})
        listening = connection.execute(text("SELECT pg_listening_channels()")).scalars().all()
    assert listening == [channel]
    engine.dispose()
