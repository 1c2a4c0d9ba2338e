"""What the parts report: frozen records, handed to an observer of the host's choice.

Each room defines its own records, next to the values they speak of, below `Record`. Ready observers are in
`observers` and `otel`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

from araponga_infra.errors import InvalidArgumentError

__all__ = ["Observer", "Record", "Report", "reporter"]

_logger = logging.getLogger("araponga_infra.telemetry")

_PATIENCE_SECONDS = 0.25
"""What an observer may cost its callers before its records go to a thread of their own."""

_TOLERABLE_SHARE = 0.01
"""How much of the time it may cost them for ever: on a busy machine any call is interrupted now and then."""

_NOTICEABLE_SECONDS = 0.005
_MOST_WAITING = 10_000


@dataclass(frozen=True)
class Record:
    """One thing that happened. Records carry names, counts and durations, never payloads, keys' values or URLs."""

    name: ClassVar[str]
    """Stable and dotted, as in `concurrency.conflict`: dashboards are built on it."""


class Observer(Protocol):
    """Receives every record as it happens; it should only take note and return.

    Called on the thread where the record happened, concurrently from several, so it has to be thread-safe. Its very
    first record, and every record once it has proved slow, comes on another thread with the same context variables.
    """

    def observe(self, record: Record, /) -> None: ...


Report: TypeAlias = Callable[[Record], None]


def reporter(observer: Observer | None) -> Report | None:
    """A function that hands records to `observer`; neither its errors nor its slowness reach the caller.

    What it raises is logged once and dropped. An observer that does not return from its first record within a quarter
    of a second, or has cost its callers as much beyond a hundredth of the time, gets its records on a thread of its own
    from then on; beyond 10,000 records that wait for it, further ones are dropped. Both are logged once.

    None stays None, so that a part without an observer pays one comparison and builds no record:
    `if self._report is not None: self._report(CacheHit(...))`.

    Raises:
        InvalidArgumentError: `observer` has no method `observe`.
    """
    if observer is None:
        return None
    if not callable(getattr(observer, "observe", None)):
        raise InvalidArgumentError(f"observer is a {type(observer).__name__}: it needs a method observe(record)")
    return _Guarded(observer)


class _Guarded:
    """Between a part and an observer: on probation at its first record, then at once, or aside once it proved slow."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._has_warned = False
        self._spent_seconds = 0.0
        self._charged_until = time.perf_counter()
        self._lock = threading.Lock()
        self._deliver: Report = self._on_probation

    def __call__(self, record: Record) -> None:
        self._deliver(record)

    def _on_probation(self, record: Record) -> None:
        """The first record runs aside while the caller waits a little: one that never returns is found out here."""
        with self._lock:
            if self._deliver == self._on_probation:
                aside = _Aside(self._observe)
                has_returned = aside.put(record, wait_seconds=_PATIENCE_SECONDS)
                self._deliver = self._at_once if has_returned else self._moved(aside)
                return
        self._deliver(record)

    def _at_once(self, record: Record) -> None:
        started = time.perf_counter()
        try:
            self._observer.observe(record)
        except Exception as error:
            self._warn_once(record, error)
        ended = time.perf_counter()
        if ended - started > _NOTICEABLE_SECONDS:
            self._charge(started, ended)

    def _charge(self, started: float, ended: float) -> None:
        with self._lock:
            forgiven = max(0.0, started - self._charged_until) * _TOLERABLE_SHARE
            self._spent_seconds = max(0.0, self._spent_seconds - forgiven) + ended - started
            self._charged_until = max(self._charged_until, ended)
            if self._spent_seconds >= _PATIENCE_SECONDS and self._deliver == self._at_once:
                self._deliver = self._moved(_Aside(self._observe))

    def _moved(self, aside: _Aside) -> Report:
        name = type(self._observer).__name__
        _logger.warning("observer %s is slow: its records go to a thread of its own from now on", name)

        def deliver(record: Record) -> None:
            aside.put(record)

        return deliver

    def _observe(self, record: Record) -> None:
        try:
            self._observer.observe(record)
        except Exception as error:
            self._warn_once(record, error)

    def _warn_once(self, record: Record, error: Exception) -> None:
        """Once, since an observer that fails tends to fail each time."""
        if self._has_warned:
            return
        self._has_warned = True
        _logger.warning(
            "observer %s raised %s at %s; it is still called, further errors of it are not logged",
            type(self._observer).__name__, type(error).__name__, record.name,
        )  # fmt: skip


class _Aside:
    """A bounded queue that a daemon thread empties; the thread lives only while something waits."""

    def __init__(self, observe: Report) -> None:
        self._observe = observe
        self._has_warned = False
        self._start_over()

    def _start_over(self) -> None:
        """A forked child has neither the thread nor a lock it could trust."""
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Context, Record]] = deque()
        self._is_draining = False
        self._idle = threading.Event()

    def put(self, record: Record, *, wait_seconds: float = 0.0) -> bool:
        """Whether nothing waits any more when this returns, at the latest after `wait_seconds`."""
        if self._process != os.getpid():
            self._start_over()
        with self._lock:
            if len(self._waiting) >= _MOST_WAITING:
                self._warn_once()
                return False
            self._waiting.append((copy_context(), record))
            self._idle.clear()
            if not self._is_draining:
                self._is_draining = self._start_draining()
        return wait_seconds > 0 and self._idle.wait(wait_seconds)

    def _start_draining(self) -> bool:
        try:
            threading.Thread(target=self._drain, name="araponga-infra-observer", daemon=True).start()
        except RuntimeError:  # no more threads, or the interpreter is on its way out
            self._waiting.clear()
            return False
        return True

    def _drain(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._is_draining = False
                    self._idle.set()
                    return
                context, record = self._waiting.popleft()
            context.run(self._observe, record)

    def _warn_once(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            _logger.warning("%d records wait for a slow observer: further ones are dropped", _MOST_WAITING)
