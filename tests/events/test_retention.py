"""With very much to keep: nothing is looked at in full, and what is tidied up goes in batches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast
from uuid import uuid4

import pytest
import redis
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.orm import Session

from araponga_infra.errors import NotConfiguredError
from araponga_infra.events import DeadReason, Inbox, RedisStreamEventStore, SqlAlchemyEventStore
from araponga_infra.events.lifecycle import Failed, RetryPolicy, decide
from araponga_infra.events.protocols import AsyncEventStore, EventStore
from araponga_infra.events.stores.redis.shells import RedisStore
from araponga_infra.events.stores.sqlalchemy.shells import SqlStore
from araponga_infra.events.values import DeadFilter, Message, Subscription, Want
from araponga_infra.testing.clock import FakeClock
from araponga_infra.testing.events import awaitable_store
from tests.events.hosts import Host

MANY = 10_000
FEW = 50
LIMIT = 10
LOOKED_AT = 110
"""For each reason that there is one more than the page has, and some."""
NOW = datetime.now(UTC)
_MICRO = 1_000_000


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> Engine:
    engine: Engine = request.getfixturevalue(f"{request.param}_engine")
    SqlAlchemyEventStore(engine).create_schema()
    return engine


# -- by an index

OPERATIONS: dict[str, tuple[Callable[[EventStore], object], str]] = {
    "first page": (lambda store: store.dead_page(DeadFilter(), LIMIT, None), "dead"),
    "page in the middle": (lambda store: store.dead_page(DeadFilter(), LIMIT, str(MANY // 2)), "dead"),
    "newest": (lambda store: store.newest_dead(), "dead"),
    "of a handler": (lambda store: store.dead_page(DeadFilter(handler="rare"), LIMIT, None), "dead_handler"),
    "of a handler that has most": (
        lambda store: store.dead_page(DeadFilter(handler="deep"), LIMIT, str(MANY // 2)),
        "dead_handler",
    ),
    "of an event": (lambda store: store.dead_page(DeadFilter(event="e.rare"), LIMIT, None), "dead_event"),
    "of a reason": (lambda store: store.dead_page(DeadFilter(reason="gave_up"), LIMIT, None), "dead_reason"),
    "of a handler and a reason": (
        lambda store: store.dead_page(DeadFilter(handler="deep", reason="gave_up"), LIMIT, None),
        "dead_handler",
    ),
    "of an event and a reason": (
        lambda store: store.dead_page(DeadFilter(event="e.deep", reason="gave_up"), LIMIT, None),
        "dead_event",
    ),
    "of an event and a handler": (
        lambda store: store.dead_page(DeadFilter(event="e.deep", handler="rare"), LIMIT, None),
        "dead_handler",
    ),
    "none that is old": (lambda store: store.old_letters(DeadFilter(), NOW - timedelta(days=9), 100, None), "died"),
    "old ones": (lambda store: store.old_letters(DeadFilter(handler="deep"), NOW, 100, None), "died"),
    "old ones further on": (
        lambda store: store.old_letters(DeadFilter(reason="gave_up"), NOW, 100, f"{MANY // 2}:{MANY // 2}"),
        "died",
    ),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_few_are_looked_at_of_many_dead_letters(engine: Engine, operation: str) -> None:
    fill(engine)
    call, index = OPERATIONS[operation]
    with statements_of(engine) as seen:
        call(SqlAlchemyEventStore(engine).sync_store())
    check_index(engine, seen[-1], "araponga_deliveries", f"araponga_deliveries_{index}")


def test_few_are_looked_at_of_many_rows_of_an_inbox(engine: Engine) -> None:
    fill(engine)
    with statements_of(engine) as seen, Session(engine) as session:
        assert Inbox().purge(session, timedelta(days=1), limit=100) == 100
    check_index(engine, seen[-1], "araponga_inbox", "ix_araponga_inbox_accepted_at", most=2 * 100)


def test_few_are_looked_at_of_many_that_wait_when_a_worker_may_have_died(engine: Engine) -> None:
    store = cast(SqlStore, SqlAlchemyEventStore(engine).sync_store())
    store.register([Subscription("mail", "e")])
    store.append([Message(uuid4(), "e", 1, b"{}") for _ in range(MANY)])
    analyze(engine)
    with statements_of(engine) as seen:
        store.reap(["mail"])
    check_index(engine, seen[-1], "araponga_deliveries", "araponga_deliveries_suspect")


def fill(engine: Engine) -> None:
    """Many dead letters of a handler and a reason, and a few of another one; and as many rows of an inbox."""
    letters = (
        "INSERT INTO araponga_deliveries (handler, state, due_at, event_id, name, version, payload, published_at, "
        "reason, died_at) VALUES (:handler, 'dead', 0, :event_id, :name, 1, :payload, 0, :reason, :died_at)"
    )
    accepted = (
        "INSERT INTO araponga_inbox (event_id, handler, published_at, accepted_at) VALUES (:event_id, 'h', 0, :at)"
    )

    def letter(number: int, handler: str, reason: str) -> dict[str, Any]:
        return {
            "handler": handler, "event_id": uuid4().hex, "name": f"e.{handler}", "payload": b"{}", "reason": reason,
            "died_at": number,
        }  # fmt: skip

    rows = [letter(each, "deep", "attempts_exhausted") for each in range(MANY)]
    rows += [letter(MANY + each, "rare", "gave_up") for each in range(FEW)]
    recent = int(NOW.timestamp() * _MICRO)
    for row in rows:
        row["died_at"] += recent - 2 * 86_400 * _MICRO if row["died_at"] > MANY // 2 else 0
    with engine.begin() as connection:
        connection.execute(text(letters), rows)
        connection.execute(text(accepted), [{"event_id": uuid4().hex, "at": each} for each in range(MANY)])
    analyze(engine)


def analyze(engine: Engine) -> None:
    """As autovacuum does; SQLite has none."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE araponga_deliveries, araponga_inbox"))


