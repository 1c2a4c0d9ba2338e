"""Whether Redis is there and may be trusted: the breaker, the journal of what it missed, its clock and identity.

One per process and cache; threads and event loops share it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from araponga_infra.caching.breaker import Breaker, after_failure, after_probe, after_recovery, may_probe
from araponga_infra.caching.flights import Signal
from araponga_infra.caching.journal import Journal, Missed
from araponga_infra.caching.records import CacheBreaker, CachePurge
from araponga_infra.telemetry import Report

__all__ = ["Availability", "ServerTime"]

_logger = logging.getLogger("araponga_infra.caching")
_MOST_NOTED = 10_000


@dataclass(frozen=True)
class ServerTime:
    """The server's clock, seen from ours: it answered `server_ms` between two moments of ours."""

    server_ms: float
    sent_at: float
    received_at: float

    def latest(self, now: float) -> float:
        """What it may read at most."""
        return self.server_ms + (now - self.sent_at) * 1000.0

    def earliest(self, now: float) -> float:
        """What it reads at least."""
        return self.server_ms + (now - self.received_at) * 1000.0


class Availability:
    """The state of the relation to one Redis.

    Args:
        report: where changes are reported.
        wake: starts or wakes whoever probes.
    """

    def __init__(self, report: Report | None, wake: Callable[[], None]) -> None:
        self._report = report
        self._wake = wake
        self.reset()

    def reset(self) -> None:
        """As if Redis had never been met; also in a forked child, whose parent settles its own journal."""
        self._lock = threading.Lock()
        self._breaker = Breaker()
        self._journal = Journal(_MOST_NOTED)
        self._is_warned = self._is_full_warned = self._is_ended = False
        self.is_trusted: bool = False
        self.met: Signal = Signal()
        """Lands when Redis has been met for the first time, or was found to be away."""
        self.server_id = ""
        self.server_time: ServerTime = ServerTime(time.time() * 1000.0, time.monotonic(), time.monotonic())

    @property
    def is_new(self) -> bool:
        return not self.met.has_landed

    def end(self) -> None:
        """The cache is being closed: what fails from here on says nothing about Redis."""
        self._is_ended = True

    def fail(self, reason: str) -> None:
        """A call or a probe got no answer."""
        if self._is_ended:
            self.is_trusted = False
            self.met.land()
            return
        with self._lock:
            before, self._breaker = self._breaker, after_failure(self._breaker, time.monotonic())
            self.is_trusted = False
            is_news, self._is_warned = not self._is_warned, True
        if is_news:
            _logger.warning("Redis does not answer (%s): serving from memory until it does", reason)
        if before.state in ("new", "closed") or is_news:
            self._tell(CacheBreaker("open", reason))
        self.met.land()
        self._wake()

    def fail_if_unmet(self, reason: str) -> None:
        """The first caller has waited as long as it may."""
        if not self.met.has_landed:
            self.fail(reason)

    def may_probe(self) -> bool:
        with self._lock:
            return may_probe(self._breaker, time.monotonic())

    def begin_probe(self) -> None:
        with self._lock:
            self._breaker = after_probe(self._breaker)
        if self.met.has_landed:
            self._tell(CacheBreaker("half-open"))

    def note(self, kind: str, names: Iterable[str]) -> None:
        """Remember what Redis has missed, or may have."""
        with self._lock:
            self._journal.note(kind, names)

    def note_everything(self) -> None:
        with self._lock:
            self._journal.note_everything()

    def take_missed(self) -> Missed:
        with self._lock:
            return self._journal.take()

    def put_back(self, missed: Missed) -> None:
        with self._lock:
            self._journal.put_back(missed)

    def trust_unless_missed(self) -> bool:
        """Close the breaker in the same moment in which nothing is left to purge."""
        with self._lock:
            if self._journal:
                return False
            self._breaker = after_recovery(self._breaker)
            self.is_trusted = True
            was_warned, self._is_warned = self._is_warned, False
            is_first = self.is_new
        if was_warned:
            _logger.warning("Redis answers again: trusting it, after removing what it had missed")
        if was_warned or is_first:
            self._tell(CacheBreaker("closed"))
        self.met.land()
        return True

    def tell_purge(self, missed: Missed) -> None:
        if missed:
            self._tell(CachePurge(missed.count, missed.everything))

    def warn_full(self) -> None:
        """Redis refuses to store for want of memory, but serves and deletes."""
        if not self._is_full_warned:
            self._is_full_warned = True
            _logger.warning("Redis is out of memory and stores nothing: values are loaded again until it has room")

    def has_room(self) -> None:
        self._is_full_warned = False

    def _tell(self, record: CacheBreaker | CachePurge) -> None:
        if self._report is not None:
            self._report(record)
