"""Asks the servers how they are, in threads of its own, so that no request waits for one that hangs."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence

from araponga_infra.clock import Clock
from araponga_infra.sessions.checks import Check, ReplicaCheck
from araponga_infra.sessions.health import HEARTBEAT_SECONDS, Limits
from araponga_infra.sessions.replica import Replica

__all__ = ["Monitor"]

_STOP_SECONDS = 2.0


class Monitor:
    """One daemon thread per server that asks, and one that watches for those that wait too long.

    Threads start with the first read and end with `stop`. Due times come from the clock; the waiting itself is real.
    """

    def __init__(self, replicas: Sequence[ReplicaCheck], checks: Sequence[Check], limits: Limits, clock: Clock) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._is_running = False
        self._is_stopping = threading.Event()
        self._changed = threading.Condition()
        self._rounds = [_Rounds(check, limits, clock, self._changed, self._is_stopping) for check in checks]
        self._of_replica = {
            check.replica: rounds
            for check in replicas
            for rounds in self._rounds
            if rounds.check is check
        }  # fmt: skip
        for replica, rounds in self._of_replica.items():
            replica.wake = rounds.wake

    def start(self) -> None:
        """Start the threads, once."""
        if not self._is_running:
            with self._lock:
                self._start_once()

    def _start_once(self) -> None:
        if self._is_running or not self._rounds:
            return
        self._is_stopping.clear()
        self._threads = [
            threading.Thread(target=work, name="araponga_infra replica check", daemon=True)
            for work in (self._watch, *(rounds.go for rounds in self._rounds))
        ]
        for thread in self._threads:
            thread.start()
        self._is_running = True

    def confirm(self, replica: Replica, timeout_seconds: float) -> None:
        """Have the replica asked now; returns when it has answered, failed, or not within the timeout."""
        self._of_replica[replica].confirm(timeout_seconds)

    def stop(self) -> None:
        """End the threads; one that hangs in its server is let go of."""
        with self._lock:
            if not self._is_running:
                return
            self._is_stopping.set()
            for rounds in self._rounds:
                rounds.wake()
                rounds.check.abort()
            with self._changed:
                self._changed.notify_all()
            deadline = time.monotonic() + _STOP_SECONDS
            for thread in self._threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            self._is_running = False

    def _watch(self) -> None:
        with self._changed:
            while not self._is_stopping.is_set():
                now = time.monotonic()
                left = [rounds.seconds_left(now) for rounds in self._rounds]
                self._changed.wait(min((seconds for seconds in left if seconds is not None), default=None))
                overdue = [rounds for rounds in self._rounds if rounds.is_overdue(time.monotonic())]
                for rounds in overdue:
                    rounds.check.timed_out()


class _Rounds:
    """One server's checks, one after the other."""

    def __init__(
        self, check: Check, limits: Limits, clock: Clock, changed: threading.Condition, is_stopping: threading.Event
    ) -> None:
        self.check = check
        self._limits = limits
        self._clock = clock
        self._changed = changed
        self._is_stopping = is_stopping
        self._woken = threading.Event()
        self._finished = threading.Condition()
        self._begun = self._done = 0
        self._deadline: float | None = None

    def wake(self) -> None:
        self._woken.set()

    def go(self) -> None:
        next_check_at = self._clock.monotonic()
        while not self._is_stopping.is_set():
            now = self._clock.monotonic()
            if self._woken.is_set() or self.check.is_due(next_check_at, now):
                self._woken.clear()
                self._run()
                next_check_at = now + self._limits.check_interval_seconds * random.uniform(0.7, 1.0)  # noqa: S311
            pause = HEARTBEAT_SECONDS if self.check.is_in_use() else max(0.0, next_check_at - self._clock.monotonic())
            self._woken.wait(min(pause, self._limits.check_interval_seconds))
        self.check.close()

    def _run(self) -> None:
        with self._changed:
            self._begun += 1
            self._deadline = time.monotonic() + self._limits.check_timeout_seconds
            self._changed.notify_all()
        try:
            self.check.run()
        finally:
            self._deadline = None
            with self._finished:
                self._done = self._begun
                self._finished.notify_all()

    def confirm(self, timeout_seconds: float) -> None:
        with self._finished:
            wanted = self._begun if self._deadline is not None else self._begun + 1
            self._woken.set()
            self._finished.wait_for(lambda: self._done >= wanted, timeout_seconds)

    def seconds_left(self, now: float) -> float | None:
        deadline = self._deadline
        return None if deadline is None else max(0.0, deadline - now)

    def is_overdue(self, now: float) -> bool:
        deadline = self._deadline
        if deadline is None or now < deadline:
            return False
        self._deadline = now + self._limits.check_timeout_seconds
        return True
