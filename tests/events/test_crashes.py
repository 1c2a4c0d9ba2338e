"""Workers are killed at random and replaced; nothing is lost, and effects in the store's transaction are there once."""

from __future__ import annotations

import multiprocessing
import random
import sys
import threading
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from araponga_infra.events import BackgroundEventProcessor, SqlAlchemyEventStore
from tests.events import crash_worker
from tests.events.crash_worker import make_router, open_store, owner_file
from tests.events.hosts import Happened

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.events.crash_worker"])
WORKERS = 4
STARTED_WITHIN_SECONDS = 60.0
RESCUED_WITHIN_SECONDS = 3.0


class Rescues:
    """Looks, in a thread, how long what a killed worker held stays in its hands."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._dead: list[tuple[str, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.seconds: list[float] = []

    def note_killed(self, owner: str) -> None:
        if self.is_holding(owner):
            self._dead.append((owner, time.monotonic()))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            for dead in list(self._dead):
                if not self.is_holding(dead[0]):
                    self.seconds.append(time.monotonic() - dead[1])
                    self._dead.remove(dead)

    def is_holding(self, owner: str) -> bool:
        if isinstance(self._source, SqlAlchemyEventStore):
            query = text("SELECT count(*) FROM araponga_deliveries WHERE state = 'running' AND owner = :owner")
            engine: Any = self._source._engine
            with engine.connect() as connection:
                return bool(connection.execute(query, {"owner": owner}).scalar_one())
        client, root = self._source._client, "{araponga}:events"
        streams = (f"{root}:{kind}:{handler}" for kind in ("ready", "alone") for handler in ("note", "effect"))
        consumers = (each for stream in streams for each in client.xinfo_consumers(stream, "workers"))
        return any(each["pending"] for each in consumers if each["name"].decode() == owner)


class Workers:
    """Processes that are killed and replaced; forked off one that has imported everything, they work at once."""

    def __init__(self, kind: str, url: str, effects: Path, rescues: Rescues) -> None:
        self._effects = effects
        self._rescues = rescues
        self._arguments = kind, url, str(effects)
        self._processes = [self._start() for _ in range(WORKERS)]

    def _start(self) -> BaseProcess:
        process = PROCESSES.Process(target=crash_worker.main, args=self._arguments)
        process.start()
        return process

    def wait_for_rescuers(self) -> None:
        deadline = time.monotonic() + STARTED_WITHIN_SECONDS
        while len(self._started()) <= WORKERS // 2:
            assert time.monotonic() < deadline, "too few workers start"
            time.sleep(0.02)

    def kill_one(self, rng: random.Random) -> None:
        """At a random moment of its work, so that a kill costs something."""
        place = self._find_busy(rng)
        owner = self._owner(place)
        time.sleep(rng.uniform(0.0, 0.05))
        self._processes[place].kill()
        self._processes[place].join()
        self._rescues.note_killed(owner)
        self._processes[place].close()
        self._processes[place] = self._start()

    def _find_busy(self, rng: random.Random) -> int:
        """One that has something in hand, or any when all has been done meanwhile."""
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:
            started = self._started()
            for place in rng.sample(started, len(started)):
                if self._rescues.is_holding(self._owner(place)):
                    return place
            time.sleep(0.005)
        return rng.choice(self._started())

    def _started(self) -> list[int]:
        return [place for place in range(WORKERS) if self._owner(place)]

    def _owner(self, place: int) -> str:
        said = owner_file(self._effects, self._processes[place].pid or 0)
        return said.read_text() if said.exists() else ""

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
            process.close()


def url_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    if kind == "redis":
        return str(request.getfixturevalue("redis_url"))
    if kind == "postgres":
        return str(request.getfixturevalue("postgres_database").url("psycopg"))
    return f"sqlite:///{folder / 'events.db'}"


def runs(effects: Path) -> Counter[str]:
    return Counter(line for file in effects.glob("*.log") for line in file.read_text().splitlines())


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
def test_killed_workers_lose_nothing(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    assert crash(kind, request, tmp_path, events=200, kills=4), "some of those that were killed had something in hand"


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
def test_killed_workers_lose_nothing_in_the_long_run(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rescued = sorted(crash(kind, request, tmp_path, events=2000, kills=40, pause_seconds=1.5))
    assert rescued, "some of those that were killed had something in hand"
    median, p99 = (rescued[int(share * (len(rescued) - 1))] for share in (0.5, 0.99))
    with capsys.disabled():
        sys.stdout.write(
            f"\n{kind}: {len(rescued)} rescues, {median:.2f} s after kill -9 in the median, {p99:.2f} s at p99, "
            f"{rescued[-1]:.2f} s at most\n"
        )
    assert p99 <= RESCUED_WITHIN_SECONDS


def crash(
    kind: str,
    request: pytest.FixtureRequest,
    folder: Path,
    *,
    events: int,
    kills: int,
    pause_seconds: float = 0.0,
) -> list[float]:
    """`pause_seconds` between kills in the mean: who shall rescue has to live for a lease itself."""
    effects, url, rng = folder / "effects", url_of(kind, request, folder), random.Random(7)
    effects.mkdir()
    source: Any = open_store(kind, url)
    engine: Any = getattr(source, "_engine", None)
    if isinstance(source, SqlAlchemyEventStore):
        source.create_schema()
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE effects (number INTEGER)"))
    with BackgroundEventProcessor(source, routers=[make_router(kind, effects)], consume=False) as publisher:
        rescues = Rescues(source)
        workers = Workers(kind, url, effects, rescues)
        try:
            batch = events // kills
            for _ in range(kills):
                time.sleep(rng.uniform(0.5, 1.5) * pause_seconds)
                workers.wait_for_rescuers()
                publisher.publish_many([Happened(each) for each in range(batch)])
                workers.kill_one(rng)
            wait_until_empty(publisher)
        finally:
            workers.close()
            rescues.close()
        stats = publisher.stats()
        assert (stats.queued, stats.running, stats.retrying, stats.dead) == (0, 0, 0, 0)
    counted = runs(effects)
    assert all(counted[f"note {each}"] >= kills for each in range(batch)), "each accepted event was handled"
    assert counted.total() <= (1 if kind != "redis" else 2) * events + 20 * 2 * kills * 4, "reruns are bounded"
    if isinstance(source, SqlAlchemyEventStore):
        with engine.connect() as connection:
            done = Counter(connection.execute(text("SELECT number FROM effects")).scalars())
        assert done == Counter(dict.fromkeys(range(batch), kills)), "transactional effects are there exactly once"
        engine.dispose()
    else:
        source._client.close()
    return rescues.seconds


def wait_until_empty(publisher: BackgroundEventProcessor, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        stats = publisher.stats()
        if not (stats.queued or stats.running or stats.retrying):
            return
        assert time.monotonic() < deadline, f"still there: {stats}"
        time.sleep(0.02)
