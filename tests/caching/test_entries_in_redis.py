"""What is in Redis: names that read well, no command that harms others, and bytes that are believed only if ours."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from araponga_infra.caching import MISSING, CacheRejected, key
from araponga_infra.testing.caching import Uniform
from tests.caching.conftest import Make, Notes
from tests.servers.redis_server import RedisServer

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Place:
    id: int
    name: str


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


NAME = "araponga:1:{place:1}"


class Dangerous:
    """Unpickling it would end the test run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (SystemExit, ("a pickle was loaded",))


def of_another_schema(stored: bytes) -> bytes:
    return stored.replace(b"[1,", b"[2,", 1)


def of_an_older_schema(stored: bytes) -> bytes:
    return stored.replace(b"[1,", b"[0,", 1)


def torn(stored: bytes) -> bytes:
    return stored[:-3]


def with_other_bytes(stored: bytes) -> bytes:
    head, _, payload = stored.partition(b"\n")
    return head + b"\n" + bytes(byte ^ 0xFF for byte in payload)


def a_pickle(_stored: bytes) -> bytes:
    return pickle.dumps(Dangerous())


def a_pickle_in_our_envelope(stored: bytes) -> bytes:
    return stored.partition(b"\n")[0] + b"\n" + pickle.dumps(Dangerous())


def json_of_somebody_else(_stored: bytes) -> bytes:
    return b'{"id": 1, "name": "x"}'


def nothing(_stored: bytes) -> bytes:
    return b""


def renamed_field(stored: bytes) -> bytes:
    return stored.replace(b'"name"', b'"title"')


FOREIGN = [
    of_another_schema, of_an_older_schema, torn, with_other_bytes, a_pickle, a_pickle_in_our_envelope,
    json_of_somebody_else, nothing, renamed_field,
]  # fmt: skip


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda each: each.__name__)
async def test_bytes_that_are_not_ours_are_a_miss_and_one_warning(
    make: Make,
    client: redis.Redis,
    redis_url: str,
    foreign: Any,
    caplog: pytest.LogCaptureFixture,
    notes: Notes,
) -> None:
    writer, reader = make(redis_url, timeout=5), make(redis_url, timeout=5, observer=notes)
    await writer.set("place:1", Place(1, "Vale"))
    client.set(NAME, foreign(client.get(NAME)))
    caplog.clear()
    for _ in range(3):
        assert await reader.get("place:1", MISSING, type=Place) is MISSING
        assert await reader.get_many(["place:1"], type=Place) == {}
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1, warnings
    assert "passed over" in warnings[0].message
    assert notes.of(CacheRejected)
    assert await reader.get_or_set("place:1", lambda: Place(1, "new"), type=Place) == Place(1, "new")
    assert await reader.get("place:1", type=Place) == Place(1, "new")
    assert not reader.cache.is_degraded


async def test_a_name_of_another_kind_of_data_is_no_outage_for_long(
    make: Make, client: redis.Redis, redis_url: str
) -> None:
    """MGET answers nil for a list; SET replaces it."""
    client.rpush(NAME, "a")
    cache = make(redis_url, timeout=5)
    assert await cache.get("place:1", MISSING) is MISSING
    await cache.set("place:1", 1)
    assert await cache.get("place:1") == 1
    assert not cache.cache.is_degraded


async def test_names_read_well_in_redis_cli(make: Make, client: redis.Redis, redis_url: str) -> None:
    cache = make(redis_url, timeout=5, namespace="community")
    await cache.set(key("territory", 42, "summary"), 1, tags=("news",))
    await cache.set("with space", 1)
    names = {name.decode() for name in client.scan_iter("*")}
    assert "community:1:{territory:42:summary}" in names
    assert "community:1:{with=20space}" in names
    assert {name for name in names if "#" in name} >= {
        "community:1:#epoch",
        "community:1:#group:territory",
        "community:1:#tag:news",
    }


async def test_nobody_elses_data_is_touched_and_no_command_looks_at_everything_at_once(
    make: Make, client: redis.Redis, redis_server: RedisServer, redis_url: str
) -> None:
    client.set("somebody:else", "theirs")
    client.set("araponga:1", "theirs")
    client.set("xaraponga:1:{row:1}", "theirs")
    cache, neighbour = make(redis_url, timeout=5, recovery="flush"), make(redis_url, timeout=5, namespace="neighbour")
    await neighbour.set("row:1", "theirs")
    redis_server.execute("CONFIG", "RESETSTAT")
    await cache.set_many({f"row:{number}": number for number in range(20)})
    await cache.delete_by_pattern("*")
    await cache.set("row:1", 1, tags=("t",))
    await cache.delete_by_tag("t")
    await Uniform(cache.cache.region("row", int)).clear()
    await cache.clear()
    assert await cache.get_many([f"row:{number}" for number in range(20)]) == {}
    assert await neighbour.get("row:1") == "theirs"
    assert client.mget("somebody:else", "araponga:1", "xaraponga:1:{row:1}") == [b"theirs"] * 3
    used = {name.removeprefix("cmdstat_") for name in redis_server.execute("INFO", "commandstats")}
    assert not used & {"keys", "flushdb", "flushall"}
    assert {"scan", "unlink"} <= used


async def test_the_lives_of_entries_and_markers_end_in_redis(make: Make, client: redis.Redis, redis_url: str) -> None:
    cache = make(redis_url, timeout=5)
    await cache.set("row:1", 1, ttl=60, tags=("t",))
    await cache.get_or_set("row:2", lambda: 2, ttl=600, tags=("t",))
    lives = {name.decode(): client.ttl(name) for name in client.scan_iter("*")}
    assert 0 < lives["araponga:1:{row:1}"] <= 60
    assert 500 < lives["araponga:1:{row:2}"] <= 600
    assert lives["araponga:1:#tag:t"] >= lives["araponga:1:{row:2}"] - 1
    assert lives["araponga:1:#epoch"] == -1
