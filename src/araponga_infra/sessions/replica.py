"""One replica as this process sees it: its engine, the connections in use, and what is known of it."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import URL, Engine, event
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from araponga_infra.clock import Clock
from araponga_infra.errors import ArapongaInfraError
from araponga_infra.sessions.engines import ReadOnlyEngine
from araponga_infra.sessions.health import (
    NOT_ASKED,
    Answer,
    Limits,
    ReplicaStatus,
    after_answer,
    after_failure,
    after_use,
)
from araponga_infra.sessions.probe import abort
from araponga_infra.sessions.records import ReplicaReturned, ReplicaTakenOut
from araponga_infra.telemetry import Report

__all__ = ["Replica", "ReplicaUnavailableError"]

_logger = logging.getLogger("araponga_infra.sessions")


class ReplicaUnavailableError(ArapongaInfraError, ConnectionError):
    """A replica was taken out while a session was about to connect to it; the session goes elsewhere."""


class Replica:
    """Keeps the status of one replica; every change of it is a pure decision. Thread-safe.

    Args:
        number: its place among the replicas, from 1.
        engine: an engine that is only used through this replica.
        limits, clock, report: as the whole set has them.

    Attributes:
        wake: set by what checks it; called when a check should not wait.
        returned: set by what serves instead of it; called when it came back.
    """

    def __init__(
        self, number: int, engine: ReadOnlyEngine, *, limits: Limits, clock: Clock, report: Report | None
    ) -> None:
        self.engine: _ReplicaEngine = _ReplicaEngine(engine, self)
        self.wake: Callable[[], None] = _nobody
        self.returned: Callable[[], None] = _nobody
        self._limits = limits
        self._clock = clock
        self._report = report
        self._lock = threading.Lock()
        self._held: weakref.WeakSet[PoolProxiedConnection] = weakref.WeakSet()
        self._opened: weakref.WeakSet[ConnectionPoolEntry] = weakref.WeakSet()
        _tell_of_connections(engine, weakref.ref(self))
        self._lost_at = 0.0
        self._heard_at: float | None = None
        self._status = ReplicaStatus(f"replica {number} ({_place(engine.url)})")

    @property
    def status(self) -> ReplicaStatus:
        return self._status

    def enter(self) -> None:
        """A session came."""
        self._change(lambda status: after_use(status, step=1))

    def leave(self) -> None:
        """A session went."""
        self._change(lambda status: after_use(status, step=-1, answered_at=self._heard_at))

    def answered(self, answer: Answer, *, lag_seconds: float | None = None) -> None:
        """It said where it is. Only a check knows the lag; another answer leaves it as it was."""
        now = self._clock.monotonic()
        self._change(
            lambda status: after_answer(
                status,
                answer,
                lag_seconds=status.lag_seconds if lag_seconds is None else lag_seconds,
                now=now,
                limits=self._limits,
            )
        )

    def failed(self, reason: str) -> None:
        """It failed: reads stop at once, and connections from before are not trusted again."""
        self._lost_at = time.time()
        self._change(lambda status: after_failure(status, reason))

    def hung(self) -> None:
        """It does not answer: whoever waits for it gets an error now instead of when it pleases."""
        self.failed("hung: it does not answer in time")
        with self._lock:
            waiting = (*self._held, *self._opened)
        for connection in waiting:
            with suppress(Exception):
                abort(connection.driver_connection)

    def opened(self, entry: ConnectionPoolEntry) -> None:
        """Remember a connection from its beginning: a pool that pings waits on it before it is checked out."""
        with self._lock:
            self._opened.add(entry)

    def hold(self, connection: PoolProxiedConnection) -> None:
        """Remember a connection while it is checked out."""
        with self._lock:
            self._held.add(connection)

    def is_stale(self, connection: PoolProxiedConnection) -> bool:
        """Whether a pooled connection is from before the last failure."""
        record: Any = connection
        return bool(record._connection_record.starttime <= self._lost_at)

    def _change(self, decide: Callable[[ReplicaStatus], ReplicaStatus]) -> None:
        with self._lock:
            before = self._status
            after = self._status = decide(before)
        if before.is_available != after.is_available:
            self._tell(before, after)

    def _tell(self, before: ReplicaStatus, after: ReplicaStatus) -> None:
        if after.is_available and before.reason == NOT_ASKED:
            return
        if after.is_available:
            _logger.warning("%s serves reads again", after.replica)
            self.returned()
        else:
            _logger.warning("%s is taken out: %s; reads go elsewhere", after.replica, after.reason)
        if self._report is not None:
            is_back = after.is_available
            self._report(ReplicaReturned(after.replica) if is_back else ReplicaTakenOut(after.replica, after.reason))

    def has_lost_connection(self, error: BaseException) -> None:
        """A session lost its connection to it."""
        self.failed(f"connection lost: {type(error).__name__}")
        self.wake()

    def has_answered(self) -> None:
        """It answered a statement of a session."""
        self._heard_at = self._clock.monotonic()


def _nobody() -> None:
    """Nobody listens yet."""


def _tell_of_connections(engine: Engine, replica: weakref.ref[Replica]) -> None:
    """The engine may be the host's and outlive the replica."""

    def connected(_connection: object, entry: ConnectionPoolEntry) -> None:
        known = replica()
        if known is not None:
            known.opened(entry)

    event.listen(engine, "connect", connected)


def _place(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return "SQLite"
    return f"{url.host or 'local'}:{url.port}" if url.port else f"{url.host or 'local'}"


class _ReplicaEngine(ReadOnlyEngine):
    """Hands out connections that were opened since the replica was last lost, and none while it is out."""

    def __init__(self, proxied: Engine, replica: Replica) -> None:
        super().__init__(proxied, {})
        self._replica = replica

    def has_answered(self) -> None:
        self._replica.has_answered()

    def has_lost_connection(self, error: BaseException) -> None:
        self._replica.has_lost_connection(error)

    def check_out(self) -> PoolProxiedConnection:
        while True:
            if not self._replica.status.is_available:
                raise ReplicaUnavailableError(f"{self._replica.status.replica} was taken out")
            connection = super().check_out()
            if not self._replica.is_stale(connection):
                self._replica.hold(connection)
                return connection
            abort(connection.driver_connection)
            connection.invalidate()
            connection.close()
