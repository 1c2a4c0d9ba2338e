"""Ready observers: a log line per change of state, counters in memory, and several at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from types import MappingProxyType
from typing import Any, Final

from araponga_infra.errors import InvalidArgumentError
from araponga_infra.telemetry import Observer, Record, reporter

__all__ = ["CompositeObserver", "CountingObserver", "LoggingObserver", "RecordCount", "TelemetrySnapshot"]

_MOST_LABELS = 1_000


_known_fields: dict[type[Record], tuple[str, ...]] = {}


def _field_names(kind: type[Record]) -> tuple[str, ...]:
    names = _known_fields.get(kind)
    if names is None:
        names = _known_fields[kind] = tuple(each.name for each in fields(kind))
    return names


def _fields(record: Record) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in _field_names(type(record))}
    return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}


@dataclass(frozen=True)
class _State:
    """A record that says in which state a subject is; only a change of it is news."""

    levels: Mapping[object, int]
    """By state; states that are not here are passed through on the way and are no news."""

    state: str = ""
    """The field that holds the state; without one, the record's name is the state."""

    about: str = ""
    """What the state is a state of."""

    subject: str = ""
    """The field that tells one subject from another."""


_REPLICA = _State({"replica.out": logging.WARNING, "replica.back": logging.INFO}, about="replica", subject="replica")
_STORE = _State(
    {"events.store_unavailable": logging.WARNING, "events.store_recovered": logging.INFO}, about="events.store"
)
_STATES: Final[Mapping[str, _State]] = {
    "cache.breaker": _State({"open": logging.WARNING, "closed": logging.INFO}, state="state", about="cache.breaker"),
    "cache.isolation": _State({True: logging.WARNING, False: logging.INFO}, state="isolated", about="cache.isolation"),
    "replica.out": _REPLICA,
    "replica.back": _REPLICA,
    "events.store_unavailable": _STORE,
    "events.store_recovered": _STORE,
}
_LEVELS: Final[Mapping[str, int]] = {
    "cache.purge": logging.INFO,
    "cache.rejected": logging.WARNING,
    "concurrency.commit_in_doubt": logging.ERROR,
    "concurrency.gave_up": logging.WARNING,
    "events.dead": logging.ERROR,
    "events.fenced": logging.WARNING,
    "events.handler_stuck": logging.WARNING,
    "events.lease_lost": logging.WARNING,
    "events.rescued": logging.WARNING,
    "queries.n_plus_one": logging.WARNING,
    "queries.slow_statement": logging.WARNING,
    "replica.token_ignored": logging.INFO,
}
"""What ends or changes something for good. Everything else is traffic, at DEBUG."""


