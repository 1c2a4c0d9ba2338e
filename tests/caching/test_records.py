"""What an observer hears of a full memory and of an entry that cannot be read, by its stable name."""

from __future__ import annotations

import redis

from araponga_infra import CachetoolsCacheService, CountingObserver, RedisCacheService


def test_what_a_full_memory_lets_go() -> None:
    counters = CountingObserver()
    cache = CachetoolsCacheService(max_entries=2, observer=counters)
    for number in range(5):
        cache.set(f"row:{number}", number)
    assert counters.snapshot().of("cache.eviction").sums == {"entries": 3}


def test_an_entry_that_cannot_be_read(redis_url: str) -> None:
    counters = CountingObserver()
    with (
        redis.Redis.from_url(redis_url) as client,
        RedisCacheService(redis_url, timeout=1, observer=counters) as cache,
    ):
        cache.set("row:1", 1)
        for stored in client.scan_iter("*row:1*"):
            client.set(stored, b"nonsense")
        assert cache.get("row:1", "miss") == "miss"
    assert counters.snapshot()["cache.rejected"] == 1