Statement = tuple[str, Any]


@contextmanager
def statements_of(engine: Engine) -> Iterator[list[Statement]]:
    seen = list[Statement]()

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        seen.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


def check_index(engine: Engine, statement: Statement, table: str, index: str, most: int = LOOKED_AT) -> None:
    """PostgreSQL may take another index where that is no worse; it tells how many rows it looked at."""
    sql, parameters = statement
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            lines = [str(row[-1]) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters)]
            assert {_index_of(line) for line in lines if table in line} - {"rowid"} == {index}, lines
        else:
            ((plan,),) = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", parameters).all()
            assert looked_at(plan[0]["Plan"], table) <= most, json.dumps(plan, indent=1)


def _index_of(line: str) -> str:
    if "INTEGER PRIMARY KEY" in line:
        return "rowid"
    return line.split("INDEX ")[1].split(" ")[0] if "INDEX " in line else line


def looked_at(plan: dict[str, Any], table: str) -> int:
    below = sum(looked_at(each, table) for each in plan.get("Plans", ()))
    if plan.get("Relation Name") != table:
        return below
    rows = sum(plan.get(each, 0) for each in ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck"))
    return below + int(rows * plan["Actual Loops"])


# -- in batches


@pytest.mark.anyio
async def test_expired_keys_are_forgotten_a_batch_at_each_look_for_dead_workers(host: Host, clock: FakeClock) -> None:
    if host.engine is None:
        return
    store = await opened(host, clock)
    with plain(host) as connection:
        insert = text("INSERT INTO araponga_accepted (event_id, expires_at) VALUES (:id, 0)")
        connection.execute(insert, [{"id": uuid4().hex} for _ in range(4500)])
    assert await reaped(host, store, "SELECT count(*) FROM araponga_accepted") == [2500, 500, 0]


@pytest.mark.anyio
async def test_what_waits_for_a_handler_that_is_gone_is_buried_a_batch_at_each_look_for_dead_workers(
    host: Host, clock: FakeClock
) -> None:
    if host.engine is None:
        return
    store = await opened(host, clock)
    await store.append([Message(uuid4(), "e", 1, b"{}") for _ in range(4500)])
    clock.advance(timedelta(days=8))
    waiting = "SELECT count(*) FROM araponga_deliveries WHERE state <> 'dead'"
    assert await reaped(host, store, waiting) == [2500, 500, 0]
    (first,) = (await store.dead_page(DeadFilter(), 1, None)).items
    assert (first.handler, first.reason) == ("mail", DeadReason.HANDLER_GONE)


@pytest.mark.anyio
async def test_what_fails_while_tidying_up_does_not_keep_a_worker_from_finding_dead_ones(
    host: Host, clock: FakeClock
) -> None:
    if host.engine is None:
        return
    store = await opened(host, clock)
    await store.append([Message(uuid4(), "e", 1, b"{}")])
    await store.join("dead", 1.0)
    await store.exchange("dead", [], [], [Want("mail", 1)])
    clock.advance(2)
    with plain(host) as connection:
        connection.execute(text("DROP TABLE araponga_accepted"))
    keeper = store.lease_keeper()
    with pytest.raises(NotConfiguredError):
        await asyncio.to_thread(keeper.reap, ["mail"])
    assert (await asyncio.to_thread(keeper.reap, ["mail"])).rescued == 1
    await asyncio.to_thread(keeper.close)


async def opened(host: Host, clock: FakeClock) -> AsyncEventStore:
    store = awaitable_store(host.source.async_store(clock) if host.is_async else host.source.sync_store(clock))
    await store.register([Subscription("mail", "e")])
    return store


@contextmanager
def plain(host: Host) -> Iterator[Connection]:
    """A connection for the test itself, whatever the host's are."""
    engine = create_engine(host.engine.url.set(drivername=host.engine.url.drivername.replace("+aiosqlite", "")))
    with engine.begin() as connection:
        yield connection
    engine.dispose()


async def reaped(host: Host, store: AsyncEventStore, count: str) -> list[int]:
    """How many are left after each look."""
    keeper, left = store.lease_keeper(), list[int]()
    for _ in range(3):
        await asyncio.to_thread(keeper.reap, ["other"])
        with plain(host) as connection:
            left.append(connection.execute(text(count)).scalar_one())
    await asyncio.to_thread(keeper.close)
    return left


@pytest.mark.anyio
async def test_all_that_waits_for_a_handler_is_buried_when_it_is_forgotten(host: Host, clock: FakeClock) -> None:
    store = await opened(host, clock)
    await store.append([Message(uuid4(), "e", 1, b"{}") for _ in range(2500)])
    await store.append([Message(uuid4(), "e", 1, b"{}", delay_seconds=60.0) for _ in range(2500)])
    await store.forget("mail")
    stats = await store.stats()
    assert [(each.event, each.handler, each.queued, each.dead) for each in stats.handlers] == [("e", "mail", 0, 5000)]


def test_a_transaction_forgets_a_batch_of_a_handlers_deliveries(engine: Engine) -> None:
    store = cast(SqlStore, SqlAlchemyEventStore(engine).sync_store())
    store.register([Subscription("mail", "e")])
    store.append([Message(uuid4(), "e", 1, b"{}") for _ in range(4500)])
    changed = list[int]()

    def note(_connection: Any, cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("UPDATE"):
            changed.append(cursor.rowcount)

    event.listen(engine, "after_cursor_execute", note)
    store.forget("mail")
    assert changed == [2000, 2000, 500]


# -- Redis, where a script lets all others wait


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def scripts_of(client: Any, call: Callable[[], object]) -> int:
    """How many scripts it runs."""

    def count() -> int:
        return int(client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))

    before = count()
    call()
    return count() - before


def test_a_script_looks_at_a_thousand_dead_letters_at_most(client: Any) -> None:
    store = RedisStreamEventStore(client).sync_store()
    names = {"mail": "e", "post": "e.post", "rare": "e.rare"}
    store.register([Subscription(handler, name) for handler, name in names.items()])
    for name, number in (("e", 1500), ("e.rare", 1), ("e.post", 2500)):
        store.append([Message(uuid4(), name, 1, b"{}") for _ in range(number)])
    assert [scripts_of(client, partial(store.forget, each)) for each in names] == [2, 3, 1]

    def scripts_for(wanted: DeadFilter, number: int) -> int:
        assert len(store.dead_page(wanted, 10, None).items) == number
        return scripts_of(client, lambda: store.dead_page(wanted, 10, None))

    assert scripts_for(DeadFilter(), 10) == 1
    assert scripts_for(DeadFilter(event="e.rare"), 1) == scripts_for(DeadFilter(handler="rare"), 1) == 1
    assert scripts_for(DeadFilter(event="e.post", reason="gave_up"), 0) == 1
    assert scripts_for(DeadFilter(event="e.post", handler="mail"), 0) == 2
    assert store.old_letters(DeadFilter(), NOW - timedelta(days=1), 100, None).next is None


def test_nothing_is_left_of_dead_letters_that_are_gone(client: Any) -> None:
    store = RedisStreamEventStore(client).sync_store()
    store.register([Subscription("mail", "e")])
    store.append([Message(uuid4(), "e", 1, b"{}"), Message(uuid4(), "e", 1, b"{}")])
    store.forget("mail")
    store.register([Subscription("mail", "e")])
    first, second = store.dead_page(DeadFilter(), 10, None).items
    assert (store.redrive([first.id]), store.discard([second.id])) == (1, 1)
    assert store.old_letters(DeadFilter(), NOW + timedelta(days=1), 10, None).items == ()
    assert [each.rpartition(b":dead:")[2] for each in client.keys("*:dead*")] == [b"last"]
    assert client.keys("*:letter:*") == []


def test_forgetting_goes_on_where_it_was_interrupted(client: Any) -> None:
    store = RedisStreamEventStore(client).sync_store()
    assert isinstance(store, RedisStore)
    store.register([Subscription("mail", "e")])
    store.append([Message(uuid4(), "e", 1, b"{}") for _ in range(1500)])
    assert store._run(store._operations.forget("mail")) == 1000
    store.forget("mail")
    (counted,) = store.stats().handlers
    assert (counted.event, counted.handler, counted.queued, counted.dead) == ("e", "mail", 0, 1500)


def test_what_is_held_of_a_forgotten_handler_and_not_done_is_a_dead_letter(client: Any, clock: FakeClock) -> None:
    store = RedisStreamEventStore(client).sync_store(clock)
    keeper = store.lease_keeper()
    store.register([Subscription("mail", "e")])
    store.append([Message(uuid4(), "e", 1, b"{}") for _ in range(3)])
    for owner in ("lost", "late"):
        store.join(owner, 2.0)
    (lost,) = store.exchange("lost", [], [], [Want("mail", 1)]).deliveries
    done, failed = store.exchange("late", [], [], [Want("mail", 2)]).deliveries
    store.forget("mail")
    again = decide(failed.attempts, failed.losses, Failed("no"), RetryPolicy())
    store.exchange("late", [("late", done)], [(("late", failed), again)], [])
    keeper.reap(["other"])
    stats = store.stats()
    assert (stats.queued, stats.running, stats.retrying, stats.dead) == (0, 1, 0, 1)
    clock.advance(3)
    keeper.reap(["other"])
    letters = store.dead_page(DeadFilter(reason=DeadReason.HANDLER_GONE), 10, None).items
    assert [each.event_id for each in letters] == [failed.event_id, lost.event_id]
    store.register([Subscription("mail", "e")])
    store.redrive([each.id for each in letters])
    keeper.reap(["other"])
    keeper.close()
    assert store.stats().queued == 2