class LoggingObserver:
    """One line in the log for each change of state; traffic such as cache hits only where DEBUG is on.

    A line reads `cache.breaker state=open reason=ConnectionError`. For structured logs the record also has the
    attribute `araponga`, a dict with `event` and the fields, which JSON formatters write as they are.

    Args:
        logger: `araponga_infra.record` unless you name one.

    Thread-safe. A state that is reported again, such as a breaker that opens anew after a failed trial, is not
    logged again.

    Examples:
        >>> observer = LoggingObserver(logging.getLogger("service.infrastructure"))
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("araponga_infra.record")
        self._states: dict[tuple[str, object], object] = {}
        self._lock = threading.Lock()

    def observe(self, record: Record) -> None:
        level = self._level(record)
        if not self._logger.isEnabledFor(level):
            return
        values = _fields(record)
        text = " ".join([record.name, *(f"{name}={_short(value)}" for name, value in values.items())])
        self._logger.log(level, "%s", text, extra={"araponga": {"event": record.name, **values}})

    def _level(self, record: Record) -> int:
        rule = _STATES.get(record.name)
        if rule is None:
            return _LEVELS.get(record.name, logging.DEBUG)
        state = getattr(record, rule.state) if rule.state else record.name
        level = rule.levels.get(state)
        if level is None:
            return logging.DEBUG
        key = (rule.about, getattr(record, rule.subject) if rule.subject else None)
        with self._lock:
            is_news = self._states.get(key) != state
            self._states[key] = state
        return level if is_news else logging.DEBUG


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value) if not isinstance(value, tuple) else ",".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType]
    return f'"{text}"' if not text or " " in text else text


@dataclass
class _Tally:
    times: int = 0
    seconds: float = 0.0
    most_seconds: float = 0.0
    sums: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, values: Mapping[str, Any]) -> None:
        self.times += 1
        for name, value in values.items():
            if name == "seconds":
                self.seconds += value
                self.most_seconds = max(self.most_seconds, value)
            elif type(value) is int:
                self.sums[name] = self.sums.get(name, 0) + value


@dataclass(frozen=True)
class RecordCount:
    """How often records came, and what they add up to."""

    times: int = 0
    seconds: float = 0.0
    """Sum of their field `seconds`, 0 for records without one."""

    most_seconds: float = 0.0
    sums: Mapping[str, int] = field(default_factory=dict[str, int])
    """Sums of their whole-number fields, such as `deliveries`."""


@dataclass(frozen=True)
class TelemetrySnapshot:
    """The counters at one moment; it does not move on.

    Iterates over the records' names; `snapshot["cache.hit"]` is how often that one came.
    """

    _tallies: Mapping[tuple[str, tuple[tuple[str, object], ...]], RecordCount] = field(repr=False)

    def __getitem__(self, name: str) -> int:
        return self.of(name).times

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for name, _ in self._tallies))

    def __contains__(self, name: object) -> bool:
        return any(name == each for each, _ in self._tallies)

    def of(self, name: str, **labels: object) -> RecordCount:
        """What is known of records of this name whose text and flag fields have these values.

        Examples:
            >>> counters = CountingObserver()
            >>> CachetoolsCacheService(observer=counters).get("territory:42", default="nobody knows")
            'nobody knows'
            >>> counters.snapshot().of("cache.miss", region="").times
            1
        """
        wanted = labels.items()
        found = [count for (each, has), count in self._tallies.items() if each == name and wanted <= dict(has).items()]
        sums: dict[str, int] = {}
        for count in found:
            for key, value in count.sums.items():
                sums[key] = sums.get(key, 0) + value
        return RecordCount(
            times=sum(count.times for count in found),
            seconds=sum(count.seconds for count in found),
            most_seconds=max((count.most_seconds for count in found), default=0.0),
            sums=MappingProxyType(sums),
        )

    def __repr__(self) -> str:
        return f"TelemetrySnapshot({', '.join(f'{name}={self[name]}' for name in self)})"


class CountingObserver:
    """Counts records in memory: for a status page, a test, or a metrics system of your own.

    Counted by name and by the records' text and flag fields (layer, handler, reason); a name with more than 1,000
    combinations of them is counted without. Thread-safe; a forked child goes on from the parent's counts.

    Examples:
        >>> counters = CountingObserver()
        >>> counters.snapshot()["cache.hit"]
        0
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tallies: dict[tuple[str, tuple[tuple[str, object], ...]], _Tally] = {}
        self._kinds: dict[str, int] = {}

    def observe(self, record: Record) -> None:
        values = _fields(record)
        labels = tuple([(name, value) for name, value in values.items() if isinstance(value, (str, bool))])
        with self._lock:
            self._tally(record.name, labels).add(values)

    def _tally(self, name: str, labels: tuple[tuple[str, object], ...]) -> _Tally:
        tally = self._tallies.get((name, labels))
        if tally is not None:
            return tally
        kinds = self._kinds[name] = self._kinds.get(name, 0) + 1
        return self._tallies.setdefault((name, labels if kinds <= _MOST_LABELS else ()), _Tally())

    def snapshot(self) -> TelemetrySnapshot:
        """What was counted so far."""
        with self._lock:
            return TelemetrySnapshot(
                MappingProxyType(
                    {
                        key: RecordCount(each.times, each.seconds, each.most_seconds, MappingProxyType(dict(each.sums)))
                        for key, each in self._tallies.items()
                    }
                )
            )

    def reset(self) -> None:
        """Start again from nothing."""
        with self._lock:
            self._tallies.clear()
            self._kinds.clear()


class CompositeObserver:
    """Hands each record to several observers; one that raises or is slow does not keep it from the others.

    Examples:
        >>> observer = CompositeObserver(LoggingObserver(), CountingObserver())
    """

    def __init__(self, *observers: Observer) -> None:
        if not observers:
            raise InvalidArgumentError("observers is empty: pass at least one")
        self._reports = [report for each in observers if (report := reporter(each)) is not None]

    def observe(self, record: Record) -> None:
        for report in self._reports:
            report(record)
