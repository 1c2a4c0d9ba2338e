"""Neither an error nor the slowness of an observer reaches the part that reports to it."""

from __future__ import annotations

import contextvars
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from araponga_infra import InvalidArgumentError, telemetry
from araponga_infra.telemetry import Record, reporter

from .records import Hit, Load


class Recording:
    def __init__(self) -> None:
        self.seen: list[Record] = []

    def observe(self, record: Record) -> None:
        self.seen.append(record)


class Gated:
    """Does not return from `observe` while its gate is closed."""

    def __init__(self, *, is_open: bool) -> None:
        self.gate = threading.Event()
        self.arrived = threading.Semaphore(0)
        self.seen: list[Record] = []
        if is_open:
            self.gate.set()

    def observe(self, record: Record) -> None:
        self.gate.wait()
        self.seen.append(record)
        self.arrived.release()

    def wait_for(self, records: int) -> None:
        for _ in range(records):
            assert self.arrived.acquire(timeout=10)


@contextmanager
def gated(*, is_open: bool = False) -> Iterator[Gated]:
    observer = Gated(is_open=is_open)
    try:
        yield observer
    finally:
        observer.gate.set()


def test_without_an_observer_there_is_no_report() -> None:
    assert reporter(None) is None


def test_not_an_observer() -> None:
    with pytest.raises(InvalidArgumentError, match="observe"):
        reporter(print)  # type: ignore[arg-type]


def test_a_quick_observer_has_each_record_when_the_report_returns() -> None:
    observer = Recording()
    report = reporter(observer)
    assert report is not None
    for number in range(5):
        report(Load(seconds=number))
        assert len(observer.seen) == number + 1


def test_what_it_raises_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Recording):
        def observe(self, record: Record) -> None:
            super().observe(record)
            raise ZeroDivisionError

    observer = Broken()
    report = reporter(observer)
    assert report is not None
    for _ in range(3):
        report(Hit())
    assert len(observer.seen) == 3
    (line,) = caplog.messages
    assert "Broken" in line
    assert "ZeroDivisionError" in line
    assert "cache.hit" in line


def test_one_that_never_returns_lets_its_callers_go(caplog: pytest.LogCaptureFixture) -> None:
    with gated() as observer:
        report = reporter(observer)
        assert report is not None
        for number in range(100):
            report(Load(seconds=number))
        assert observer.seen == []
        assert [message for message in caplog.messages if "slow" in message] == [
            "observer Gated is slow: its records go to a thread of its own from now on"
        ]
        observer.gate.set()
        observer.wait_for(100)
    assert observer.seen == [Load(seconds=number) for number in range(100)]


def test_one_that_becomes_slow_is_moved_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    class Slow(Gated):
        def observe(self, record: Record) -> None:
            nonlocal now
            now += telemetry._PATIENCE_SECONDS / 4
            super().observe(record)

    observer = Slow(is_open=True)
    report = reporter(observer)
    assert report is not None
    monkeypatch.setattr("araponga_infra.telemetry.time.perf_counter", lambda: now)
    for _ in range(5):
        report(Hit())
    observer.gate.clear()
    try:
        report(Hit())
        report(Hit())
        assert len(observer.seen) == 5
    finally:
        observer.gate.set()
    observer.wait_for(7)


def test_one_that_is_interrupted_now_and_then_is_not_taken_for_slow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1e6

    class Interrupted(Recording):
        def observe(self, record: Record) -> None:
            nonlocal now
            super().observe(record)
            now += telemetry._PATIENCE_SECONDS / 10

    monkeypatch.setattr("araponga_infra.telemetry.time.perf_counter", lambda: now)
    observer = Interrupted()
    report = reporter(observer)
    assert report is not None
    for number in range(100):
        report(Load(seconds=number))
        assert len(observer.seen) == number + 1
        now += telemetry._PATIENCE_SECONDS * 10
    assert caplog.messages == []


def test_what_a_slow_one_cannot_take_is_dropped_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(telemetry, "_MOST_WAITING", 10)
    with gated() as observer:
        report = reporter(observer)
        assert report is not None
        for number in range(50):
            report(Load(seconds=number))
        observer.gate.set()
        observer.wait_for(11)
    assert observer.seen == [Load(seconds=number) for number in range(11)]
    assert sum("dropped" in message for message in caplog.messages) == 1


def test_threads_that_report_at_once_lose_nothing() -> None:
    observer = Recording()
    report = reporter(observer)
    assert report is not None
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: report(Load(seconds=number)), range(200)))
    assert sorted(each.seconds for each in observer.seen if isinstance(each, Load)) == list(range(200))


def test_context_variables_come_along_also_aside() -> None:
    request: contextvars.ContextVar[int] = contextvars.ContextVar("request")

    class Reading(Gated):
        def __init__(self) -> None:
            super().__init__(is_open=False)
            self.requests: list[int] = []

        def observe(self, record: Record) -> None:
            self.requests.append(request.get())
            super().observe(record)

    observer = Reading()
    report = reporter(observer)
    assert report is not None

    def within(number: int) -> None:
        request.set(number)
        report(Hit())

    try:
        for number in range(3):
            contextvars.copy_context().run(within, number)
    finally:
        observer.gate.set()
    observer.wait_for(3)
    assert observer.requests == [0, 1, 2]


def test_without_a_thread_to_be_had_the_caller_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    report = reporter(Recording())
    assert report is not None
    report(Hit())


def test_a_forked_child_reports_on() -> None:
    with gated() as observer:
        report = reporter(observer)
        assert report is not None
        report(Hit())
        assert _in_child(lambda: _child(observer, report)) == 0


def _child(observer: Gated, report: Callable[[Record], None]) -> bool:
    observer.gate.set()
    report(Hit())
    return observer.arrived.acquire(timeout=10)


def _in_child(work: Callable[[], bool]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        logging.disable()
        os._exit(0 if work() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
