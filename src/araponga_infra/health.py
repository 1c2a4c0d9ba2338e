"""What `health()` answers: is the process alive, is it ready for traffic, and how is each part."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from araponga_infra.caching import AsyncDistributedCacheService, DistributedCacheService
from araponga_infra.events import EventStats
from araponga_infra.sessions import ReplicaStatus

__all__ = [
    "AsyncCheck",
    "AsyncHealthChecks",
    "Check",
    "Health",
    "HealthChecks",
    "PartHealth",
    "PartState",
    "cache_health",
    "events_health",
    "health_of",
    "replicas_health",
]


class PartState(StrEnum):
    """How a part is. Degraded means that it runs on its fallback: slower or less shared, but right."""

    HEALTHY = "healthy"
    """It works."""

    DEGRADED = "degraded"
    """It works on its fallback; the process stays ready."""

    DOWN = "down"
    """It does not work, or has not answered in time; the process is not ready."""


@dataclass(frozen=True)
class PartHealth:
    """How one part is.

    Attributes:
        state: healthy, on its fallback, or down.
        detail: why, in a few words and never with a URL; empty while it is healthy.
    """

    state: PartState
    detail: str = ""


@dataclass(frozen=True)
class Health:
    """The answer to both probes of an orchestrator.

    Attributes:
        live: false only when a restart of this process would help.
        ready: whether this process should receive traffic; degraded parts do not prevent it.
        parts: the state of each part that is configured, by name.
    """

    live: bool
    ready: bool
    parts: Mapping[str, PartHealth]


Check = Callable[[], PartHealth]
AsyncCheck = Callable[[], Awaitable[PartHealth]]


def health_of(parts: Mapping[str, PartHealth], *, live: bool = True) -> Health:
    """A process is ready when it is live and none of its parts is down."""
    return Health(live, live and all(part.state is not PartState.DOWN for part in parts.values()), dict(parts))


class _RunningCheck:
    """A check in a thread of its own, and its answer once there is one."""

    def __init__(self, name: str, check: Check) -> None:
        self._check = check
        self.answer: PartHealth | None = None
        self.thread = threading.Thread(target=self._run, name=f"araponga-health-{name}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.answer = self._check()
        except Exception as error:
            self.answer = _failed(error)


class HealthChecks:
    """Runs checks side by side within one time limit, each in a thread of its own.

    A check that hangs keeps its thread; until that ends the part is down and no second thread is spent on it.
    """

    def __init__(self) -> None:
        self._running: dict[str, _RunningCheck] = {}
        self._lock = threading.Lock()

    def run(self, checks: Mapping[str, Check], timeout_seconds: float) -> dict[str, PartHealth]:
        """Answer for every part by the end of `timeout_seconds`, whatever hangs."""
        deadline = time.monotonic() + timeout_seconds
        running = {name: self._start(name, check) for name, check in checks.items()}
        for check in running.values():
            check.thread.join(max(0.0, deadline - time.monotonic()))
        return {name: check.answer or _no_answer(timeout_seconds) for name, check in running.items()}

    def _start(self, name: str, check: Check) -> _RunningCheck:
        with self._lock:
            running = self._running.get(name)
            if running is None or not running.thread.is_alive():
                running = self._running[name] = _RunningCheck(name, check)
            return running


class AsyncHealthChecks:
    """The same on an event loop, each check in a task of its own.

    A check that hangs is cancelled, and nobody waits for its end: on a connection whose other side is gone, a driver
    may take seconds to give up. Until then the part is down.
    """

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[PartHealth]] = {}

    async def run(self, checks: Mapping[str, AsyncCheck], timeout_seconds: float) -> dict[str, PartHealth]:
        """Answer for every part by the end of `timeout_seconds`, whatever hangs."""
        running = {name: self._start(name, check) for name, check in checks.items()}
        await asyncio.wait(running.values(), timeout=timeout_seconds)
        return {name: _answer_of(task, timeout_seconds) for name, task in running.items()}

    def _start(self, name: str, check: AsyncCheck) -> asyncio.Task[PartHealth]:
        running = self._running.get(name)
        if running is None or running.done():
            running = self._running[name] = asyncio.create_task(_answered(check), name=f"araponga-health-{name}")
        return running

    async def aclose(self) -> None:
        """End what still runs."""
        ending = [task for task in self._running.values() if not task.done()]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)


async def _answered(check: AsyncCheck) -> PartHealth:
    try:
        return await check()
    except Exception as error:
        return _failed(error)


def _answer_of(task: asyncio.Task[PartHealth], timeout_seconds: float) -> PartHealth:
    if task.done() and not task.cancelled():
        return task.result()
    task.cancel()
    return _no_answer(timeout_seconds)


def _no_answer(timeout_seconds: float) -> PartHealth:
    return PartHealth(PartState.DOWN, f"no answer within {timeout_seconds:g} s")


def _failed(error: Exception) -> PartHealth:
    return PartHealth(PartState.DOWN, type(error).__name__)


def cache_health(cache: DistributedCacheService | AsyncDistributedCacheService) -> PartHealth:
    """Without its Redis a cache answers from this process's memory."""
    if cache.is_degraded:
        return PartHealth(PartState.DEGRADED, "Redis is away: memory alone")
    return PartHealth(PartState.HEALTHY)


def replicas_health(replicas: Sequence[ReplicaStatus]) -> PartHealth:
    """Reads of a replica that is out go to another one or to the primary: slower, but right."""
    out = [f"{replica.replica}: {replica.reason}" for replica in replicas if not replica.is_available]
    return PartHealth(PartState.DEGRADED, "; ".join(out)) if out else PartHealth(PartState.HEALTHY)


def events_health(stats: EventStats) -> PartHealth:
    """The store answered; a backlog or dead letters are for an alert, not for a probe."""
    return PartHealth(PartState.HEALTHY, f"{stats.queued} queued, {stats.dead} dead")
