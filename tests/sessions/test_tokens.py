"""Write tokens: values that travel, and reads that see the write on a real standby."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session

from araponga_infra import InvalidArgumentError
from araponga_infra.sessions import FallbackToPrimary, ReplicaSet, WriteToken
from araponga_infra.sessions.tokens import reachable
from araponga_infra.telemetry import Record
from tests.servers.fixtures import ReplicatedDatabase
from tests.servers.postgres_cluster import PostgresCluster

positions = st.integers(0, 2**64 - 1)


@given(positions)
def test_a_token_survives_its_text(position: int) -> None:
    token = WriteToken(position)
    assert WriteToken.parse(str(token)) == token
    assert set(str(token)) <= set("0123456789ABCDEF/")


@given(positions, positions)
def test_the_later_token_wins(one: int, other: int) -> None:
    assert WriteToken(one).merge(WriteToken(other)) == WriteToken(max(one, other))
    assert WriteToken(one).merge(None) == WriteToken(one)


@given(st.text().filter(lambda text: "/" not in text))
def test_other_text_is_no_token(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="looks like 16/B374D848"):
        WriteToken.parse(text)


@pytest.mark.parametrize("position", [-1, 2**64])
def test_a_position_outside_the_log_is_refused(position: int) -> None:
    with pytest.raises(InvalidArgumentError, match="position"):
        WriteToken(position)


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (8192 * 5 + 24, 8192 * 5),
        (16 * 1024 * 1024 + 40, 16 * 1024 * 1024),
        (16 * 1024 * 1024 + 24, 16 * 1024 * 1024 + 24),
        (8192 * 5 + 40, 8192 * 5 + 40),
        (8192 * 5 + 100, 8192 * 5 + 100),
    ],
)
def test_a_position_behind_a_page_header_is_reachable_before_it(position: int, expected: int) -> None:
    assert reachable(position) == expected


@contextmanager
def writing_beside(database: ReplicatedDatabase) -> Iterator[None]:
    """Other writers, so that the log moves on between a write and its read."""
    engine = create_engine(database.primary.url("psycopg"))
    is_over = threading.Event()

    def write() -> None:
        while not is_over.is_set():
            with engine.begin() as connection:
                connection.execute(text("INSERT INTO noise SELECT generate_series(1, 20)"))

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
        engine.dispose()


@contextmanager
def nothing(_database: ReplicatedDatabase) -> Iterator[None]:
    yield


@dataclass(frozen=True)
class Circumstance:
    synchronous_commit: str = "on"
    replay_delay_seconds: float = 0.0
    beside: Callable[[ReplicatedDatabase], AbstractContextManager[None]] = nothing
    count: int = 20
    soak_workers: int = 1
    """Where each pair waits for long, several are under way at once."""


CIRCUMSTANCES = {
    "idle": Circumstance(count=300),
    "under write load": Circumstance(beside=writing_beside, count=150),
    "replay delayed": Circumstance(replay_delay_seconds=0.2, count=10, soak_workers=12),
    "synchronous_commit off": Circumstance("off", soak_workers=12),
    "synchronous_commit off, under write load": Circumstance("off", beside=writing_beside, soak_workers=12),
}
MAX_WAIT_SECONDS = 2.0
SOAK_COUNT = 10_000


@dataclass
class Pairs:
    """What became of write-then-read pairs."""

    stale: list[int] = field(default_factory=list)
    waits_seconds: list[float] = field(default_factory=list)
    fallbacks: int = 0

    def observe(self, record: Record, /) -> None:
        self.fallbacks += isinstance(record, FallbackToPrimary)

    def waits(self) -> str:
        ordered = sorted(self.waits_seconds)
        median, late = ordered[len(ordered) // 2], ordered[-1 - len(ordered) // 100]
        return (
            f"{len(ordered)} reads waited {median:.4f} s in the median, {late:.4f} s at the 99th percentile and "
            f"{ordered[-1]:.4f} s at most, of {MAX_WAIT_SECONDS} s; {self.fallbacks} went to the primary"
        )


def write_then_read(replicas: ReplicaSet, pairs: Pairs, row: int, count: int) -> None:
    for number in range(count):
        with replicas.write.begin() as session:
            session.execute(text("UPDATE counter SET value = :value WHERE id = :id"), {"value": number, "id": row})
        token = replicas.write_token()
        # Recovery may cancel a read that stands in its way, which `run` reads elsewhere.
        if replicas.run(read_value, row, pairs, time.monotonic(), after=str(token)) != number:
            pairs.stale.append(number)


def read_value(session: Session, row: int, pairs: Pairs, began_at: float) -> int:
    pairs.waits_seconds.append(time.monotonic() - began_at)
    return int(session.scalar(text("SELECT value FROM counter WHERE id = :id"), {"id": row}) or 0)


def go_through(
    circumstance: Circumstance, database: ReplicatedDatabase, pair: PostgresCluster, *, count: int, workers: int = 1
) -> Pairs:
    database.primary.execute("CREATE TABLE counter (id int PRIMARY KEY, value int)")
    database.primary.execute(f"INSERT INTO counter SELECT id, 0 FROM generate_series(1, {workers}) AS id")
    database.primary.execute("CREATE TABLE noise (value int)")
    database.primary.execute(
        f"ALTER DATABASE {database.primary.name} SET synchronous_commit = {circumstance.synchronous_commit}"
    )
    pair.wait_for_catch_up()
    pairs = Pairs()
    urls = database.primary.url("psycopg"), [database.standby.url("psycopg")]
    with ReplicaSet(urls[0], urls[1], max_wait=MAX_WAIT_SECONDS, observer=pairs) as replicas:
        with replicas.read():
            pass
        if circumstance.replay_delay_seconds:
            pair.standby.delay_replay(circumstance.replay_delay_seconds)
        with circumstance.beside(database), ThreadPoolExecutor(workers) as pool:
            each = -(-count // workers)
            for done in [pool.submit(write_then_read, replicas, pairs, row, each) for row in range(1, workers + 1)]:
                done.result()
    assert pairs.stale == []
    assert len(pairs.waits_seconds) >= count
    return pairs


@pytest.mark.parametrize("name", CIRCUMSTANCES)
def test_no_read_with_a_token_is_stale(
    name: str, replicated_database: ReplicatedDatabase, postgres_pair: PostgresCluster
) -> None:
    circumstance = CIRCUMSTANCES[name]
    go_through(circumstance, replicated_database, postgres_pair, count=circumstance.count)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CIRCUMSTANCES)
def test_no_read_with_a_token_is_stale_for_long(
    name: str,
    replicated_database: ReplicatedDatabase,
    postgres_pair: PostgresCluster,
    record_property: Callable[[str, object], None],
) -> None:
    workers = CIRCUMSTANCES[name].soak_workers
    pairs = go_through(CIRCUMSTANCES[name], replicated_database, postgres_pair, count=SOAK_COUNT, workers=workers)
    record_property("waits", pairs.waits())


def test_a_token_costs_a_replica_that_has_caught_up_at_most_one_question(
    replicated_database: ReplicatedDatabase, postgres_pair: PostgresCluster
) -> None:
    replicated_database.primary.execute("CREATE TABLE noise (value int)")
    engines = [create_engine(replicated_database.primary.url("psycopg"))]
    engines.append(create_engine(replicated_database.standby.url("psycopg")))
    asked: list[str] = []
    for engine in engines:
        event.listen(engine, "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))
    with ReplicaSet(engines[0], [engines[1]], max_wait=5) as replicas:
        with replicas.read() as session:
            assert session.connection() is not None
        for _ in range(20):
            with replicas.write.begin() as session:
                session.execute(text("INSERT INTO noise VALUES (1)"))
            token = replicas.write_token()
            postgres_pair.wait_for_catch_up()
            asked.clear()
            with replicas.read(after=token):
                assert len(asked) <= 1
    for engine in engines:
        engine.dispose()


@given(st.lists(positions, min_size=1))
def test_tokens_sort_as_positions(values: list[int]) -> None:
    tokens = sorted(map(WriteToken, values))
    assert all(one <= other for one, other in itertools.pairwise(tokens))


@pytest.mark.parametrize("value", [3, b"0/1", None])
def test_what_is_no_text_is_no_token(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="text is a"):
        WriteToken.parse(value)


@pytest.mark.parametrize("value", ["x", None, 1.5])
def test_a_position_is_a_number(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="position="):
        WriteToken(value)
