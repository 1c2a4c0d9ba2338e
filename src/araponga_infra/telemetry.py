"""What the parts report: frozen records, handed to an observer of the host's choice.

Each room defines its own records, next to the values they speak of, below `Record`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

__all__ = ["Observer", "Record", "Report", "reporter"]

_logger = logging.getLogger("araponga_infra.telemetry")


@dataclass(frozen=True)
class Record:
    """One thing that happened. Records carry names, counts and durations, never payloads, keys' values or URLs."""

    name: ClassVar[str]
    """Stable and dotted, as in `concurrency.conflict`: dashboards are built on it."""


class Observer(Protocol):
    """Receives every record, on the thread where it happened; it should only take note and return."""

    def observe(self, record: Record, /) -> None: ...


Report: TypeAlias = Callable[[Record], None]


def reporter(observer: Observer | None) -> Report | None:
    """A function that hands records to `observer` and lets nothing that it raises reach the caller.

    None stays None, so that a part without an observer pays one comparison and builds no record:
    `if self._report is not None: self._report(CacheHit(...))`.
    """
    return None if observer is None else _Guarded(observer)


class _Guarded:
    """Swallows what an observer raises and says so once, since an observer that fails tends to fail each time."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._has_warned = False

    def __call__(self, record: Record) -> None:
        try:
            self._observer.observe(record)
        except Exception as error:
            self._warn_once(record, error)

    def _warn_once(self, record: Record, error: Exception) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        _logger.warning(
            "observer %s raised %s at %s; it is still called, further errors of it are not logged",
            type(self._observer).__name__, type(error).__name__, record.name,
        )  # fmt: skip
