"""What an observer costs: a cache hit without one, and with each of the ready ones.

Run as `python -m benchmarks.telemetry`; `--write` keeps the result in docs/benchmarks/telemetry.md. All figures are of
one process, round by round; a figure is the median of its rounds.
"""

from __future__ import annotations

import json
import logging
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from araponga_infra.observers import CompositeObserver, CountingObserver, LoggingObserver
from araponga_infra.otel import OpenTelemetryObserver
from araponga_infra.telemetry import Observer, Record, reporter
from benchmarks._bars import bars

ROUNDS = 15
CALLS = 20_000


@dataclass(frozen=True)
class Hit(Record):
    name: ClassVar[str] = "cache.hit"
    layer: str
    region: str = ""


class Silent:
    def observe(self, record: Record) -> None:
        pass


def reporting(observer: Observer | None) -> Callable[[], None]:
    """What a part does where something happens."""
    report = reporter(observer)

    def happen() -> None:
        if report is not None:
            report(Hit("memory"))

    return happen


def nothing() -> Callable[[], None]:
    return lambda: None


def main() -> None:
    logging.getLogger("araponga_infra.record").addHandler(logging.NullHandler())
    works = {
        "an empty function": nothing(),
        "no observer": reporting(None),
        "an observer that does nothing": reporting(Silent()),
        "CountingObserver": reporting(CountingObserver()),
        "LoggingObserver, traffic not logged": reporting(LoggingObserver()),
        "OpenTelemetryObserver, SDK with metrics": reporting(
            OpenTelemetryObserver(meter_provider=MeterProvider([InMemoryMetricReader()]))
        ),
        "CompositeObserver of counting and logging": reporting(
            CompositeObserver(CountingObserver(), LoggingObserver())
        ),
    }
    seen: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            started = time.perf_counter()
            for _ in range(CALLS):
                work()
            seen[name].append((time.perf_counter() - started) / CALLS * 1e9)
    results = {name: statistics.median(figures) for name, figures in seen.items()}
    empty = results["an empty function"]
    lines = [f"| {name} | {figure:,.0f} ns | {figure - empty:+,.0f} ns |" for name, figure in results.items()]
    page = (
        f"# What an observer costs\n\nOne record. Python {platform.python_version()}, {platform.machine()}; median of "
        f"{ROUNDS} rounds of {CALLS:,} calls. `python -m benchmarks.telemetry --write` writes this page.\n\n"
        "| observer | per record | added |\n|-|-:|-:|\n"
        + "\n".join(lines)
        + "\n\n![nanoseconds per record](telemetry.svg)\n"
    )
    print(page)
    if "--write" in sys.argv:
        folder = Path(__file__).parents[1] / "docs" / "benchmarks"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "telemetry.md").write_text(page, encoding="utf-8")
        (folder / "telemetry.svg").write_text(bars(results, unit="ns"), encoding="utf-8")
        (folder / "telemetry.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
