"""A standby that is killed, paused, cut off or black-holed under load takes no session down with it, and comes back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import text

from araponga_infra.sessions import AsyncReplicaSet, ReplicaSet
from tests.servers.fixtures import ReplicatedDatabase, StartTcpProxy
from tests.servers.postgres_cluster import PostgresCluster
from tests.servers.tcp_proxy import TcpProxy

pytestmark = pytest.mark.anyio

READERS = 8
WHERE = text("SELECT pg_is_in_recovery()")
PATIENCE_SECONDS = 30.0
CHECK_INTERVAL, CHECK_TIMEOUT, MAX_WAIT, CONNECT_TIMEOUT = 2.0, 1.0, 0.25, 2.0
BUDGETS: dict[str, Any] = {"check_interval": CHECK_INTERVAL, "check_timeout": CHECK_TIMEOUT, "max_wait": MAX_WAIT}
LONGEST_READ_SECONDS = max(CHECK_TIMEOUT, CONNECT_TIMEOUT) + MAX_WAIT
"""A read may wait for a replica's answer, then for one that hangs or does not take its connection."""
BUSY_SECONDS = 1.0
"""What a machine under load may take on top; less than would hide a second interval or a second timeout."""


@dataclass(frozen=True)
class Read:
    started_at: float
    ended_at: float
    where: str  # standby, primary or failed
    error: str = ""


@dataclass
class Readers:
    """Eight readers that go on reading until told to stop, and what became of each read."""

    reads: list[Read] = field(default_factory=list)
    is_stopping: bool = False
    restored_at: float = 0.0

    def note(self, started_at: float, where: str, error: str = "") -> None:
        self.reads.append(Read(started_at, time.monotonic(), where, error))

    def count(self, where: str, since: float) -> int:
        return sum(read.where == where and read.started_at >= since for read in self.reads)

    async def wait_for(self, where: str, since: float, count: int = 50) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.count(where, since) < count:
            assert time.monotonic() < deadline, f"no {count} reads on the {where} in time"
            await asyncio.sleep(0.01)

    def unexcused_failures(self) -> list[Read]:
        """Sessions that failed although they began after the first failure was noticed."""
        failed = [read for read in self.reads if read.where == "failed"]
        noticed_at = min((read.ended_at for read in failed), default=0.0)
        return [read for read in failed if read.started_at > noticed_at]

    def seconds_until_traffic_was_back(self) -> float:
        back_at = min(read.ended_at for read in self.reads if self._is_after_the_outage(read))
        return back_at - self.restored_at

    def _is_after_the_outage(self, read: Read) -> bool:
        return read.where == "standby" and read.ended_at > self.restored_at

    def slowest_seconds(self) -> float:
        return max(read.ended_at - read.started_at for read in self.reads)

    def check(self) -> None:
        assert [str(read) for read in self.unexcused_failures()] == []
        assert self.seconds_until_traffic_was_back() <= CHECK_INTERVAL + BUSY_SECONDS
        assert self.slowest_seconds() <= LONGEST_READ_SECONDS + BUSY_SECONDS


@contextmanager
def reading_threads(replicas: ReplicaSet) -> Iterator[Readers]:
    readers = Readers()

    def read() -> None:
        while not readers.is_stopping:
            started_at = time.monotonic()
            try:
                with replicas.read() as session:
                    where = "standby" if session.scalar(WHERE) else "primary"
            except Exception as problem:
                readers.note(started_at, "failed", repr(problem))
            else:
                readers.note(started_at, where)

    threads = [threading.Thread(target=read) for _ in range(READERS)]
    for thread in threads:
        thread.start()
    try:
        yield readers
    finally:
        readers.is_stopping = True
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
    assert not any(thread.is_alive() for thread in threads)


class ReadingTasks:
    def __init__(self, replicas: AsyncReplicaSet) -> None:
        self._replicas = replicas
        self._readers = Readers()

    async def __aenter__(self) -> Readers:
        self._tasks = [asyncio.create_task(self._read()) for _ in range(READERS)]
        return self._readers

    async def __aexit__(self, *_exception: object) -> None:
        self._readers.is_stopping = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), PATIENCE_SECONDS)

    async def _read(self) -> None:
        while not self._readers.is_stopping:
            started_at = time.monotonic()
            try:
                async with self._replicas.read() as session:
                    where = "standby" if await session.scalar(WHERE) else "primary"
            except Exception as problem:
                self._readers.note(started_at, "failed", repr(problem))
            else:
                self._readers.note(started_at, where)


@dataclass
class Outage:
    begin: Callable[[], object]
    end: Callable[[], object]


@pytest.fixture
def proxy(postgres_pair: PostgresCluster, tcp_proxy: StartTcpProxy) -> TcpProxy:
    return tcp_proxy(postgres_pair.standby.port)


@pytest.fixture(params=["killed", "paused", "black-holed", "cut off"])
def outage(request: pytest.FixtureRequest, postgres_pair: PostgresCluster, proxy: TcpProxy) -> Outage:
    standby = postgres_pair.standby
    return {
        "killed": Outage(standby.kill, standby.start),
        "paused": Outage(standby.pause, standby.resume),
        "black-holed": Outage(proxy.black_hole, proxy.restore),
        "cut off": Outage(proxy.cut, proxy.restore),
    }[request.param]


def urls(database: ReplicatedDatabase, proxy: TcpProxy, driver: str) -> tuple[str, list[str]]:
    standby = database.standby.url(driver).replace(f":{database.standby.server.port}/", f":{proxy.port}/")
    return database.primary.url(driver), [standby]


async def go_through(readers: Readers, outage: Outage) -> None:
    await readers.wait_for("standby", 0.0)
    began_at = time.monotonic()
    await asyncio.to_thread(outage.begin)
    await readers.wait_for("primary", began_at)
    await asyncio.to_thread(outage.end)
    readers.restored_at = time.monotonic()
    await readers.wait_for("standby", readers.restored_at)


async def test_under_reading_threads(replicated_database: ReplicatedDatabase, proxy: TcpProxy, outage: Outage) -> None:
    primary, standbys = urls(replicated_database, proxy, "psycopg")
    with ExitStack() as stack:
        replicas = stack.enter_context(ReplicaSet(primary, standbys, **BUDGETS))
        readers = stack.enter_context(reading_threads(replicas))
        await go_through(readers, outage)
    readers.check()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_under_reading_tasks(
    replicated_database: ReplicatedDatabase, proxy: TcpProxy, outage: Outage, driver: str
) -> None:
    primary, standbys = urls(replicated_database, proxy, driver)
    async with AsyncExitStack() as stack:
        replicas = await stack.enter_async_context(AsyncReplicaSet(primary, standbys, **BUDGETS))
        readers = await stack.enter_async_context(ReadingTasks(replicas))
        await go_through(readers, outage)
    readers.check()
