"""The peers that `benchmarks.events` measures next to our own, each set up as its documentation recommends.

A peer is imported where it is measured, so that the benchmark also runs with some of them only. All run the same
handler on the same 110 B, with five slots where they have slots.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

SLOTS = 5
TEXT = "x" * 80
PAYLOAD = b'{"number":1,"text":"' + TEXT.encode() + b'"}'
Measured = dict[str, float]
_PAUSE_SECONDS = 0.12


def per_second(number: int, begin: float, clock: Callable[[], float] = time.perf_counter) -> float:
    return number / (clock() - begin)


class Arrivals:
    """Counts what a handler gets, and when the last one came."""

    def __init__(self, number: int) -> None:
        self._left = number
        self.done = asyncio.Event()

    def note(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.done.set()


class Latency:
    """Milliseconds from the call that publishes to the start of the handler, on an idle worker."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self._arrived = asyncio.Event()
        self._begun = 0.0

    def note(self) -> None:
        self.taken.append((time.perf_counter() - self._begun) * 1000)
        self._arrived.set()

    async def measure(self, number: int, publish: Callable[[], Any]) -> Measured:
        """Warmed up by five that do not count."""
        for each in range(number + 5):
            await asyncio.sleep(_PAUSE_SECONDS)
            if each == 5:
                self.taken.clear()
            self._arrived.clear()
            self._begun = time.perf_counter()
            await publish()
            await self._arrived.wait()
        return {"p50": statistics.median(self.taken), "p99": statistics.quantiles(self.taken, n=100)[98]}


# -- in memory


async def taskiq_in_memory(number: int, clock: Callable[[], float]) -> Measured:
    taskiq: Any = import_module("taskiq")
    broker, seen = taskiq.InMemoryBroker(), 0

    @broker.task  # type: ignore[untyped-decorator]
    async def handle(_number: int, _text: str) -> None:
        nonlocal seen
        seen += 1

    await broker.startup()
    begin = clock()
    for each in range(number):
        await handle.kiq(each, TEXT)
    await broker.wait_all()
    rate = per_second(seen, begin, clock)
    await broker.shutdown()
    return {"taskiq in memory, publish and drain": rate}


# -- on SQLite


def huey_on_sqlite(folder: Path, number: int) -> Measured:
    peer: Any = import_module("huey")
    huey: Any = peer.SqliteHuey(filename=str(folder / "huey.db"), results=False)

    @huey.task()  # type: ignore[untyped-decorator]
    def handle(_number: int, _text: str) -> None: ...

    for each in range(number):
        handle(each, TEXT)
    begin = time.perf_counter()
    while (task := huey.dequeue()) is not None:
        huey.execute(task)
    return {"huey on SQLite, drain": per_second(number, begin)}


# -- on Redis


async def taskiq_on_redis(url: str, number: int) -> Measured:
    taskiq_redis: Any = import_module("taskiq_redis")
    receiving: Any = import_module("taskiq.receiver")
    broker, arrivals = taskiq_redis.RedisStreamBroker(url), Arrivals(number)

    @broker.task  # type: ignore[untyped-decorator]
    async def handle(_number: int, _text: str) -> None:
        arrivals.note()

    await broker.startup()
    for each in range(number):
        await handle.kiq(each, TEXT)
    receiver, finish = receiving.Receiver(broker, max_async_tasks=SLOTS), asyncio.Event()
    begin = time.perf_counter()
    task = asyncio.create_task(receiver.listen(finish))
    await arrivals.done.wait()
    rate = per_second(number, begin)
    finish.set()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await broker.shutdown()
    return {"taskiq on Redis streams, drain": rate}


# -- on PostgreSQL


@asynccontextmanager
async def _pgqueuer(url: str, note: Callable[[], None]) -> AsyncGenerator[tuple[Any, Any]]:
    """A worker that is not running yet, and what it is fed by; asyncpg, one connection each, all defaults."""
    asyncpg: Any = import_module("asyncpg")
    peer, db, queries = (import_module(f"pgqueuer{each}") for each in ("", ".db", ".queries"))
    dsn = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    worker_connection, publisher_connection = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    publisher: Any = queries.Queries(db.AsyncpgDriver(publisher_connection))
    await publisher.install()
    worker: Any = peer.PgQueuer(db.AsyncpgDriver(worker_connection))

    @worker.entrypoint("handle")  # type: ignore[untyped-decorator]
    async def handle(_job: Any) -> None:
        note()

    try:
        yield worker, publisher
    finally:
        await worker_connection.close()
        await publisher_connection.close()


async def _stop_pgqueuer(worker: Any, running: asyncio.Task[None]) -> None:
    worker.shutdown.set()
    with suppress(asyncio.CancelledError):
        await running


async def pgqueuer_on_postgres(url: str, number: int) -> Measured:
    arrivals = Arrivals(number)
    async with _pgqueuer(url, arrivals.note) as (worker, publisher):
        begin = time.perf_counter()
        for _ in range(0, number, 100):
            await publisher.enqueue(["handle"] * 100, [PAYLOAD] * 100, [0] * 100)
        batched = per_second(number, begin)
        begin = time.perf_counter()
        running = asyncio.create_task(worker.run())
        await arrivals.done.wait()
        drained = per_second(number, begin)
        await _stop_pgqueuer(worker, running)
    return {"pgqueuer, publish in 100s": batched, "pgqueuer, drain": drained}


async def pgqueuer_latency(url: str, number: int) -> Measured:
    latency = Latency()
    async with _pgqueuer(url, latency.note) as (worker, publisher):
        running = asyncio.create_task(worker.run())
        await asyncio.sleep(0.5)
        found = await latency.measure(number, lambda: publisher.enqueue("handle", PAYLOAD))
        await _stop_pgqueuer(worker, running)
    return {f"pgqueuer idle latency {name}, ms": value for name, value in found.items()}


async def procrastinate_on_postgres(url: str, number: int) -> Measured:
    peer: Any = import_module("procrastinate")
    dsn = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    app, arrivals = peer.App(connector=peer.PsycopgConnector(conninfo=dsn)), Arrivals(number)

    @app.task  # type: ignore[untyped-decorator]
    async def handle(number: int, text: str) -> None:  # noqa: ARG001
        arrivals.note()

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await handle.batch_defer_async(*({"number": each, "text": TEXT} for each in range(number)))
        begin = time.perf_counter()
        worker = app.run_worker_async(concurrency=SLOTS, wait=False, install_signal_handlers=False)
        await worker
        assert arrivals.done.is_set()
        return {"procrastinate, drain": per_second(number, begin)}
