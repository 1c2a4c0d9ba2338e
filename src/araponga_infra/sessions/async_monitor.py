"""The same watch over the servers for async code: tasks on the loop that reads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy.util import greenlet_spawn

from araponga_infra.clock import Clock
from araponga_infra.sessions.checks import Check, ReplicaCheck
from araponga_infra.sessions.health import HEARTBEAT_SECONDS, Limits
from araponga_infra.sessions.replica import Replica

__all__ = ["AsyncMonitor"]


class AsyncMonitor:
    """One task per server, on the event loop of the first read; a read on another loop starts anew there."""

    def __init__(self, replicas: Sequence[ReplicaCheck], checks: Sequence[Check], limits: Limits, clock: Clock) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._rounds = [_Rounds(check, limits, clock) for check in checks]
        self._of_replica = {
            check.replica: rounds
            for check in replicas
            for rounds in self._rounds
            if rounds.check is check
        }  # fmt: skip
        for replica, rounds in self._of_replica.items():
            replica.wake = rounds.wake

    def start(self) -> None:
        """Start the tasks on the running loop, once per loop."""
        loop = asyncio.get_running_loop()
        if self._loop is loop or not self._rounds:
            return
        self._loop = loop
        for rounds in self._rounds:
            rounds.renew()
        self._tasks = [loop.create_task(rounds.go(), name="araponga_infra replica check") for rounds in self._rounds]

    async def confirm(self, replica: Replica, timeout_seconds: float) -> None:
        """Have the replica asked now; returns when it has answered, failed, or not within the timeout."""
        await self._of_replica[replica].confirm(timeout_seconds)

    async def stop(self) -> None:
        """End the tasks and their connections."""
        tasks, self._tasks, loop, self._loop = self._tasks, [], self._loop, None
        if loop is not asyncio.get_running_loop():
            return
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for rounds in self._rounds:
            await greenlet_spawn(rounds.check.close)


class _Rounds:
    """One server's checks, one after the other."""

    def __init__(self, check: Check, limits: Limits, clock: Clock) -> None:
        self.check = check
        self._limits = limits
        self._clock = clock
        self.renew()

    def renew(self) -> None:
        """Forget what belonged to another event loop."""
        self._woken = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []

    def wake(self) -> None:
        self._woken.set()

    async def go(self) -> None:
        next_check_at = self._clock.monotonic()
        while True:
            now = self._clock.monotonic()
            if self._woken.is_set() or self.check.is_due(next_check_at, now):
                self._woken.clear()
                await self._run()
                next_check_at = now + self._limits.check_interval_seconds * random.uniform(0.7, 1.0)  # noqa: S311
            pause = HEARTBEAT_SECONDS if self.check.is_in_use() else max(0.0, next_check_at - self._clock.monotonic())
            with suppress(TimeoutError):
                async with asyncio.timeout(min(pause, self._limits.check_interval_seconds)):
                    await self._woken.wait()

    async def _run(self) -> None:
        """Cancelling a query would have the driver wait for its server; breaking the connection does not."""
        running = asyncio.ensure_future(greenlet_spawn(self.check.run))
        try:
            done, _ = await asyncio.wait({running}, timeout=self._limits.check_timeout_seconds)
            if not done:
                self.check.timed_out()
                running.cancel()
                await asyncio.wait({running}, timeout=self._limits.check_timeout_seconds)
        finally:
            running.cancel()
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    async def confirm(self, timeout_seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._woken.set()
        await asyncio.wait({future}, timeout=max(0.0, timeout_seconds))
