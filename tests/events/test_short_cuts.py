"""What the SQL store spares itself on its hot paths, and that nothing is missed for it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine

from araponga_infra.events import AsyncBackgroundEventProcessor, EventRouter, SqlAlchemyEventStore
from araponga_infra.events.processor import new_event_id
from araponga_infra.events.protocols import EventStore
from araponga_infra.events.stores.sqlalchemy.heads import LOWEST, Heads
from araponga_infra.events.values import Message, Subscription, Want
from tests.events.hosts import Happened, eventually

pytestmark = pytest.mark.anyio
HANDLER = "handler"


def messages(number: int, **when: Any) -> list[Message]:
    return [Message(new_event_id(), "name", 1, b"{}", **when) for _ in range(number)]


def claimed(store: EventStore, limit: int) -> Sequence[str]:
    return [str(each.event_id) for each in store.exchange("me", [], [], [Want(HANDLER, limit)]).deliveries]


@pytest.fixture
def store(postgres_engine: Engine) -> EventStore:
    source = SqlAlchemyEventStore(postgres_engine)
    source.create_schema()
    store = source.sync_store()
    store.register([Subscription(HANDLER, "name")])
    store.join("me", 60.0)
    return store


def test_claims_start_where_full_ones_have_come_to() -> None:
    heads, wants = Heads(), [Want("a", 2), Want("b", 2)]
    assert heads.floor("a") == LOWEST
    assert heads.note(wants, [LOWEST, LOWEST], [("a", 7), ("a", 5), ("b", 9)]) == []
    assert heads.floor("a") == 5
    assert heads.floor("b") == LOWEST


def test_a_claim_that_is_not_full_looks_before_the_head() -> None:
    heads, wants = Heads(), [Want("a", 2)]
    heads.note(wants, [LOWEST], [("a", 7), ("a", 8)])
    assert heads.note(wants, [7], [("a", 9)]) == [Want("a", 1)]
    assert heads.floor("a") == LOWEST


def test_a_busy_queue_is_looked_at_from_the_start_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    heads, wants, now = Heads(), [Want("a", 1)], 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    heads.note(wants, [LOWEST], [("a", 7)])
    now = 100.9
    heads.note(wants, [heads.floor("a")], [("a", 8)])
    assert heads.floor("a") == 8
    now = 101.0
    assert heads.floor("a") == LOWEST
    heads.note(wants, [LOWEST], [("a", 9)])
    assert heads.floor("a") == 9


def test_what_is_due_before_the_head_is_claimed(store: EventStore) -> None:
    store.append(messages(4))
    first = claimed(store, 2)
    late = messages(1, due_at=1.0)
    store.append(late)
    rest = claimed(store, 4)
    assert len(first) == 2
    assert len(rest) == 3
    assert rest[0] == str(late[0].event_id), "in the order of due times"


def test_what_is_acknowledged_is_found_by_its_id(store: EventStore, postgres_database: Any) -> None:
    """The index of running rows looks smaller, but holds all that ran since the last vacuum."""
    store.append(messages(2000))
    claimed(store, 10)
    postgres_database.execute("VACUUM (ANALYZE) araponga_deliveries")
    sql: Any = store._operations.sql  # type: ignore[attr-defined]
    (plan,) = zip(
        *postgres_database.execute(f"EXPLAIN {sql.complete._sql}", {"ids": [1, 2], "claim": 1, "owner": "me"}),
        strict=True,
    )
    assert "araponga_deliveries_pkey" in "".join(plan)


@pytest.fixture
def strict_engine(postgres_database: Any) -> Iterator[Engine]:
    """On a database whose transactions are SERIALIZABLE unless they say otherwise."""
    name = postgres_database.name
    postgres_database.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    engine = create_engine(postgres_database.url("psycopg"))
    yield engine
    engine.dispose()


def test_statements_are_read_committed_whatever_the_database_says(strict_engine: Engine) -> None:
    levels: list[str] = []
    source = SqlAlchemyEventStore(strict_engine)
    source.create_schema()
    store = source.sync_store()
    store.register([Subscription(HANDLER, "name")])

    @event.listens_for(strict_engine, "before_cursor_execute")
    def note(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "araponga_deliveries" in statement:
            with connection.connection.cursor() as cursor:
                cursor.execute("SHOW transaction_isolation")
                levels.append(cursor.fetchone()[0])

    store.append(messages(1))
    assert len(claimed(store, 1)) == 1
    assert set(levels) == {"read committed"}


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_an_async_worker_hears_of_each_publish_of_another_process(postgres_database: Any, driver: str) -> None:
    """Those that take their NOTIFY along, those that send it afterwards, and those between that send none."""
    engine, other = (create_async_engine(postgres_database.url(driver)) for _ in range(2))
    source, seen, router = SqlAlchemyEventStore(engine), list[int](), EventRouter()
    await source.create_schema()

    @router.subscribe(Happened)
    async def note(happened: Happened) -> None:
        seen.append(happened.number)

    async with (
        AsyncBackgroundEventProcessor(source, routers=[router], poll_interval=3600.0) as worker,
        AsyncBackgroundEventProcessor(SqlAlchemyEventStore(other), consume=False) as web,
    ):
        await eventually(lambda: worker._running is not None and worker._running._feed.is_dry)
        for number in range(40):
            await web.publish(Happened(number))
            if number % 10 == 0:
                await eventually(lambda: len(seen) == number + 1, seconds=10)  # noqa: B023
        await eventually(lambda: seen == list(range(40)), seconds=10)
    await engine.dispose()
    await other.dispose()
