"""Handlers that end their process: their effects are there once, and what always kills ends as a dead letter."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from araponga_infra.events import (
    BackgroundEventProcessor,
    DeadReason,
    EventRouter,
    Inbox,
    SqlAlchemyEventStore,
)
from tests.events import deadly_worker
from tests.events.crash_worker import open_store
from tests.events.hosts import Followed, Happened
from tests.events.test_crashes import url_of, wait_until_empty

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.events.deadly_worker"])


class Deadly:
    """A store with one event in it, and workers that are started anew while they are killed."""

    def __init__(self, kind: str, url: str, colour: str, database: Path) -> None:
        self.database = database
        self._place = (kind, url, colour, str(database))
        source: Any = open_store(kind, url)
        if isinstance(source, SqlAlchemyEventStore):
            source.create_schema()
        router = EventRouter()
        router.subscribe(Happened, name="works")(lambda happened: None)
        router.subscribe(Followed, name="innocent")(lambda followed: None)
        self.publisher = BackgroundEventProcessor(source, routers=[router], consume=False)
        engine = create_engine(f"sqlite:///{database}")
        Inbox().create_schema(engine)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE effects (number INTEGER)"))
        engine.dispose()

    def run(self, kill: str) -> int:
        """Workers one after the other until nothing is left; how many were killed."""
        killed = 0
        while True:
            with self.worker(kill) as worker:
                if not self._ends(worker):
                    return killed
                assert worker.exitcode == -signal.SIGKILL
                killed += 1

    @contextmanager
    def worker(self, kill: str) -> Generator[BaseProcess, None, None]:
        worker = PROCESSES.Process(target=deadly_worker.run, args=(*self._place, kill))
        worker.start()
        try:
            yield worker
        finally:
            worker.kill()
            worker.join()
            worker.close()

    def _ends(self, worker: BaseProcess) -> bool:
        """Whether the worker was killed, before nothing was left."""
        while True:
            worker.join(0.05)
            if not worker.is_alive():
                return True
            stats = self.publisher.stats()
            if not (stats.queued or stats.running or stats.retrying):
                return False

    def effects(self) -> list[int]:
        engine = create_engine(f"sqlite:///{self.database}")
        with engine.connect() as connection:
            found = sorted(connection.execute(text("SELECT number FROM effects")).scalars())
        engine.dispose()
        return found

    def runs(self) -> int:
        return len(Path(f"{self.database}.runs").read_text().splitlines())


@pytest.fixture(params=["sqlite-sync", "sqlite-async", "postgres-sync", "postgres-async", "redis-sync", "redis-async"])
def deadly(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deadly]:
    kind, colour = request.param.split("-")
    made = Deadly(kind, url_of(kind, request, tmp_path), colour, tmp_path / "effects.db")
    yield made
    made.publisher.close()
    source: Any = made.publisher._source
    (source._client.close if kind == "redis" else source._engine.dispose)()


@pytest.mark.parametrize("kill", ["before", "after"])
def test_an_inbox_keeps_work_in_a_session_of_ones_own_from_being_done_twice(deadly: Deadly, kill: str) -> None:
    deadly.publisher.publish(Happened(7))
    assert deadly.run(kill) == 1
    assert deadly.runs() == 2, "at least once: it was delivered again"
    assert deadly.effects() == [7], "and its effect is there once"
    assert deadly.publisher.stats().dead == 0


def test_what_kills_every_worker_ends_as_a_dead_letter_and_takes_nobody_along(deadly: Deadly) -> None:
    deadly.publisher.publish_many([*(Followed(number) for number in range(10)), Happened(99)])
    deadly.publisher.publish_many([Followed(number) for number in range(10, 20)])
    killed = deadly.run("always")
    wait_until_empty(deadly.publisher)
    (letter,) = deadly.publisher.dead_letters.list()
    assert (letter.handler, letter.reason, letter.attempts) == ("works", DeadReason.WORKER_LOST, 2)
    assert letter.lost_leases == killed == 3, "once in company, which costs no attempt, and twice alone"
    assert deadly.runs() == 3
    assert set(deadly.effects()) == set(range(20))


def test_what_takes_all_memory_ends_as_a_dead_letter_and_its_worker_goes_on(deadly: Deadly) -> None:
    deadly.publisher.publish(Happened(99))
    with deadly.worker("memory") as worker:
        wait_until_empty(deadly.publisher)
        (letter,) = deadly.publisher.dead_letters.list()
        assert (letter.handler, letter.reason, letter.attempts) == ("works", DeadReason.ATTEMPTS_EXHAUSTED, 2)
        assert (letter.error or "").startswith("MemoryError")
        deadly.publisher.publish_many([Followed(number) for number in range(10)])
        wait_until_empty(deadly.publisher)
        assert worker.is_alive()
    assert deadly.effects() == list(range(10))
