"""What `benchmarks.events` measures with much to keep: a store is filled, then looked at, worked on and emptied."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any, cast
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from araponga_infra.events import (
    AsyncBackgroundEventProcessor,
    AsyncInbox,
    DeliveryContext,
    EventStoreSource,
    SqlAlchemyEventStore,
)
from araponga_infra.events.protocols import AsyncEventStore
from araponga_infra.events.stores.sqlalchemy.shells import AsyncSqlStore
from araponga_infra.events.values import Delivery, Message, Receipt, Subscription, Want
from benchmarks._event_peers import PAYLOAD, Measured

REASONS = ("gave_up", "worker_lost", "undecodable", "no_upcaster", "unknown_event")
"""Of each there are 200 dead letters, behind all the others."""
_TIMES = 15
_DAY = "86400000000"


async def sql_retention(name: str, engine: AsyncEngine, source: EventStoreSource, depth: int) -> Measured:
    """Milliseconds, with `depth` each of dead letters, queued deliveries, idempotency keys and rows of the inbox."""
    await _fill(engine, depth)
    store = cast(AsyncSqlStore, source.async_store())
    found = await _letters(source, depth)
    events, rest = AsyncBackgroundEventProcessor(source, consume=False), iter(REASONS)
    letters = events.dead_letters
    found |= {
        "a page of a reason": await timed(lambda: letters.list(reason="gave_up")),
        "a page of a handler and a reason": await timed(lambda: letters.list(handler="deep", reason="gave_up")),
        "redriving the 200 of a reason": await timed(lambda: letters.redrive_all(reason=next(rest)), len(REASONS)),
    }
    await events.stop()
    found |= await _publishing(engine, source)
    found |= {
        "claim of 100": await _claims(store),
        "the look for dead workers": await timed(lambda: store.reap(["deep"])),
        "tidying up with nothing to do": await timed(store.sweep),
    }
    found |= await _removal(source) | await _expiry(engine, store, depth)
    return _named(name, depth, found)


async def redis_retention(source: EventStoreSource, depth: int) -> Measured:
    """The same with `depth` each of dead letters and queued deliveries."""
    store = source.async_store()
    await store.register([Subscription("deep", "bench.posted"), Subscription("rare", "bench.rare")])
    for _ in range(0, depth, 1000):
        await store.append([Message(uuid4(), "bench.posted", 1, PAYLOAD) for _ in range(1000)])
    await store.forget("deep")
    await store.append([Message(uuid4(), "bench.rare", 1, PAYLOAD) for _ in range(200)])
    await store.forget("rare")
    await store.register([Subscription("deep", "bench.posted"), Subscription("rare", "bench.rare")])
    for _ in range(0, depth, 1000):
        await store.append([Message(uuid4(), "bench.posted", 1, PAYLOAD) for _ in range(1000)])
    keeper = store.lease_keeper()
    found = await _letters(source, depth)

    async def look() -> None:
        keeper.reap(["deep"])

    found |= {"claim of 100": await _claims(store), "the look for dead workers": await timed(look)}
    keeper.close()
    return _named("Redis", depth, found | await _removal(source))


def _named(store: str, depth: int, found: Measured) -> Measured:
    return {f"{store} at {depth:,}: {name}": value for name, value in found.items()}


NOTE = (
    "Milliseconds, medians, with as many dead letters, as many queued deliveries and, in SQL, as many idempotency keys "
    "and rows of an inbox as the column says. `stats` counts rows in SQL; what is removed takes as long as there is of "
    "it, and its longest step is what others may wait for."
)


def table(measured: Measured) -> list[str]:
    """A row for each operation, a column for each store and depth."""
    places = {name: name.split(": ", 1) for name in measured}
    columns = list(dict.fromkeys(column for column, _ in places.values()))
    rows = dict[str, dict[str, float]]()
    for name, (column, row) in places.items():
        rows.setdefault(row, {})[column] = measured[name]
    lines = ["", NOTE, "", f"| | {' | '.join(columns)} |", f"|-|{'-:|' * len(columns)}"]
    return [
        *lines,
        *(f"| {row} | {' | '.join(_cell(found.get(each)) for each in columns)} |" for row, found in rows.items()),
    ]


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


async def timed(work: Callable[[], Awaitable[Any]], times: int = _TIMES) -> float:
    """Milliseconds, the median."""
    taken = list[float]()
    for _ in range(times):
        begin = time.perf_counter()
        await work()
        taken.append((time.perf_counter() - begin) * 1000)
    return statistics.median(taken)


async def _letters(source: EventStoreSource, depth: int) -> Measured:
    events = AsyncBackgroundEventProcessor(source, consume=False)
    letters = events.dead_letters
    first = (await letters.list(limit=1)).items[0].id
    middle = str(int(first) + depth // 2)
    found = {
        "the first page of 100": await timed(letters.list),
        "a page in the middle": await timed(lambda: letters.list(after=middle)),
        "a page of a handler": await timed(lambda: letters.list(handler="rare")),
        "a page of an event": await timed(lambda: letters.list(event="bench.rare")),
        "one letter": await timed(lambda: letters.get(middle)),
        "a purge of nothing": await timed(lambda: letters.purge(timedelta(days=30))),
        "stats": await timed(events.stats, 3),
    }
    await events.stop()
    return found


async def _publishing(engine: AsyncEngine, source: EventStoreSource) -> Measured:
    store, inbox = source.async_store(), AsyncInbox()

    async def publish() -> None:
        await store.append([Message(uuid4(), "bench.rare", 1, PAYLOAD, window_seconds=60.0)])

    async def accept() -> None:
        async with AsyncSession(engine) as session, session.begin():
            await inbox.accept(session, _context())

    async def purge() -> None:
        async with AsyncSession(engine) as session, session.begin():
            await inbox.purge(session, timedelta(days=90))

    return {
        "publish with an idempotency key": await timed(publish),
        "an inbox's accept": await timed(accept),
        "an inbox's purge of nothing": await timed(purge),
    }


async def _claims(store: AsyncEventStore) -> float:
    """Each acknowledges the 100 before."""
    owner, completed = "bench", list[Receipt]()
    await store.join(owner, 3600.0)

    async def claim() -> None:
        exchange = await store.exchange(owner, completed, [], [Want("deep", 100)])
        assert len(exchange.deliveries) == 100
        completed[:] = [(owner, each) for each in exchange.deliveries]

    taken = await timed(claim)
    await store.exchange(owner, completed, [], [])
    return taken


async def _removal(source: EventStoreSource) -> Measured:
    """What has to grow, for each 1,000 that are removed, and the longest step, which is what others wait for."""
    events = AsyncBackgroundEventProcessor(source, consume=False)
    steps = [time.perf_counter()]
    purged = await events.dead_letters.purge(0, on_progress=lambda _done: steps.append(time.perf_counter()))
    await events.stop()
    return {
        "purge, for each 1,000": (steps[-1] - steps[0]) * 1e6 / purged,
        "purge, the longest step": max(after - before for before, after in pairwise(steps)) * 1000,
    }


async def _expiry(engine: AsyncEngine, store: AsyncSqlStore, depth: int) -> Measured:
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE araponga_accepted SET expires_at = 0"))
    await _analyze(engine)
    steps, is_more = [time.perf_counter()], True
    while is_more:
        is_more = await store.sweep()
        steps.append(time.perf_counter())
    return {
        "expired keys, for each 1,000": (steps[-1] - steps[0]) * 1e6 / depth,
        "expired keys, the longest step": max(after - before for before, after in pairwise(steps)) * 1000,
    }


async def _fill(engine: AsyncEngine, depth: int) -> None:
    """Without the store, which would take hours."""
    await _subscribe(engine)
    is_postgres = engine.dialect.name == "postgresql"
    uuid = "gen_random_uuid()" if is_postgres else "lower(hex(randomblob(16)))"
    now = "CAST(EXTRACT(EPOCH FROM now()) * 1000000 AS BIGINT)" if is_postgres else "unixepoch() * 1000000"
    columns = (
        "INSERT INTO araponga_deliveries (handler, state, due_at, event_id, name, version, payload, published_at, "
        f"attempts, reason, error, died_at) SELECT {{}}, {{}}, 0, {uuid}, {{}}, 1, :payload, {now}, 3, {{}}, {{}}, "
        "{} FROM rows"
    )
    dead = columns.format("'deep'", "'dead'", "'bench.posted'", "'attempts_exhausted'", "'OSError: no'", now)
    rare = columns.format("'rare'", "'dead'", "'bench.rare'", ":reason", "'OSError: no'", now)
    queued = columns.format("'deep'", "'available'", "'bench.posted'", "NULL", "NULL", "NULL")
    accepted = f"INSERT INTO araponga_accepted (event_id, expires_at) SELECT {uuid}, {now} + {_DAY} FROM rows"
    inbox = (
        "INSERT INTO araponga_inbox (event_id, handler, published_at, accepted_at) "
        f"SELECT {uuid}, 'deep', {now}, {now} FROM rows"
    )
    workers = f"INSERT INTO araponga_workers (owner, expires_at) SELECT {uuid}, {now} + {_DAY} FROM rows"
    async with engine.begin() as connection:
        for statement, rows in ((dead, depth), (accepted, depth), (inbox, depth), (workers, 100), (queued, depth)):
            await _insert(connection, statement, rows)
        for reason in REASONS:
            await _insert(connection, rare, 200, reason=reason)
    await _analyze(engine)


async def _insert(connection: AsyncConnection, statement: str, rows: int, **values: str) -> None:
    counted = (
        "WITH RECURSIVE rows(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM rows WHERE n < :rows) "
        if connection.dialect.name == "sqlite"
        else "WITH rows AS (SELECT generate_series(1, CAST(:rows AS INT)))"
    )
    head, _, select = statement.partition("SELECT")
    given = {"rows": rows, **values} | ({"payload": PAYLOAD} if ":payload" in statement else {})
    await connection.execute(text(f"{head} {counted} SELECT {select}"), given)


async def _subscribe(engine: AsyncEngine) -> None:
    source = SqlAlchemyEventStore(engine)
    await source.create_schema()
    await source.async_store().register([Subscription("deep", "bench.posted"), Subscription("rare", "bench.rare")])


async def _analyze(engine: AsyncEngine) -> None:
    """What autovacuum does on a server that has it; SQLite has none."""
    if engine.dialect.name == "postgresql":
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(text("VACUUM (ANALYZE)"))


def _context() -> DeliveryContext:
    delivery = Delivery("1", "deep", uuid4(), "bench.posted", 1, PAYLOAD, None, time.time())
    return DeliveryContext(delivery, attempt=1, deadline=None)
