"""The ready observers: log lines, counters, several at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

import araponga_infra
from araponga_infra import InvalidArgumentError
from araponga_infra.observers import _LEVELS, _STATES, CompositeObserver, CountingObserver, LoggingObserver
from araponga_infra.otel import _RULES
from araponga_infra.telemetry import Record

from .records import Back, Breaker, Dead, Hit, Load, Out, Published


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, logger="araponga_infra.record"):
        yield caplog


def _lines(logged: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in logged.records]


class TestLogging:
    def test_one_line_for_each_change_of_state(self, logged: pytest.LogCaptureFixture) -> None:
        observer = LoggingObserver()
        for state in ("open", "half-open", "open", "half-open", "open", "half-open", "closed", "open"):
            observer.observe(Breaker(state))
        assert [line.split()[1] for _, line in _lines(logged)] == ["state=open", "state=closed", "state=open"]
        assert [level for level, _ in _lines(logged)] == ["WARNING", "INFO", "WARNING"]

    def test_each_subject_has_a_state_of_its_own(self, logged: pytest.LogCaptureFixture) -> None:
        observer = LoggingObserver()
        for record in (Out("a"), Out("a"), Out("b"), Back("a"), Back("a"), Out("a")):
            observer.observe(record)
        assert _lines(logged) == [
            ("WARNING", "replica.out replica=a reason=refused"),
            ("WARNING", "replica.out replica=b reason=refused"),
            ("INFO", "replica.back replica=a"),
            ("WARNING", "replica.out replica=a reason=refused"),
        ]

    def test_traffic_is_silent_unless_debugging(self, logged: pytest.LogCaptureFixture) -> None:
        LoggingObserver().observe(Hit())
        assert logged.records == []

    def test_traffic_where_debug_is_on(self, caplog: pytest.LogCaptureFixture) -> None:
        logger = logging.getLogger("service.infrastructure")
        with caplog.at_level(logging.DEBUG, logger=logger.name):
            LoggingObserver(logger).observe(Load(seconds=0.25))
        assert _lines(caplog) == [("DEBUG", "cache.load seconds=0.25 stored=True failed=False")]

    def test_the_fields_are_there_for_a_json_formatter(self, logged: pytest.LogCaptureFixture) -> None:
        LoggingObserver().observe(Dead("notify"))
        (record,) = logged.records
        assert record.getMessage() == "events.dead handler=notify reason=red entities=Post,Author"
        assert record.__dict__["araponga"] == {
            "event": "events.dead", "handler": "notify", "reason": "red", "entities": ("Post", "Author"),
        }  # fmt: skip

    def test_text_with_spaces_stays_one_field(self, logged: pytest.LogCaptureFixture) -> None:
        LoggingObserver().observe(Breaker("open", reason="timed out"))
        assert logged.records[0].getMessage() == 'cache.breaker state=open reason="timed out"'


class TestCounting:
    def test_counts_sums_and_times(self) -> None:
        counters = CountingObserver()
        for record in (Hit(), Hit("redis"), Load(1.5), Load(0.5, stored=False), Published(2, 6), Published(1, 1)):
            counters.observe(record)
        snapshot = counters.snapshot()
        assert list(snapshot) == ["cache.hit", "cache.load", "events.published"]
        assert (snapshot["cache.hit"], snapshot["cache.miss"]) == (2, 0)
        assert snapshot.of("cache.hit", layer="redis").times == 1
        load = snapshot.of("cache.load")
        assert (load.times, load.seconds, load.most_seconds) == (2, 2.0, 1.5)
        assert snapshot.of("cache.load", stored=False).seconds == 0.5
        assert snapshot.of("events.published").sums == {"events": 3, "deliveries": 7}
        assert repr(snapshot) == "TelemetrySnapshot(cache.hit=2, cache.load=2, events.published=2)"

    def test_a_snapshot_does_not_move_on(self) -> None:
        counters = CountingObserver()
        counters.observe(Hit())
        before = counters.snapshot()
        counters.observe(Hit())
        assert (before["cache.hit"], counters.snapshot()["cache.hit"]) == (1, 2)
        counters.reset()
        assert "cache.hit" in before
        assert "cache.hit" not in counters.snapshot()

    def test_an_enum_counts_by_its_value(self) -> None:
        counters = CountingObserver()
        counters.observe(Dead("notify"))
        assert counters.snapshot().of("events.dead", reason="red").times == 1

    def test_too_many_kinds_are_counted_without_them(self) -> None:
        counters = CountingObserver()
        for number in range(3_000):
            counters.observe(Hit(layer=str(number)))
        assert counters.snapshot()["cache.hit"] == 3_000
        assert len(counters._tallies) == 1_001

    def test_threads(self) -> None:
        counters = CountingObserver()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: counters.observe(Hit()), range(2_000)))
        assert counters.snapshot()["cache.hit"] == 2_000


class TestSeveral:
    def test_each_gets_each_record(self) -> None:
        one, other = CountingObserver(), CountingObserver()
        CompositeObserver(one, other).observe(Hit())
        assert one.snapshot()["cache.hit"] == other.snapshot()["cache.hit"] == 1

    def test_one_that_raises_does_not_keep_it_from_the_next(self) -> None:
        class Broken:
            def observe(self, record: Record) -> None:
                raise ZeroDivisionError

        counters = CountingObserver()
        CompositeObserver(Broken(), counters).observe(Hit())
        assert counters.snapshot()["cache.hit"] == 1

    def test_none_at_all(self) -> None:
        with pytest.raises(InvalidArgumentError, match="at least one"):
            CompositeObserver()


def _all_records() -> set[type[Record]]:
    for module in Path(araponga_infra.__path__[0]).glob("*/records.py"):
        import_module(f"araponga_infra.{module.parent.name}.records")
    return {kind for kind in Record.__subclasses__() if kind.__module__.startswith("araponga_infra.")}


def test_names_are_unique_and_dotted() -> None:
    names = [record.name for record in _all_records()]
    assert len(set(names)) == len(names)
    assert all(name.count(".") == 1 and name == name.lower() for name in names)


def test_what_the_observers_know_by_name_exists() -> None:
    known = {record.name for record in _all_records()}
    assert set(_STATES) | set(_LEVELS) | set(_RULES) <= known
    has = {record.name: set(record.__dataclass_fields__) for record in _all_records()}
    assert all({rule.state, rule.subject} - {""} <= has[name] for name, rule in _STATES.items())
    assert all({rule.amount} - {""} <= has[name] for name, rule in _RULES.items())


def test_every_record_and_field_is_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text(encoding="utf-8")
    rows = {
        f"| `{kind.name}` | {', '.join(each.name for each in fields(kind))} |".replace("  ", " ")
        for kind in _all_records()
    }
    assert [row for row in sorted(rows) if row not in page] == []
