"""What is asked of each server, and what the answer means; the shells only say when to ask."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any, Protocol

from sqlalchemy import Engine

from araponga_infra.clock import Clock
from araponga_infra.sessions.health import Answer, Limits, PositionHistory, ReplicaStatus, is_check_due
from araponga_infra.sessions.probe import Probe
from araponga_infra.sessions.replica import Replica
from araponga_infra.sessions.servers import Servers
from araponga_infra.sessions.tokens import position_of, reachable

__all__ = ["POSITION", "STANDBY", "Check", "PrimaryCheck", "PrimaryLog", "ReplicaCheck", "checks_of"]

STANDBY = "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()::text, current_setting('transaction_isolation')"
POSITION = "SELECT pg_current_wal_insert_lsn()::text"


class PrimaryLog:
    """How far the primary was seen to have written, shared by all checks. Thread-safe."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._keep_seconds = 3 * limits.max_lag_seconds + 3 * limits.check_interval_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._history = PositionHistory()

    @property
    def history(self) -> PositionHistory:
        return self._history

    def seen(self, position: int) -> None:
        with self._lock:
            self._history = self._history.with_sample(
                self._clock.monotonic(), position, keep_seconds=self._keep_seconds
            )


class Check(Protocol):
    """One server's check."""

    def run(self) -> None:
        """Ask and take note; a server that fails is a result, not an error."""
        ...

    def timed_out(self) -> None:
        """The run takes too long: let go of whatever waits for that server."""
        ...

    def abort(self) -> None:
        """End a run that hangs."""
        ...

    def is_due(self, next_check_at: float, now: float) -> bool: ...

    def is_in_use(self) -> bool:
        """Whether sessions wait for that server, so that a hang must be noticed soon."""
        ...

    def close(self) -> None: ...


class ReplicaCheck:
    """Is it up, a standby, and how far behind?"""

    def __init__(self, replica: Replica, log: PrimaryLog, clock: Clock) -> None:
        self.replica = replica
        self._log = log
        self._clock = clock
        self._is_postgresql = replica.engine.dialect.name == "postgresql"
        self._probe = Probe(replica.engine, STANDBY if self._is_postgresql else "SELECT 1")

    def run(self) -> None:
        try:
            answer = _answer(self._probe.ask()) if self._is_postgresql else self._reachable()
        except Exception as error:
            self.replica.failed(f"unreachable: {type(error).__name__}")
            return
        lag_seconds = self._log.history.lag_seconds(answer.position, self._clock.monotonic())
        self.replica.answered(answer, lag_seconds=lag_seconds if self._is_postgresql else 0.0)

    def _reachable(self) -> Answer:
        self._probe.ask()
        return Answer(is_standby=True, position=0)

    def timed_out(self) -> None:
        self.replica.hung()
        self.abort()

    def abort(self) -> None:
        self._probe.abort()

    def is_due(self, next_check_at: float, now: float) -> bool:
        return is_check_due(self.replica.status, next_check_at=next_check_at, now=now)

    def is_in_use(self) -> bool:
        status: ReplicaStatus = self.replica.status
        return status.is_available and status.in_use > 0

    def close(self) -> None:
        self._probe.close()


def _answer(row: tuple[Any, ...]) -> Answer:
    is_standby, position = row[0], row[1]
    return Answer(bool(is_standby), position_of(position) if position else 0)


class PrimaryCheck:
    """How far has it written? While it is down replicas are measured against what was seen last."""

    def __init__(self, engine: Engine, log: PrimaryLog) -> None:
        self._log = log
        self._probe = Probe(engine, POSITION)

    def run(self) -> None:
        with suppress(Exception):
            self._log.seen(reachable(position_of(str(self._probe.ask()[0]))))

    def timed_out(self) -> None:
        self.abort()

    def abort(self) -> None:
        self._probe.abort()

    def is_due(self, next_check_at: float, now: float) -> bool:
        return now >= next_check_at

    def is_in_use(self) -> bool:
        return False

    def close(self) -> None:
        self._probe.close()


def checks_of(servers: Servers, log: PrimaryLog, clock: Clock) -> tuple[list[ReplicaCheck], list[Check]]:
    """The checks of the replicas, and all checks."""
    replicas = [ReplicaCheck(replica, log, clock) for replica in servers.replicas]
    primary: list[Check] = []
    if replicas and servers.writer.dialect.name == "postgresql":
        primary.append(PrimaryCheck(servers.primary, log))
    return replicas, [*primary, *replicas]
