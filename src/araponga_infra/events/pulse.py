"""Signs of life: one thread per consuming processor that nothing a handler does can hold up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from araponga_infra.clock import SYSTEM_CLOCK
from araponga_infra.events.dispatch import Dispatch, Job
from araponga_infra.events.feed import new_owner
from araponga_infra.events.protocols import LeaseKeeper
from araponga_infra.events.values import Reaped

__all__ = ["Pulse"]

_WATCH_SECONDS = 0.1
_logger = logging.getLogger("araponga_infra.events")


class Pulse:
    """Extends the lease, looks for workers that died, and watches the deadlines of running handlers.

    The lease is extended four times per lease time, so that one slow answer of the store costs nothing. Others are
    only declared dead by a worker that has itself been in touch with the store for a whole lease time: after an outage
    of the store everybody gets the chance to give a sign of life first. Cadence is real time, also under a fake clock.

    Args:
        open_keeper: makes the connection that signs of life are given on; called in the pulse's thread.
        on_lost: called when the own lease was lost, with the new owner to go on as.
        on_reaped: called with what was found.
        on_overdue: called for each job past its deadline.
    """

    def __init__(
        self,
        open_keeper: Callable[[], LeaseKeeper],
        dispatch: Dispatch,
        *,
        owner: str,
        lease_seconds: float,
        on_lost: Callable[[str], object],
        on_reaped: Callable[[Reaped], object],
        on_overdue: Callable[[Job], object],
        names: Callable[[], Sequence[str]],
    ) -> None:
        self._open_keeper = open_keeper
        self._dispatch = dispatch
        self._owner = owner
        self._lease_seconds = lease_seconds
        self._on_lost = on_lost
        self._on_reaped = on_reaped
        self._on_overdue = on_overdue
        self._names = names
        self._stop = threading.Event()
        self._in_touch_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="araponga-events-pulse", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(self._lease_seconds)

    def _run(self) -> None:
        keeper: LeaseKeeper | None = None
        next_beat = 0.0
        try:
            while not self._stop.is_set():
                now = SYSTEM_CLOCK.monotonic()
                if now >= next_beat:
                    next_beat = now + self._lease_seconds / 4
                    keeper = self._beat(keeper)
                self._watch()
                self._stop.wait(min(_WATCH_SECONDS, self._lease_seconds / 4))
        finally:
            _close(keeper)

    def _watch(self) -> None:
        for job in self._dispatch.overdue():
            self._on_overdue(job)

    def _beat(self, keeper: LeaseKeeper | None) -> LeaseKeeper | None:
        """Beat and reap; a keeper that failed is thrown away and made anew next time."""
        try:
            keeper = keeper or self._open_keeper()
            if not keeper.beat(self._owner, self._lease_seconds):
                self._owner = new_owner()
                keeper.join(self._owner, self._lease_seconds)
                self._on_lost(self._owner)
            now = SYSTEM_CLOCK.monotonic()
            if self._in_touch_since is None:
                self._in_touch_since = now
            if now - self._in_touch_since >= self._lease_seconds:
                self._on_reaped(keeper.reap(self._names()))
        except Exception as error:
            self._in_touch_since = None
            _logger.warning("no sign of life could be given to the event store: %s", type(error).__name__)
            _close(keeper)
            return None
        return keeper


def _close(keeper: LeaseKeeper | None) -> None:
    if keeper is None:
        return
    try:
        keeper.close()
    except Exception as error:
        _logger.debug("closing the lease's connection raised %s", type(error).__name__)
