"""Background events next to what is possible and to their peers, in one run: `python -m benchmarks.events [--write]`.

Ratios are what counts: the machine's own speed cancels out of them. Each figure is the median of its rounds; in each
round everything is measured once, in turn. Peers (huey, taskiq, taskiq-redis) are measured where they are installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import redis.asyncio
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from araponga_infra.events import (
    AsyncBackgroundEventProcessor,
    EventRouter,
    EventStoreSource,
    InMemoryEventStore,
    RedisStreamEventStore,
    SqlAlchemyEventStore,
    event,
)
from araponga_infra.events.values import Want
from araponga_infra.telemetry import Record
from tests.servers.postgres import PostgresServer
from tests.servers.redis_server import RedisServer

OUTPUT = Path(__file__).parents[1] / "docs" / "benchmarks"
SLOTS = 5
Measured = dict[str, float]


@event("bench.posted", version=1)
@dataclass(frozen=True)
class Posted:
    number: int
    text: str = "x" * 80


class Counter:
    """An observer, since a service has one."""

    count = 0

    def observe(self, _record: Record) -> None:
        self.count += 1


def per_second(number: int, begin: float) -> float:
    return number / (time.perf_counter() - begin)


# -- ours


async def measure(source: EventStoreSource, number: int, prefix: str, *, one_by_one: int = 1000) -> Measured:
    """Publish one by one and in batches of 100, then drain it all with five slots."""
    router, done, seen = EventRouter(), asyncio.Event(), 0

    @router.subscribe(Posted)
    async def handle(_posted: Posted) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            done.set()

    publisher = AsyncBackgroundEventProcessor(source, routers=[router], consume=False, max_queued=10**7)
    await publisher.start()
    begin = time.perf_counter()
    for each in range(one_by_one):
        await publisher.publish(Posted(each))
    single = per_second(one_by_one, begin)
    begin = time.perf_counter()
    for first in range(one_by_one, number, 100):
        await publisher.publish_many([Posted(first + each) for each in range(100)])
    batched = per_second(number - one_by_one, begin)
    worker = AsyncBackgroundEventProcessor(source, routers=[router], observer=Counter(), max_concurrency=SLOTS)
    begin = time.perf_counter()
    await worker.start()
    await done.wait()
    drained = per_second(number, begin)
    await worker.stop()
    await publisher.stop()
    return {f"{prefix} publish": single, f"{prefix} publish_many": batched, f"{prefix} drain": drained}


async def idle_latency(source: EventStoreSource, number: int) -> float:
    """Milliseconds from the call of publish to the start of the handler, on an idle processor; the median."""
    router, begun, taken = EventRouter(), 0.0, list[float]()
    arrived = asyncio.Event()

    @router.subscribe(Posted, name="idle")
    async def handle(_posted: Posted) -> None:
        taken.append((time.perf_counter() - begun) * 1000)
        arrived.set()

    async with (
        AsyncBackgroundEventProcessor(source, routers=[router]),
        AsyncBackgroundEventProcessor(source, consume=False) as publisher,
    ):
        for each in range(number):
            await asyncio.sleep(0.03)
            arrived.clear()
            begun = time.perf_counter()
            await publisher.publish(Posted(each))
            await arrived.wait()
    return statistics.median(taken)


# -- what is possible


async def bare_queue(number: int) -> Measured:
    queue: asyncio.Queue[Posted] = asyncio.Queue()
    begin = time.perf_counter()
    for each in range(number):
        await queue.put(Posted(each))
    put = per_second(number, begin)
    seen, done = 0, asyncio.Event()

    async def work() -> None:
        nonlocal seen
        while True:
            await queue.get()
            seen += 1
            if seen == number:
                done.set()

    begin = time.perf_counter()
    workers = [asyncio.create_task(work()) for _ in range(SLOTS)]
    await done.wait()
    drained = per_second(number, begin)
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
    """A small transaction, two inserts, without and with `publish_in`; microseconds."""
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE IF NOT EXISTS note (number INT)"))
    router = EventRouter()
    router.subscribe(Posted, name="costs")(_ignore)
    publisher = AsyncBackgroundEventProcessor(source, routers=[router], consume=False)
    await publisher.start()
    await publisher.forget_handler("handle")

    async def transaction(is_publishing: bool) -> float:
        begin = time.perf_counter()
        async with AsyncSession(engine) as session, session.begin():
            await session.execute(text("INSERT INTO note VALUES (1)"))
            await session.execute(text("INSERT INTO note VALUES (2)"))
            if is_publishing:
                publisher.publish_in(session, Posted(1))
        return (time.perf_counter() - begin) * 1e6

    pairs = [(await transaction(False), await transaction(True)) for _ in range(number)]
    await publisher.stop()
    plain, publishing = (statistics.median(each) for each in zip(*pairs, strict=True))
    return {"small transaction, us": plain, "with publish_in, us": publishing}


async def _ignore(_posted: Posted) -> None: ...


async def claim_at_depth(engine: AsyncEngine, source: EventStoreSource, depth: int) -> float:
    """Milliseconds for a claim of 100 in front of `depth` queued deliveries; the median."""
    router = EventRouter()
    router.subscribe(Posted, name="deep")(_ignore)
    publisher = AsyncBackgroundEventProcessor(source, routers=[router], consume=False)
    await publisher.start()
    for _ in range(depth // 5000):
        await publisher.publish_many([Posted(each) for each in range(5000)])
    await publisher.stop()
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("ANALYZE araponga_deliveries"))
    store, taken = source.async_store(), list[float]()

    await store.join("bench", 3600.0)
    for _ in range(30):
        begin = time.perf_counter()
        exchange = await store.exchange("bench", [], [], [Want("deep", 100)])
        taken.append((time.perf_counter() - begin) * 1000)
        assert len(exchange.deliveries) == 100
    return statistics.median(taken)


# -- peers


async def taskiq_in_memory(number: int) -> Measured:
    taskiq: Any = import_module("taskiq")
    broker, seen = taskiq.InMemoryBroker(), 0

    @broker.task  # type: ignore[untyped-decorator]
    async def handle(_number: int, _text: str) -> None:
        nonlocal seen
        seen += 1

    await broker.startup()
    begin = time.perf_counter()
    for each in range(number):
        await handle.kiq(each, "x" * 80)
    await broker.wait_all()
    rate = per_second(seen, begin)
    await broker.shutdown()
    return {"taskiq in memory, publish and drain": rate}


def huey_on_sqlite(folder: Path, number: int) -> Measured:
    peer: Any = import_module("huey")
    huey: Any = peer.SqliteHuey(filename=str(folder / "huey.db"), results=False)

    @huey.task()  # type: ignore[untyped-decorator]
    def handle(_number: int, _text: str) -> None: ...

    for each in range(number):
        handle(each, "x" * 80)
    begin = time.perf_counter()
    while (task := huey.dequeue()) is not None:
        huey.execute(task)
    return {"huey on SQLite, drain": per_second(number, begin)}


async def taskiq_on_redis(url: str, number: int) -> Measured:
    taskiq_redis: Any = import_module("taskiq_redis")
    receiving: Any = import_module("taskiq.receiver")
    broker, seen, done = taskiq_redis.RedisStreamBroker(url), 0, asyncio.Event()

    @broker.task  # type: ignore[untyped-decorator]
    async def handle(_number: int, _text: str) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            done.set()

    await broker.startup()
    for each in range(number):
        await handle.kiq(each, "x" * 80)
    receiver, finish = receiving.Receiver(broker, max_async_tasks=SLOTS), asyncio.Event()
    begin = time.perf_counter()
    task = asyncio.create_task(receiver.listen(finish))
    await done.wait()
    rate = per_second(number, begin)
    finish.set()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await broker.shutdown()
    return {"taskiq on Redis streams, drain": rate}


# -- one round of each


async def memory_round(number: int) -> Measured:
    found = await bare_queue(number) | await measure(InMemoryEventStore(), number, "memory", one_by_one=number // 2)
    if find_spec("taskiq"):
        found |= await taskiq_in_memory(min(number, 5000))
    return found


async def sqlite_round(number: int) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/events.db")

        @sqlalchemy_event.listens_for(engine.sync_engine, "connect")
        def tune(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")

        source = SqlAlchemyEventStore(engine)
        await source.create_schema()
        found = await measure(source, number, "SQLite")
        await engine.dispose()
        if find_spec("huey"):
            found |= await asyncio.to_thread(huey_on_sqlite, Path(folder), min(number, 2000))
        return found


async def postgres_round(url: str, number: int) -> Measured:
    engine = create_async_engine(url)
    source = SqlAlchemyEventStore(engine)
    found = await raw_table(engine, number) | await measure(source, number, "PostgreSQL")
    found |= await outbox_cost(engine, source, 100)
    found["PostgreSQL idle latency, ms"] = await idle_latency(source, 50)
    await engine.dispose()
    return found


async def redis_round(url: str, number: int) -> Measured:
    async with redis.asyncio.Redis.from_url(url) as client:
        await client.flushdb()
        found = await measure(RedisStreamEventStore(client), number, "Redis")
        left = [await client.xlen(key) for key in await client.keys("*:ready:*")]
        assert not any(left), "the streams are empty afterwards"
    if find_spec("taskiq_redis"):
        found |= await taskiq_on_redis(url, min(number, 3000))
    return found


RATIOS = (
    ("memory publish", "asyncio.Queue put", 0.08),
    ("memory drain", "asyncio.Queue drain", 0.05),
    ("memory drain", "taskiq in memory, publish and drain", 5.0),
    ("SQLite drain", "huey on SQLite, drain", 5.0),
    ("PostgreSQL publish_many", "raw insert in 100s", 0.8),
    ("PostgreSQL drain", "raw claim + ack in 100s", 0.4),
    ("Redis drain", "taskiq on Redis streams, drain", 5.0),
)


@contextmanager
def database(server: PostgresServer) -> Iterator[str]:
    with server.temporary_database() as fresh:
        yield fresh.url("asyncpg")


def rounds(number: int, measure_once: Callable[[], Awaitable[Measured]]) -> list[Measured]:
    async def once() -> Measured:
        return await measure_once()

    return [asyncio.run(once()) for _ in range(number)]


def merged(found: list[list[Measured]]) -> list[Measured]:
    return [{name: value for part in each for name, value in part.items()} for each in zip(*found, strict=True)]


def deep_queue(server: PostgresServer, depth: int) -> Measured:
    async def measured(url: str, number: int) -> float:
        engine = create_async_engine(url)
        source = SqlAlchemyEventStore(engine)
        await source.create_schema()
        taken = await claim_at_depth(engine, source, number)
        await engine.dispose()
        return taken

    with database(server) as url:
        shallow = asyncio.run(measured(url, 10_000))
    with database(server) as url:
        deep = asyncio.run(measured(url, depth))
    return {"claim of 100 at 10,000 queued, ms": shallow, f"claim of 100 at {depth:,} queued, ms": deep}


def report(found: list[Measured], extra: Measured) -> str:
    names = list(dict.fromkeys(name for each in found for name in each))
    lines = ["# What background events cost", ""]
    lines.append(
        f"Python {platform.python_version()}, {platform.machine()}, {len(found)} rounds, {SLOTS} slots, events of "
        "about 110 B, with retry, timeout and an observer. Events per second unless it says otherwise; medians. The "
        "ratios are of the same round and the ones to look at on a machine that does other things. "
        "`python -m benchmarks.events --write` writes this page."
    )
    lines += ["", "| | median |", "|-|-:|"]
    lines += [f"| {name} | {statistics.median(each[name] for each in found):,.1f} |" for name in names]
    lines += [f"| {name} | {value:,.2f} |" for name, value in extra.items()]
    lines += ["", "| ratio | aim | median |", "|-|-:|-:|"]
    for ours, theirs, aim in RATIOS:
        ratios = [each[ours] / each[theirs] for each in found if ours in each and theirs in each]
        shown = f"{statistics.median(ratios):.2f}" if ratios else "not installed"
        lines.append(f"| {ours} / {theirs} | {aim} | {shown} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--events", type=int, default=10_000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--depth", type=int, default=100_000, help="queued deliveries in front of a claim")
    arguments.add_argument("--write", action="store_true", help="write docs/benchmarks/events.*")
    chosen = arguments.parse_args()
    with PostgresServer.create() as postgres, RedisServer.create() as redis_server:

        async def on_postgres() -> Measured:
            with database(postgres) as url:
                return await postgres_round(url, chosen.events)

        found = merged(
            [
                rounds(chosen.rounds, lambda: memory_round(chosen.events)),
                rounds(chosen.rounds, lambda: sqlite_round(chosen.events)),
                rounds(chosen.rounds, on_postgres),
                rounds(chosen.rounds, lambda: redis_round(redis_server.url(), chosen.events)),
            ]
        )
        extra = deep_queue(postgres, chosen.depth)
    page = report(found, extra)
    print(page)
    if chosen.write:
        (OUTPUT / "events.md").write_text(page)
        (OUTPUT / "events.json").write_text(json.dumps({"rounds": found, "depth": extra}, indent=1) + "\n")


if __name__ == "__main__":
    main()
