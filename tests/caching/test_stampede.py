"""One load per key, whoever asks, and whatever happens to the one who loads."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest

from araponga_infra.caching import (
    MISSING,
    AsyncCachetoolsCacheService,
    CacheEarlyRefresh,
    CacheError,
    CacheLoad,
    CachePolicy,
    CacheStale,
    CachetoolsCacheService,
    CacheWait,
    Loaded,
    LoadTimeoutError,
    RecursiveLoadError,
)
from araponga_infra.testing.caching import Uniform
from tests.caching.conftest import Make, Notes, build, until
from tests.servers.redis_server import RedisServer

pytestmark = pytest.mark.anyio

WORKER = """
import asyncio, sys, threading, time
from tests.caching.conftest import build
from araponga_infra.testing.caching import Uniform

kind, url, callers = sys.argv[1], sys.argv[2], int(sys.argv[3])

async def main():
    cache = Uniform(build(kind, url, timeout=2))
    await cache.get("warm")
    print("ready", flush=True)
    sys.stdin.readline()
    loads = []

    def load():
        loads.append(1)
        return asyncio.sleep(0.05, 7) if cache.is_async else (time.sleep(0.05), 7)[1]

    results = await cache.at_once(callers, "cold", load, type=int)
    assert results == [7] * callers, results
    print(len(loads), flush=True)
    sys.stdin.readline()
    await (cache.aclose() if cache.is_async else cache.close())

