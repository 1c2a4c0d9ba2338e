"""Background events next to what is possible and to their peers: `python -m benchmarks.events [PART ...] [--write]`.

Ratios are what counts: the machine's own speed cancels out of them. Within a part everything is measured in turn, once
a round, and a ratio is the median of the rounds' ratios. `--write` keeps the parts that ran in docs/benchmarks/events.*
next to those of earlier runs, so that a part can have the machine for itself. Peers (`benchmarks._event_peers`) are
measured where they are installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import platform
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import redis.asyncio
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from araponga_infra.events import (
    AsyncBackgroundEventProcessor,
    EventRouter,
    EventStoreSource,
    InMemoryEventStore,
    RedisStreamEventStore,
    SqlAlchemyEventStore,
    event,
)
from araponga_infra.events.values import Receipt, Want
from araponga_infra.telemetry import Record
from benchmarks import _event_peers as peers
from benchmarks import _event_retention as retention
from benchmarks._event_peers import SLOTS, TEXT, Arrivals, Latency, Measured, per_second
from tests.servers.postgres import PostgresServer
from tests.servers.redis_server import RedisServer

OUTPUT = Path(__file__).parents[1] / "docs" / "benchmarks"
FIGURES = OUTPUT / "events.json"
NOTES = "\n## What stands in the way\n"
Clock = Callable[[], float]
ROW = text(
    "INSERT INTO araponga_deliveries (handler, state, due_at, event_id, name, version, payload, published_at) "
    "VALUES ('costs', 'available', 0, :event_id, 'bench.posted', 1, :payload, 0)"
)


@event("bench.posted", version=1)
@dataclass(frozen=True)
class Posted:
    number: int
    text: str = TEXT


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]


class Counter:
    """An observer, since a service has one."""

    count = 0

    def observe(self, _record: Record) -> None:
        self.count += 1


# -- ours


async def measure(
    source: EventStoreSource, number: int, prefix: str, *, one_by_one: int = 1000, clock: Clock = time.perf_counter
) -> Measured:
    """Publish one by one and in batches of 100, then drain it all with five slots."""
    router, arrivals = EventRouter(), Arrivals(number)

    @router.subscribe(Posted)
    async def handle(_posted: Posted) -> None:
        arrivals.note()

    publisher = AsyncBackgroundEventProcessor(
        source, routers=[router], consume=False, max_queued=10**7, observer=Counter()
    )
    await publisher.start()
    begin = clock()
    for each in range(one_by_one):
        await publisher.publish(Posted(each))
    single = per_second(one_by_one, begin, clock)
    begin = clock()
    for first in range(one_by_one, number, 100):
        await publisher.publish_many([Posted(first + each) for each in range(100)])
    batched = per_second(number - one_by_one, begin, clock)
    worker = AsyncBackgroundEventProcessor(source, routers=[router], observer=Counter(), max_concurrency=SLOTS)
    begin = clock()
    await worker.start()
    await arrivals.done.wait()
    drained = per_second(number, begin, clock)
    await worker.stop()
    await publisher.stop()
    return {f"{prefix} publish": single, f"{prefix} publish_many": batched, f"{prefix} drain": drained}


async def idle_latency(source: EventStoreSource, number: int) -> Measured:
    router, latency = EventRouter(), Latency()

    @router.subscribe(Posted, name="idle")
    async def handle(_posted: Posted) -> None:
        latency.note()

    async with (
        AsyncBackgroundEventProcessor(source, routers=[router], observer=Counter()),
        AsyncBackgroundEventProcessor(source, consume=False, observer=Counter()) as publisher,
    ):
        await asyncio.sleep(0.5)
        found = await latency.measure(number, lambda: publisher.publish(Posted(1)))
    return {f"PostgreSQL idle latency {name}, ms": value for name, value in found.items()}


# -- what is possible


async def bare_queue(number: int, clock: Clock) -> Measured:
    queue: asyncio.Queue[Posted] = asyncio.Queue()
    begin = clock()
    for each in range(number):
        await queue.put(Posted(each))
    put = per_second(number, begin, clock)
    arrivals = Arrivals(number)

    async def work() -> None:
        while True:
            await queue.get()
            arrivals.note()

    begin = clock()
    workers = [asyncio.create_task(work()) for _ in range(SLOTS)]
    await arrivals.done.wait()
    drained = per_second(number, begin, clock)
    for worker in workers:
        worker.cancel()
    return {"asyncio.Queue put": put, "asyncio.Queue drain": drained}


async def raw_table(engine: AsyncEngine, number: int) -> Measured:
    """A bare queue table with the same columns: insert in batches of 100, claim and acknowledge in batches of 100."""
    store = SqlAlchemyEventStore(engine)
    await store.create_schema()
    table = store.metadata.tables["araponga_deliveries"]
    row = {
        "handler": "raw", "state": "available", "due_at": 0, "event_id": uuid4(), "name": "raw",
        "version": 1, "payload": b"x" * 100, "published_at": 0,
    }  # fmt: skip
    begin = time.perf_counter()
    for _ in range(0, number, 100):
        async with engine.begin() as connection:
            await connection.execute(insert(table), [row] * 100)
    inserted = per_second(number, begin)
    claim = text(
        "UPDATE araponga_deliveries SET state = 'running' WHERE id = ANY(ARRAY(SELECT id FROM araponga_deliveries "
        "WHERE handler = 'raw' AND state IN ('available', 'retryable') ORDER BY due_at, id LIMIT 100 "
        "FOR UPDATE SKIP LOCKED)) RETURNING id, payload"
    )
    acknowledge = text("DELETE FROM araponga_deliveries WHERE id = ANY(CAST(:ids AS BIGINT[]))")
    begin = time.perf_counter()
    while claimed := await _claim(engine, claim):
        async with engine.begin() as connection:
            await connection.execute(acknowledge, {"ids": claimed})
    return {"raw insert in 100s": inserted, "raw claim + ack in 100s": per_second(number, begin)}


async def _claim(engine: AsyncEngine, statement: Any) -> list[int]:
    async with engine.begin() as connection:
        return list((await connection.execute(statement)).scalars())


async def outbox_cost(engine: AsyncEngine, source: EventStoreSource, number: int) -> Measured:
    """Small transactions, in turn without and with `publish_in`, and with what it cannot do without; microseconds."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    router = EventRouter()
    router.subscribe(Posted, name="costs")(_ignore)
    publisher = AsyncBackgroundEventProcessor(source, routers=[router], consume=False, observer=Counter())
    await publisher.start()
    note = text("INSERT INTO note (number) VALUES (1)")

    async def two(session: AsyncSession) -> None:
        await session.execute(note)
        await session.execute(note)

    async def three(session: AsyncSession) -> None:
        await two(session)
        await session.execute(note)

    async def two_and_row(session: AsyncSession) -> None:
        await two(session)
        await session.execute(ROW, {"event_id": uuid4(), "payload": b"x" * 100})

    async def two_and_publish(session: AsyncSession) -> None:
        await two(session)
        publisher.publish_in(session, Posted(1))

    async def entities(session: AsyncSession) -> None:
        read = await session.get_one(Note, 1)
        read.number += 1
        session.add(Note(number=2))

    async def entities_and_publish(session: AsyncSession) -> None:
        await entities(session)
        publisher.publish_in(session, Posted(1))

    modes = {
        "two INSERTs, us": two,
        "three INSERTs, us": three,
        "two INSERTs and the delivery's row by hand, us": two_and_row,
        "two INSERTs and publish_in, us": two_and_publish,
        "read, change and add an entity, us": entities,
        "read, change and add an entity, and publish_in, us": entities_and_publish,
    }
    async with AsyncSession(engine) as session, session.begin():
        session.add(Note(number=0))
    taken: dict[str, list[float]] = {name: [] for name in modes}
    for _ in range(number):
        for name, work in modes.items():
            begin = time.perf_counter()
            async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
                await work(session)
            taken[name].append((time.perf_counter() - begin) * 1e6)
    await publisher.stop()
    return {name: statistics.median(each) for name, each in taken.items()}


