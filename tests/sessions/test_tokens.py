"""Write tokens: values that travel, and reads that see the write on a real standby."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, text
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


class Fallbacks:
    def __init__(self) -> None:
        self.seen: list[FallbackToPrimary] = []

    def observe(self, record: Record, /) -> None:
        if isinstance(record, FallbackToPrimary):
            self.seen.append(record)


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


CIRCUMSTANCES: dict[str, tuple[str, float, Callable[[ReplicatedDatabase], object], int]] = {
    "idle": ("on", 0.0, nothing, 300),
    "under write load": ("on", 0.0, writing_beside, 150),
    "replay delayed": ("on", 0.2, nothing, 10),
    "synchronous_commit off": ("off", 0.0, nothing, 20),
    "synchronous_commit off, under write load": ("off", 0.0, writing_beside, 20),
}


def stale_reads(replicas: ReplicaSet, count: int) -> list[int]:
    stale = []
    for number in range(count):
        with replicas.write.begin() as session:
            session.execute(text("UPDATE counter SET value = :value"), {"value": number})
        token = replicas.write_token()
        with replicas.read(after=str(token)) as reading:
            if read_value(reading) != number:
                stale.append(number)
    return stale


def read_value(session: Session) -> int:
    return int(session.scalar(text("SELECT value FROM counter")) or 0)


def go_through(circumstance: str, database: ReplicatedDatabase, pair: PostgresCluster, factor: int) -> Fallbacks:
    setting, delay_seconds, beside, count = CIRCUMSTANCES[circumstance]
    database.primary.execute("CREATE TABLE counter (value int)")
    database.primary.execute("INSERT INTO counter VALUES (0)")
    database.primary.execute("CREATE TABLE noise (value int)")
    database.primary.execute(f"ALTER DATABASE {database.primary.name} SET synchronous_commit = {setting}")
    pair.wait_for_catch_up()
    fallbacks = Fallbacks()
    urls = database.primary.url("psycopg"), [database.standby.url("psycopg")]
    with ReplicaSet(urls[0], urls[1], max_wait=2, observer=fallbacks) as replicas:
        with replicas.read():
            pass
        if delay_seconds:
            pair.standby.delay_replay(delay_seconds)
        with beside(database):  # type: ignore[attr-defined]
            assert stale_reads(replicas, count * factor) == []
    return fallbacks


@pytest.mark.parametrize("circumstance", CIRCUMSTANCES)
def test_no_read_with_a_token_is_stale(
    circumstance: str, replicated_database: ReplicatedDatabase, postgres_pair: PostgresCluster
) -> None:
    go_through(circumstance, replicated_database, postgres_pair, 1)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("circumstance", CIRCUMSTANCES)
def test_no_read_with_a_token_is_stale_for_long(
    circumstance: str,
    replicated_database: ReplicatedDatabase,
    postgres_pair: PostgresCluster,
    record_property: Callable[[str, object], None],
) -> None:
    fallbacks = go_through(circumstance, replicated_database, postgres_pair, 20)
    record_property("reads that waited longer than max_wait and went to the primary", len(fallbacks.seen))


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