asyncio.run(main())
"""


class Workers:
    """Processes that run a script side by side."""

    def __init__(self, script: str, arguments: list[list[str]]) -> None:
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(script), *each],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
            )
            for each in arguments
        ]  # fmt: skip

    def lines(self) -> list[str]:
        return [process.stdout.readline().strip() for process in self.processes if process.stdout]

    def go(self) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.kill()
            process.communicate(timeout=30)


def commands(server: RedisServer) -> int:
    """Commands that caches have sent, heartbeats apart."""
    stats = server.execute("INFO", "commandstats")
    names = ("cmdstat_mget", "cmdstat_evalsha", "cmdstat_eval")
    return sum(int(stats[name]["calls"]) for name in names if name in stats)


ONE_OF_EACH_COLOUR = pytest.mark.parametrize("kind", ["redis", "async hybrid"])
THE_OTHERS = pytest.mark.parametrize("kind", ["hybrid", "async redis"])


@ONE_OF_EACH_COLOUR
async def test_four_processes_of_callers_and_one_load(kind: str, redis_url: str, redis_server: RedisServer) -> None:
    counts: list[int] = []
    for callers in (10, 200):
        redis_server.flush()
        with Workers(WORKER, [[kind, redis_url, str(callers)]] * 4) as workers:
            assert workers.lines() == ["ready"] * 4
            before = commands(redis_server)
            workers.go()
            assert sorted(workers.lines()) == ["0", "0", "0", "1"]
            counts.append(commands(redis_server) - before)
            workers.go()
    assert max(counts) < 200, counts


@THE_OTHERS
async def test_a_killed_loader_is_taken_over(make: Make, kind: str, redis_url: str) -> None:
    script = """
    import sys, asyncio, time
    from tests.caching.conftest import build
    from araponga_infra.testing.caching import Uniform
    async def main():
        cache = Uniform(build(sys.argv[1], sys.argv[2], timeout=2))
        def load():
            print("loading", flush=True)
            time.sleep(60)
        await cache.get_or_set("k", load)
    asyncio.run(main())
    """
    cache = make(redis_url, timeout=2)
    await cache.get("warm")
    with Workers(script, [[kind, redis_url]]) as workers:
        assert workers.lines() == ["loading"]
        os.kill(workers.processes[0].pid, signal.SIGKILL)
        workers.processes[0].wait()
        started = time.monotonic()
        assert await cache.get_or_set("k", lambda: 5) == 5
        assert time.monotonic() - started < 2.0
    assert await cache.get("k") == 5


@ONE_OF_EACH_COLOUR
async def test_a_load_longer_than_its_lease_stays_the_only_one(make: Make, redis_url: str) -> None:
    one, other = make(redis_url, timeout=2), make(redis_url, timeout=2)
    loads: list[int] = []

    def load() -> Any:
        loads.append(1)
        return slowly(one.is_async, 2.2, 7)()

    first = await one.in_background(lambda: one.get_or_set("slow", load))
    second = await other.in_background(lambda: other.get_or_set("slow", load))
    assert (await first, await second, len(loads)) == (7, 7, 1)
    assert await make(redis_url).get("slow") == 7


@pytest.mark.parametrize("across", [False, True])
async def test_a_delete_during_a_load_a_thousand_times(make: Make, redis_url: str, across: bool) -> None:
    cache = make(redis_url, timeout=2)
    deleter = make(redis_url, timeout=2) if across else cache
    await deleter.get("warm")
    stale = 0
    for number in range(1000):
        name = f"row:{number}"

        def load(name: str = name) -> Any:
            if cache.is_async:
                return _after(deleter.delete(name))
            deleter.cache.delete(name)
            return "old"

        assert await cache.get_or_set(name, load) == "old"
        stale += await deleter.get(name, MISSING) is not MISSING
        stale += await cache.get(name, MISSING) is not MISSING
    assert stale == 0


async def test_a_delete_during_a_load_in_memory_a_thousand_times(memory: Uniform) -> None:
    for number in range(1000):

        def load(name: str = f"row:{number}") -> Any:
            if memory.is_async:
                return _after(memory.delete(name))
            memory.cache.delete(name)
            return "old"

        assert await memory.get_or_set(f"row:{number}", load) == "old"
        assert await memory.get(f"row:{number}", MISSING) is MISSING


async def _after(deletion: Any) -> str:
    await deletion
    return "old"


@THE_OTHERS
async def test_a_delete_at_any_moment_of_a_load(kind: str, make: Make, redis_url: str) -> None:
    """Readers and a writer race for real: what readers find after the last write is that write or nothing."""
    cache, other = make(redis_url, timeout=2), make(redis_url, timeout=2)
    truth = [0]

    def load() -> Any:
        seen = truth[0]
        return slowly(cache.is_async, 0.001, seen)()

    def load_kept() -> int:
        return truth[0]

    done = threading.Event()

    async def read(through: Uniform) -> None:
        while not done.is_set():
            await through.get_or_set("row", load, type=int)
            if through.is_async:
                await asyncio.sleep(0)

    readers = [await each.in_background(partial(read, each)) for each in (cache, other)]
    try:
        for number in range(1, 150):
            truth[0] = number
            await other.delete("row")
            found = await other.get_or_set("row", load_kept, type=int)
            assert found == number
            await asyncio.sleep(0.001)
    finally:
        done.set()
        await asyncio.gather(*readers)


def waiting(cache: Uniform, key: str) -> int:
    """How many callers wait for the load of a key."""
    flight = cache.cache._parts.flights._flying.get(key)
    return 0 if flight is None else len(flight._callbacks) + len(flight._line)


async def fail_for_200(cache: Uniform) -> None:
    """All 200 ask before the load fails: they get that one error at once, and nobody loads again for it."""
    loads: list[int] = []

    def all_wait() -> bool:
        return waiting(cache, "failing") == 199 + cache.is_async

    async def fail_later() -> int:
        await asyncio.to_thread(until, all_wait, 60)
        raise LookupError("no such row")

    def fail() -> Any:
        loads.append(1)
        if cache.is_async:
            return fail_later()
        until(all_wait, 60)
        raise LookupError("no such row")

    errors = await cache.at_once(200, "failing", fail, type=int)
    assert {type(error) for error in errors} == {LookupError}
    assert len({id(error) for error in errors}) == 1
    assert len(loads) == 1
    assert await cache.get_or_set("failing", lambda: 7) == 7


async def test_a_load_that_fails_for_200_callers(make: Make, redis_url: str) -> None:
    await fail_for_200(make(redis_url, timeout=5))


async def test_a_load_that_fails_is_tried_by_one_instance_at_a_time(make: Make, redis_url: str) -> None:
    """An error stays in its instance; of the others, each tries once for all its callers, one after another."""
    caches = [make(redis_url, timeout=5) for _ in range(4)]
    under_way, at_once, loads = [0], [0], [0]

    def begin() -> None:
        under_way[0] += 1
        loads[0] += 1
        at_once[0] = max(at_once[0], under_way[0])

    def end() -> None:
        under_way[0] -= 1
        raise LookupError("no such row")

    def all_wait() -> bool:
        return all(waiting(each, "failing") >= 49 for each in caches)

    async def fail_later() -> None:
        begin()
        if loads[0] == 1:
            await asyncio.to_thread(until, all_wait, 60)
        end()

    def fail() -> Any:
        if caches[0].is_async:
            return fail_later()
        begin()
        if loads[0] == 1:
            until(all_wait, 60)
        return end()

    answers = await asyncio.gather(*[each.at_once(50, "failing", fail, type=int) for each in caches])
    for errors in answers:
        assert {type(error) for error in errors} == {LookupError}
        assert len({id(error) for error in errors}) == 1
    assert at_once == [1]
    assert loads == [4]


async def test_a_load_in_memory_that_fails_for_200_callers(memory: Uniform) -> None:
    await fail_for_200(memory)


async def test_200_callers_of_200_keys_share_the_connections(make: Make, redis_url: str) -> None:
    """Whoever finds no free connection waits for one; nobody gets an error of a pool."""
    cache = make(redis_url, timeout=30, max_connections=4)
    calls = [
        await cache.in_background(partial(cache.get_or_set, f"row:{number}", lambda number=number: number, type=int))
        for number in range(200)
    ]
    assert await asyncio.gather(*calls) == list(range(200))
    assert not cache.cache.is_degraded


@pytest.mark.parametrize("kind", ["async redis", "async hybrid"])
async def test_a_cancelled_leader_cancels_nobody(kind: str, make: Make, redis_url: str) -> None:
    await cancel_the_leader(make(redis_url, timeout=5).cache)


async def test_a_cancelled_leader_in_memory_cancels_nobody() -> None:
    await cancel_the_leader(AsyncCachetoolsCacheService())


async def cancel_the_leader(cache: Any) -> None:
    is_loading, release = asyncio.Event(), asyncio.Event()
    loads: list[int] = []

    async def load() -> int:
        loads.append(1)
        is_loading.set()
        await release.wait()
        return 7

    leader = asyncio.create_task(cache.get_or_set("k", load))
    await is_loading.wait()
    waiters = [asyncio.create_task(cache.get_or_set("k", load)) for _ in range(5)]
    await asyncio.sleep(0)
    leader.cancel()
    await asyncio.sleep(0)
    release.set()
    assert await asyncio.gather(*waiters) == [7] * 5
    assert leader.cancelled()
    assert len(loads) == 1


async def test_a_load_that_cancels_itself_is_an_error_and_not_a_cancellation() -> None:
    cache = AsyncCachetoolsCacheService()

    async def load() -> int:
        raise asyncio.CancelledError

    with pytest.raises(CacheError):
        await cache.get_or_set("k", load)


def test_an_interrupted_leader_frees_its_waiters() -> None:
    cache = CachetoolsCacheService()
    is_waiting = threading.Event()
    results: list[int] = []

    def interrupted() -> int:
        waiter.start()
        until(lambda: cache._parts.flights._flying["k"]._line)
        raise KeyboardInterrupt

    def wait() -> None:
        is_waiting.set()
        results.append(cache.get_or_set("k", lambda: 5))

    waiter = threading.Thread(target=wait)
    with pytest.raises(KeyboardInterrupt):
        cache.get_or_set("k", interrupted)
    waiter.join(timeout=5)
    assert results == [5]


def test_a_loop_that_ends_in_the_middle_frees_other_loops() -> None:
    cache = AsyncCachetoolsCacheService()

    async def forever() -> int:
        await asyncio.sleep(3600)
        return 1

    async def start_and_leave() -> None:
        task = asyncio.create_task(cache.get_or_set("k", forever))
        await asyncio.sleep(0.01)
        task.cancel()

    async def quick() -> int:
        return 5

    asyncio.run(start_and_leave())
    assert asyncio.run(cache.get_or_set("k", quick)) == 5


def test_loads_are_shared_between_event_loops() -> None:
    cache = AsyncCachetoolsCacheService()
    loads: list[int] = []
    gate = threading.Barrier(4)

    async def load() -> int:
        loads.append(1)
        await asyncio.sleep(0.1)
        return 7

    async def ask() -> int:
        gate.wait(timeout=10)
        return await cache.get_or_set("k", load)

    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(asyncio.run(ask()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (results, len(loads)) == ([7] * 4, 1)


@pytest.mark.parametrize("kind", ["async redis", "async hybrid"])
def test_one_cache_serves_one_event_loop_after_another_and_several_at_once(kind: str, redis_url: str) -> None:
    cache = build(kind, redis_url, timeout=5)

    async def use(number: int) -> int:
        await cache.set(f"row:{number}", number)
        assert await cache.get(f"row:{number}") == number
        await cache.delete("shared")
        return int(await cache.get_or_set("shared", partial(asyncio.sleep, 0.01, 7), type=int))

    assert [asyncio.run(use(number)) for number in range(3)] == [7] * 3
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(asyncio.run(use(5)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert results == [7] * 4
    assert not cache.is_degraded
    asyncio.run(cache.aclose())


def test_two_loads_that_wait_for_each_other_are_refused() -> None:
    cache = CachetoolsCacheService()
    gate = threading.Barrier(2)
    errors: list[BaseException] = []

    def ask(first: str, second: str) -> None:
        def load() -> int:
            gate.wait(timeout=10)
            return cache.get_or_set(second, lambda: 1)

        try:
            cache.get_or_set(first, load)
        except RecursiveLoadError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=pair) for pair in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert not any(thread.is_alive() for thread in threads)
    assert errors


def slowly(is_async: bool, seconds: float, value: int) -> Callable[[], Any]:
    def load() -> int:
        threading.Event().wait(seconds)
        return value

    return partial(asyncio.sleep, seconds, value) if is_async else load


@pytest.fixture(params=[CachetoolsCacheService, AsyncCachetoolsCacheService])
def memory(request: pytest.FixtureRequest, notes: Notes) -> Uniform:
    return Uniform(request.param(observer=notes))


async def test_a_soft_timeout_serves_the_stale_value_and_the_load_goes_on(memory: Uniform, notes: Notes) -> None:
    policy = CachePolicy(stale_for=60, soft_timeout=0.05)
    await memory.get_or_set("k", lambda: Loaded(1, ttl=0.01), policy=policy)
    await asyncio.sleep(0.03)
    assert await memory.get_or_set("k", slowly(memory.is_async, 0.3, 2), policy=policy) == 1
    assert [record.reason for record in notes.of(CacheStale)] == ["load slow"]
    for _ in range(200):
        await asyncio.sleep(0.01)
        if await memory.get("k") == 2:
            break
    assert await memory.get("k") == 2


async def test_a_hard_timeout_raises_and_the_load_goes_on(memory: Uniform) -> None:
    with pytest.raises(LoadTimeoutError, match="hard_timeout"):
        await memory.get_or_set("k", slowly(memory.is_async, 0.3, 2), policy=CachePolicy(hard_timeout=0.05))
    for _ in range(200):
        await asyncio.sleep(0.01)
        if await memory.exists("k"):
            break
    assert await memory.get("k") == 2


async def test_an_early_refresh_serves_the_others_meanwhile(memory: Uniform, notes: Notes) -> None:
    policy = CachePolicy(early_refresh=1e9)
    await memory.get_or_set("k", slowly(memory.is_async, 0.01, 1), policy=policy)
    results: list[Any] = await memory.at_once(5, "k", slowly(memory.is_async, 0.2, 2), policy=policy)
    assert sorted(results) == [1, 1, 1, 1, 2]
    assert len(notes.of(CacheEarlyRefresh)) == 1
    assert await memory.get("k") == 2


async def test_waits_and_loads_are_told(memory: Uniform, notes: Notes) -> None:
    region = Uniform(memory.cache.region("row", int))
    await memory.at_once(5, "row:1", slowly(memory.is_async, 0.05, 1))
    await region.get(1)
    loads = notes.of(CacheLoad)
    assert [(load.stored, load.failed, load.region) for load in loads] == [(True, False, "row")]
    assert loads[0].seconds >= 0.04
    assert len(notes.of(CacheWait)) == 4


async def test_an_early_refresh_with_redis(make: Make, redis_url: str) -> None:
    policy = CachePolicy(early_refresh=1e9)
    cache, other = make(redis_url, timeout=2), make(redis_url, timeout=2)
    assert await cache.get_or_set("k", slowly(cache.is_async, 0.01, 1), policy=policy) == 1
    assert await other.get_or_set("k", slowly(cache.is_async, 0.01, 2), policy=policy) == 2
    assert await other.get("k") == 2
    assert await make(redis_url).get("k") == 2