async def _ignore(_posted: Posted) -> None: ...


async def publish_deep(source: EventStoreSource, name: str, depth: int) -> None:
    router = EventRouter()
    router.subscribe(Posted, name=name)(_ignore)
    publisher = AsyncBackgroundEventProcessor(source, routers=[router], consume=False)
    await publisher.start()
    for _ in range(0, depth, 5000):
        await publisher.publish_many([Posted(each) for each in range(5000)])
    await publisher.stop()


async def claims(source: EventStoreSource, number: int) -> float:
    """Milliseconds for a claim of 100 that acknowledges the 100 before; the median."""
    store, owner = source.async_store(), "bench"
    taken, completed = list[float](), list[Receipt]()
    await store.join(owner, 3600.0)
    for _ in range(number):
        begin = time.perf_counter()
        exchange = await store.exchange(owner, completed, [], [Want("deep", 100)])
        taken.append((time.perf_counter() - begin) * 1000)
        assert len(exchange.deliveries) == 100
        completed = [(owner, each) for each in exchange.deliveries]
    await store.exchange(owner, completed, [], [])
    await store.leave(owner)
    return statistics.median(taken)


async def vacuum(engine: AsyncEngine) -> None:
    """What autovacuum does on a server that has it."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM (ANALYZE) araponga_deliveries"))


async def at_depth(engine: AsyncEngine, source: EventStoreSource, depth: int) -> Measured:
    await publish_deep(source, "deep", depth)
    await vacuum(engine)
    return {f"claim of 100 at {depth:,} queued, ms": await claims(source, 50)}


async def under_snapshot(engine: AsyncEngine, source: EventStoreSource, churned: int) -> Measured:
    """While somebody's transaction sees what is long done, nothing of it can be vacuumed, from table nor index."""
    await publish_deep(source, "deep", churned + 20_000)
    await vacuum(engine)
    before = await claims(source, 50)
    async with engine.connect() as holder:
        await holder.execution_options(isolation_level="REPEATABLE READ")
        await holder.execute(text("SELECT count(*) FROM araponga_deliveries"))
        await claims(source, churned // 100)
        await vacuum(engine)
        held = await claims(source, 50)
    await vacuum(engine)
    after = await claims(source, 50)
    return {
        "claim of 100, ms": before,
        f"claim of 100 over {churned:,} rows that a snapshot holds, ms": held,
        "claim of 100 once the snapshot is gone, ms": after,
    }


# -- one round of each part


async def memory_round(number: int) -> Measured:
    """On the processor's clock: nothing here waits, and other programs shall not be counted."""
    clock = time.process_time
    found = await bare_queue(number, clock)
    found |= await measure(InMemoryEventStore(), number, "memory", one_by_one=number // 2, clock=clock)
    if find_spec("taskiq"):
        found |= await peers.taskiq_in_memory(min(number, 5000), clock)
    return found


@asynccontextmanager
async def sqlite_store(folder: str) -> AsyncGenerator[tuple[AsyncEngine, EventStoreSource]]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/events.db")

    @sqlalchemy_event.listens_for(engine.sync_engine, "connect")
    def tune(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    source = SqlAlchemyEventStore(engine)
    await source.create_schema()
    yield engine, source
    await engine.dispose()


async def sqlite_round(number: int) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        async with sqlite_store(folder) as (_, source):
            found = await measure(source, number, "SQLite")
        if find_spec("huey"):
            found |= await asyncio.to_thread(peers.huey_on_sqlite, Path(folder), min(number, 2000))
        return found


@asynccontextmanager
async def sql_store(url: str) -> AsyncGenerator[tuple[AsyncEngine, EventStoreSource]]:
    engine = create_async_engine(url)
    source = SqlAlchemyEventStore(engine)
    await source.create_schema()
    yield engine, source
    await engine.dispose()


async def postgres_round(url: str, number: int) -> Measured:
    async with sql_store(url) as (engine, source):
        found = await raw_table(engine, number) | await measure(source, number, "PostgreSQL")
    if find_spec("pgqueuer"):
        found |= await peers.pgqueuer_on_postgres(url, number)
    if find_spec("procrastinate"):
        found |= await peers.procrastinate_on_postgres(url, min(number, 1000))
    return found


async def outbox_round(url: str, number: int) -> Measured:
    async with sql_store(url) as (engine, source):
        return await outbox_cost(engine, source, number // 50)


async def latency_round(url: str, number: int) -> Measured:
    found: Measured = {}
    async with sql_store(url) as (_, source):
        found |= await idle_latency(source, number // 200)
    if find_spec("pgqueuer"):
        found |= await peers.pgqueuer_latency(url, number // 200)
    return found


async def redis_round(url: str, number: int) -> Measured:
    async with redis.asyncio.Redis.from_url(url) as client:
        await client.flushdb()
        found = await measure(RedisStreamEventStore(client), number, "Redis")
        left = [await client.xlen(key) for key in await client.keys("*:ready:*")]
        assert not any(left), "the streams are empty afterwards"
    if find_spec("taskiq_redis"):
        found |= await peers.taskiq_on_redis(url, min(number, 3000))
    return found


async def shallow_round(url: str, number: int) -> Measured:
    async with sql_store(url) as (engine, source):
        return await at_depth(engine, source, number)


async def snapshot_round(url: str, number: int) -> Measured:
    async with sql_store(url) as (engine, source):
        return await under_snapshot(engine, source, 8 * number)


async def retention_on_postgres(url: str, number: int) -> Measured:
    async with sql_store(url) as (engine, source):
        return await retention.sql_retention("PostgreSQL", engine, source, number)


async def retention_on_sqlite(number: int) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        async with sqlite_store(folder) as (engine, source):
            return await retention.sql_retention("SQLite", engine, source, number)


async def retention_on_redis(url: str, number: int) -> Measured:
    async with redis.asyncio.Redis.from_url(url) as client:
        await client.flushdb()
        return await retention.redis_retention(RedisStreamEventStore(client), number)


# -- parts


@dataclass(frozen=True)
class Ratio:
    ours: str
    theirs: str
    aim: float
    is_limit: bool = False
    """Whether it should be at most `aim`."""

    def of(self, rounds: list[Measured]) -> float | None:
        found = [each[self.ours] / each[self.theirs] for each in rounds if {self.ours, self.theirs} <= each.keys()]
        return statistics.median(found) if found else None


RATIOS = (
    Ratio("memory publish", "asyncio.Queue put", 0.08),
    Ratio("memory drain", "asyncio.Queue drain", 0.05),
    Ratio("memory drain", "taskiq in memory, publish and drain", 5),
    Ratio("SQLite drain", "huey on SQLite, drain", 5),
    Ratio("PostgreSQL publish_many", "raw insert in 100s", 0.8),
    Ratio("PostgreSQL drain", "raw claim + ack in 100s", 0.4),
    Ratio("PostgreSQL drain", "pgqueuer, drain", 3),
    Ratio("PostgreSQL drain", "procrastinate, drain", 30),
    Ratio("two INSERTs and publish_in, us", "two INSERTs, us", 1.25, is_limit=True),
    Ratio(
        "read, change and add an entity, and publish_in, us", "read, change and add an entity, us", 1.25, is_limit=True
    ),
    Ratio("PostgreSQL idle latency p50, ms", "pgqueuer idle latency p50, ms", 0.75, is_limit=True),
    Ratio("Redis drain", "taskiq on Redis streams, drain", 5),
    Ratio("claim of 100 at 1,000,000 queued, ms", "claim of 100 at 10,000 queued, ms", 2, is_limit=True),
    Ratio("claim of 100 over 80,000 rows that a snapshot holds, ms", "claim of 100, ms", 2, is_limit=True),
)
"""What the part's rounds are expected to show."""


class Bench:
    """The servers and the numbers of one run; each method measures a part and gives its rounds."""

    def __init__(self, postgres: PostgresServer, redis_server: RedisServer, events: int, rounds: int) -> None:
        self._postgres = postgres
        self._redis = redis_server
        self._events = events
        self._rounds = rounds

    def measure(self, part: str) -> list[Measured]:
        found: list[Measured] = getattr(self, part)()
        return found

    def memory(self) -> list[Measured]:
        return [asyncio.run(memory_round(self._events)) for _ in range(5 * self._rounds)]

    def sqlite(self) -> list[Measured]:
        return [asyncio.run(sqlite_round(self._events)) for _ in range(self._rounds)]

    def redis(self) -> list[Measured]:
        return [asyncio.run(redis_round(self._redis.url(), self._events)) for _ in range(self._rounds)]

    def postgres(self) -> list[Measured]:
        return [self._on_database(postgres_round) for _ in range(self._rounds)]

    def outbox(self) -> list[Measured]:
        return [self._on_database(outbox_round) for _ in range(2 * self._rounds)]

    def latency(self) -> list[Measured]:
        return [self._on_database(latency_round) for _ in range(2 * self._rounds)]

    def depth(self) -> list[Measured]:
        shallow = self._on_database(shallow_round)
        return [shallow | self._on_database(lambda url, number: shallow_round(url, 100 * number))]

    def snapshot(self) -> list[Measured]:
        return [self._on_database(snapshot_round)]

    def retention(self) -> list[Measured]:
        found = self._on_database(retention_on_postgres)
        found |= self._on_database(lambda url, number: retention_on_postgres(url, 100 * number))
        for depth in (self._events, 100 * self._events):
            found |= asyncio.run(retention_on_sqlite(depth))
        for depth in (self._events, 20 * self._events):
            found |= asyncio.run(retention_on_redis(self._redis.url(), depth))
        return [found]

    def _on_database(self, measure_once: Callable[[str, int], Coroutine[Any, Any, Measured]]) -> Measured:
        with self._postgres.temporary_database() as fresh:
            return asyncio.run(measure_once(fresh.url("asyncpg"), self._events))


PARTS = ("memory", "sqlite", "postgres", "outbox", "latency", "redis", "depth", "snapshot", "retention")


# -- report


def report(parts: dict[str, list[Measured]]) -> str:
    circumstances = (
        f"Python {platform.python_version()}, {platform.machine()}, {SLOTS} slots, events of about 110 B, with retry, "
        "timeout and an observer, when publishing as well. Events per second unless it says otherwise; medians of "
        "rounds. The ratios are of the same round and the ones to look at on a machine that does other things. The "
        "servers do not sync to disk. `python -m benchmarks.events --write` writes this page, a part at a time when "
        "told which."
    )
    lines = [
        "# What background events cost",
        "",
        circumstances,
        "",
        "![ratios to what was aimed at](events.svg)",
        "",
        "| ratio | aim | median |",
        "|-|-:|-:|",
    ]
    for ratio, value in found_ratios(parts):
        bound = "at most" if ratio.is_limit else "at least"
        lines.append(f"| {ratio.ours} / {ratio.theirs} | {bound} {ratio.aim:g} | {value:.2f} |")
    for part, rounds in parts.items():
        names = list(dict.fromkeys(name for each in rounds for name in each))
        lines += ["", f"## {part}, {len(rounds)} rounds" if len(rounds) > 1 else f"## {part}"]
        if part == "retention":
            lines += retention.table(rounds[0])
            continue
        lines += ["", "| | median |", "|-|-:|"]
        for name in names:
            value = statistics.median(each[name] for each in rounds if name in each)
            lines.append(f"| {name} | {value:,.2f} |" if value < 100 else f"| {name} | {value:,.0f} |")
    return "\n".join(lines) + "\n"


def found_ratios(parts: dict[str, list[Measured]]) -> list[tuple[Ratio, float]]:
    rounds = [each for part in parts.values() for each in part]
    return [(ratio, value) for ratio in RATIOS if (value := ratio.of(rounds)) is not None]


def plot(parts: dict[str, list[Measured]]) -> str:
    """A bar per ratio, to its aim, on a logarithmic scale; as an SVG that needs no library."""
    bar, left, width = 26, 560, 300
    rows: list[str] = []
    reached = [
        (f"{ratio.ours} / {ratio.theirs}", ratio.aim / value if ratio.is_limit else value / ratio.aim)
        for ratio, value in found_ratios(parts)
    ]
    largest = max([2.0, *(value for _, value in reached)])
    unit = width / math.log2(4 * largest)
    for at, (name, value) in enumerate(reached):
        length = max(2.0, unit * math.log2(4 * value))
        colour = "#4a7c59" if value >= 1 else "#b5533c"
        rows.append(
            f'<text x="{left - 8}" y="{at * bar + 18}" text-anchor="end">{name}</text>'
            f'<rect x="{left}" y="{at * bar + 4}" width="{length:.0f}" height="18" fill="{colour}"/>'
            f'<text x="{left + length + 6:.0f}" y="{at * bar + 18}">{value:.2f} of the aim</text>'
        )
    aim, height = left + 2 * unit, len(rows) * bar + 8
    line = f'<line x1="{aim:.0f}" y1="0" x2="{aim:.0f}" y2="{height}" stroke="#222" stroke-dasharray="4 3"/>'
    size = f'width="{left + width + 110}" height="{height}" font-family="sans-serif" font-size="12"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(rows)}{line}</svg>\n'


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when none is named")
    arguments.add_argument("--events", type=int, default=10_000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--write", action="store_true", help="keep the parts in docs/benchmarks/events.*")
    chosen = arguments.parse_args()
    with PostgresServer.create() as postgres, RedisServer.create() as redis_server:
        bench = Bench(postgres, redis_server, chosen.events, chosen.rounds)
        measured = {part: bench.measure(part) for part in chosen.parts or PARTS}
    print(report(measured))
    if chosen.write:
        kept: dict[str, list[Measured]] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
        every = {part: measured.get(part) or kept[part] for part in PARTS if part in measured or part in kept}
        FIGURES.write_text(json.dumps(every, indent=1) + "\n")
        (OUTPUT / "events.md").write_text(report(every) + notes())
        (OUTPUT / "events.svg").write_text(plot(every))


def notes() -> str:
    """What is written by hand below the figures."""
    written = (OUTPUT / "events.md").read_text() if (OUTPUT / "events.md").exists() else ""
    return written[written.index(NOTES) :] if NOTES in written else ""


if __name__ == "__main__":
    main()
