"""One load per key in a process: whoever comes first leads, the others wait for the same flight to land."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from araponga_infra.caching.entries import Entry
from araponga_infra.caching.errors import RecursiveLoadError

__all__ = ["ABANDONED", "Flight", "Flights", "Signal"]


class _Abandoned:
    """The outcome of a flight whose leader is gone: waiters start over."""

    def __repr__(self) -> str:
        return "ABANDONED"


ABANDONED: Final = _Abandoned()

_WOKEN_AT_ONCE = 2
"""Threads that a landing wakes by itself. More of them only stand in each other's way at the interpreter's lock."""

_loading: contextvars.ContextVar[tuple[Flight, ...]] = contextvars.ContextVar("araponga_infra_loading", default=())


class Signal:
    """Something that happens once; event loops wait for it through callbacks, threads line up for it.

    Thread-safe. A callback runs on the thread that lands it, or at once when it has landed. Of the threads in line the
    landing wakes the first few, and each one that leaves wakes the next.
    """

    __slots__ = ("_callbacks", "_line", "_lock", "error", "has_landed", "outcome")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._line: deque[threading.Lock] = deque()
        self.has_landed: bool = False
        self.outcome: Any = None
        self.error: BaseException | None = None

    def land(self, outcome: Any = None, error: BaseException | None = None) -> None:
        """The first landing counts."""
        with self._lock:
            if self.has_landed:
                return
            self.outcome, self.error = outcome, error
            self.has_landed = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
        for _ in range(_WOKEN_AT_ONCE):
            self._wake_next()

    def on_landing(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if not self.has_landed:
                self._callbacks.append(callback)
                return
        callback()

    def forget(self, callback: Callable[[], None]) -> None:
        if self.has_landed:
            return
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def line_up(self) -> threading.Lock | None:
        """A lock that is released when it is the caller's turn; None when this has landed. `leave` must follow."""
        gate = threading.Lock()
        gate.acquire()
        with self._lock:
            if self.has_landed:
                return None
            self._line.append(gate)
        return gate

    def leave(self, gate: threading.Lock) -> None:
        """Woken or not: each one in line that leaves after the landing wakes another, so that nobody is left behind."""
        with self._lock:
            if not self.has_landed:
                self._line.remove(gate)
                return
        self._wake_next()

    def _wake_next(self) -> None:
        with contextlib.suppress(IndexError):
            self._line.popleft().release()


class Flight(Signal):
    """A look-up and, on a miss, a load of one key, for all its callers.

    Attributes:
        is_alive: whether whoever leads can still land it.
        awaits: the flight that this one's load waits for, when it asks for another key.
    """

    __slots__ = ("awaits", "fallback", "is_alive", "key", "nudge")

    def __init__(self, key: str, is_alive: Callable[[], bool]) -> None:
        super().__init__()
        self.key: str = key
        self.is_alive: Callable[[], bool] = is_alive
        self.awaits: Flight | None = None
        self.fallback: Entry | None = None
        """What waiters may take when the load is slow: a stale entry."""
        self.nudge: Callable[[], None] | None = None
        """Wakes the leader while it waits for another process's load."""


class Flights:
    """The flights in the air.

    Thread-safe; in a forked child it starts empty.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flying: dict[str, Flight] = {}

    def renew_lock(self) -> None:
        """In a forked child: no leader of the parent exists there."""
        self._lock = threading.Lock()
        self._flying = {}

    def join(self, key: str, is_alive: Callable[[], bool]) -> tuple[Flight, bool]:
        """The flight of a key, and whether the caller is to lead it.

        Raises:
            RecursiveLoadError: the flight waits, through loads, for the caller.
        """
        mine = _loading.get()
        with self._lock:
            flight = self._flying.get(key)
            if flight is None or flight.has_landed or not flight.is_alive():
                orphan, flight = flight, Flight(key, is_alive)
                self._flying[key] = flight
            else:
                if mine:
                    _refuse_cycle(flight, mine)
                return flight, False
        if orphan is not None:
            orphan.land(ABANDONED)
        return flight, True

    def awaiting(self, flight: Flight | None) -> None:
        """Note that the load this code runs in waits for a flight (None: no longer)."""
        for mine in _loading.get()[-1:]:
            mine.awaits = flight

    def land(self, flight: Flight, outcome: Any = None, error: BaseException | None = None) -> None:
        with self._lock:
            if self._flying.get(flight.key) is flight:
                del self._flying[flight.key]
        flight.land(outcome, error)

    def detach(self, is_concerned: Callable[[str], bool]) -> None:
        """Callers from now on start flights of their own: what these load has been deleted or written."""
        if not self._flying:
            return
        with self._lock:
            for key in [key for key in self._flying if is_concerned(key)]:
                del self._flying[key]

    def nudge(self, key: str) -> None:
        """Another process has stored the key."""
        flight = self._flying.get(key)
        if flight is not None and flight.nudge is not None:
            flight.nudge()


def entering(flight: Flight) -> contextvars.Context:
    """The context for a load: it knows which flights it runs in."""
    context = contextvars.copy_context()
    context.run(_loading.set, (*_loading.get(), flight))
    return context


def _refuse_cycle(flight: Flight, mine: tuple[Flight, ...]) -> None:
    link: Flight | None = flight
    while link is not None:
        if link in mine:
            raise RecursiveLoadError(
                f"the load of {mine[-1].key!r} asks for {flight.key!r}, which is being loaded for it: "
                "give the inner call another key, or load the inner value without the cache"
            )
        link = link.awaits
