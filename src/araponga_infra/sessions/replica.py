"""One replica as this process sees it: its engine, and what is known of it."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import URL, event

from araponga_infra.clock import Clock
from araponga_infra.sessions.engines import ReadOnlyEngine
from araponga_infra.sessions.health import Answer, Limits, ReplicaStatus, after_answer, after_failure
from araponga_infra.sessions.records import ReplicaReturned, ReplicaTakenOut
from araponga_infra.telemetry import Report

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import ExceptionContext

__all__ = ["Replica"]

_logger = logging.getLogger("araponga_infra.sessions")


class Replica:
    """Keeps the status of one replica; every change of it goes through a pure decision. Thread-safe."""

    def __init__(
        self, number: int, engine: ReadOnlyEngine, *, limits: Limits, clock: Clock, report: Report | None
    ) -> None:
        self.engine = engine
        self._limits = limits
        self._clock = clock
        self._report = report
        self._lock = threading.Lock()
        self._status = ReplicaStatus(f"replica {number} ({_place(engine.url)})")
        event.listen(engine, "handle_error", self._on_error)

    @property
    def status(self) -> ReplicaStatus:
        return self._status

    def enter(self) -> None:
        self._count(1)

    def leave(self) -> None:
        self._count(-1)

    def _count(self, step: int) -> None:
        with self._lock:
            self._status = replace(self._status, in_use=self._status.in_use + step)

    def answered(self, answer: Answer, *, lag_seconds: float = 0.0) -> None:
        now = self._clock.monotonic()
        with self._lock:
            before = self._status
            self._status = after_answer(before, answer, lag_seconds=lag_seconds, now=now, limits=self._limits)
        self._tell(before)

    def failed(self, reason: str) -> None:
        with self._lock:
            before = self._status
            self._status = after_failure(before, reason, now=self._clock.monotonic())
        self._tell(before)

    def _on_error(self, context: ExceptionContext) -> None:
        if context.is_disconnect:
            self.failed(type(context.original_exception).__name__)

    def _tell(self, before: ReplicaStatus) -> None:
        after = self._status
        if before.is_available == after.is_available:
            return
        if after.is_available:
            _logger.warning("%s serves reads again", after.replica)
        else:
            _logger.warning("%s is taken out: %s; reads go elsewhere", after.replica, after.reason)
        if self._report is not None:
            is_back = after.is_available
            self._report(ReplicaReturned(after.replica) if is_back else ReplicaTakenOut(after.replica, after.reason))


def _place(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return "SQLite"
    return f"{url.host or 'local'}:{url.port}" if url.port else f"{url.host or 'local'}"
