"""What the run has shown, as a table, a plot and figures."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.multi_instance.cluster import POOL_SIZE
from tests.multi_instance.ledger import Answer, Outcome
from tests.multi_instance.load import TIMEOUT_SECONDS
from tests.multi_instance.run import (
    CLIENTS,
    LEAD_SECONDS,
    PER_SECOND_EACH,
    SETTLE_SECONDS,
    Phase,
    Run,
)

__all__ = ["Line", "lines_of", "table", "write"]

FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"
_BLUE, _RED, _SHADE = "#2a6f97", "#c1443c", "#eeeeee"


_PAGE = """\
# Several instances, measured

One run of `nox -s multi_instance -- --write`: nginx with `deploy/nginx/nginx.conf`, three instances of the community
API, two workers, PostgreSQL with a streaming standby, Redis and the clients, all on loopback of one machine with
{cores} cores; Python {python}. {clients} clients send up to {each} requests a second each, about two reads to a
write, and repeat none that failed.

{table}

![requests a second, failed ones, and the slowest of each second](multi_instance.svg)

Each fault has {lead} s of ordinary traffic before it and {settle} s after it. *Failed* is a lost connection,
{timeout} s without an answer, or a status from 500; of unknown *outcome* are the failed writes whose client cannot
tell whether they were saved. *Served again*: from the moment when what was broken was back, until the last failed
request that was sent later. *Caches equal*: from then on nobody changes anything, and every instance is asked for
everything it caches, until each answer is what the database holds.

## Each request, while nothing is broken

| request | sent | p50 ms | p95 ms | p99 ms |
|-|-:|-:|-:|-:|
{kinds}

## What holds in every run

{acknowledged} writes were acknowledged in this one, and {unknown} ended without their client knowing. Whatever the
figures are, the session asserts:

- Every acknowledged post, like and edit is in the database at the end, and once. What was answered with "nothing was
  saved" is not there.
- Each version of each row was made by exactly one edit with If-Match, and no two clients were told that they made the
  same one.
- A client with its write token in the cookie reads what it wrote, whichever instance answers ({followed} reads right
  after a write).
- Every instance has answered every kind of request.
- Each post has brought each member of its territory exactly one notification.
- Nothing fails because Redis, the standby or a worker is away, and no read because an instance is. No status is 500.

## Connections

The most that were open at a time, looked at ten times a second, with `ARAPONGA_DATABASE_POOL_SIZE={pool}`:

| | on the primary | on the standby |
|-|-:|-:|
{rows}
| three instances and two workers | {primary} | {standby} |
"""


@dataclass(frozen=True)
class Line:
    """One fault in figures. Percentages are of the requests of that kind, times of all that were answered."""

    fault: str
    requests: int
    failed_reads_percent: float
    failed_writes_percent: float
    writes_of_unknown_outcome: int
    p50_ms: float
    p99_ms: float
    served_again_after_seconds: float
    caches_equal_after_seconds: float


@dataclass(frozen=True)
class Kind:
    """One kind of request, as long as nothing was broken."""

    request: str
    sent: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


def kinds_of(run: Run) -> list[Kind]:
    by_kind: dict[str, list[float]] = {}
    for answer in run.during(run.phases[0]):
        by_kind.setdefault(answer.kind, []).append(answer.seconds * 1000)
    return [
        Kind(kind, len(taken), *(_quantile(taken, part) for part in (0.5, 0.95, 0.99)))
        for kind, taken in sorted(by_kind.items())
    ]


def lines_of(run: Run) -> list[Line]:
    return [_line(run, phase) for phase in run.phases]


def _line(run: Run, phase: Phase) -> Line:
    answers = run.during(phase)
    reads, writes = ([each for each in answers if each.is_read is wanted] for wanted in (True, False))
    milliseconds = [each.seconds * 1000 for each in answers if each.status is not None]
    return Line(
        phase.name, len(answers), _failed_percent(reads), _failed_percent(writes),
        sum(each.outcome is Outcome.UNKNOWN for each in writes),
        _quantile(milliseconds, 0.5), _quantile(milliseconds, 0.99),
        round(run.served_again_after(phase), 1), round(phase.caches_equal_after, 1),
    )  # fmt: skip


def _failed_percent(answers: Sequence[Answer]) -> float:
    return round(100 * sum(each.has_failed for each in answers) / max(1, len(answers)), 2)


def _quantile(values: Sequence[float], part: float) -> float:
    return round(sorted(values)[int(len(values) * part)]) if values else 0.0


def table(run: Run) -> str:
    header = (
        "| fault | requests | reads failed | writes failed | outcome unknown | p50 ms | p99 ms | served again after s "
        "| caches equal after s |"
    )
    rows = [
        f"| {line.fault} | {line.requests} | {line.failed_reads_percent:g} % | {line.failed_writes_percent:g} % "
        f"| {line.writes_of_unknown_outcome} | {line.p50_ms:.0f} | {line.p99_ms:.0f} "
        f"| {line.served_again_after_seconds:g} | {line.caches_equal_after_seconds:g} |"
        for line in lines_of(run)
    ]
    return "\n".join((header, "|-|-:|-:|-:|-:|-:|-:|-:|-:|", *rows))


def write(run: Run) -> None:
    """Keep table, plot and figures in docs/benchmarks."""
    FOLDER.joinpath("multi_instance.md").write_text(_page(run))
    FOLDER.joinpath("multi_instance.svg").write_text(_plot(run))
    figures = {
        "phases": [asdict(line) for line in lines_of(run)],
        "requests": [asdict(kind) for kind in kinds_of(run)],
        "acknowledged_writes": run.ledger.acknowledged(),
        "unknown_writes": run.ledger.unknown(),
        "connections": {"primary": asdict(run.primary), "standby": asdict(run.standby)},
    }
    FOLDER.joinpath("multi_instance.json").write_text(json.dumps(figures, indent=2) + "\n")


def _page(run: Run) -> str:
    ledger = run.ledger
    return _PAGE.format(
        python=platform.python_version(),
        cores=os.cpu_count(),
        clients=CLIENTS,
        each=f"{PER_SECOND_EACH:g}",
        table=table(run),
        kinds="\n".join(
            f"| `{kind.request}` | {kind.sent} | {kind.p50_ms:.0f} | {kind.p95_ms:.0f} | {kind.p99_ms:.0f} |"
            for kind in kinds_of(run)
        ),
        lead=f"{LEAD_SECONDS:g}",
        settle=f"{SETTLE_SECONDS:g}",
        timeout=f"{TIMEOUT_SECONDS:g}",
        acknowledged=ledger.acknowledged(),
        unknown=ledger.unknown(),
        followed=sum(ledger.followed.values()),
        pool=POOL_SIZE,
        rows="\n".join(
            f"| {name} | {run.primary.most(prefix)} | {run.standby.most(prefix)} |"
            for name, prefix in (("an instance", "web"), ("a worker", "worker"))
        ),
        primary=run.primary.in_all,
        standby=run.standby.in_all,
    )


# The plot: time runs to the right; an SVG that needs no library

_WIDTH, _HEIGHT, _GAP = 1100, 150, 40
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 140, 110, 24


def _plot(run: Run) -> str:
    begun, ended = run.phases[0].begun, run.phases[-1].ended
    scale = _WIDTH / (ended - begun)
    seconds: list[list[Answer]] = [[] for _ in range(int(ended - begun))]
    for answer in run.answers:
        if 0 <= (at := math.floor(answer.started - begun)) < len(seconds):
            seconds[at].append(answer)
    sent = [float(len(answers)) for answers in seconds]
    failed = [float(sum(each.has_failed for each in answers)) for answers in seconds]
    slowest = [max((each.seconds * 1000 for each in answers), default=0.0) for answers in seconds]
    second = _TOP + _HEIGHT + _GAP
    width, height = _LEFT + _WIDTH + _RIGHT, second + _HEIGHT + _BOTTOM
    parts = [
        f'<rect width="{width}" height="{height}" fill="white"/>',
        *(_span(phase, begun, scale) for phase in run.phases),
        _axis(_TOP, max(sent), f'requests sent a second, <tspan fill="{_RED}">and those that failed</tspan>'),
        _curve(sent, scale, _TOP, max(sent), _BLUE),
        _curve(failed, scale, _TOP, max(sent), _RED),
        _axis(second, max(slowest), "the slowest of each second, in milliseconds"),
        _curve(slowest, scale, second, max(slowest), _BLUE),
    ]
    size, style = f'width="{width}" height="{height}"', 'font-family="sans-serif" font-size="11"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join(parts) + "\n</svg>\n"


def _span(phase: Phase, begun: float, scale: float) -> str:
    """From the break to the return, with its name."""
    left, width = _LEFT + (phase.broken - begun) * scale, (phase.returned - phase.broken) * scale
    return (
        f'<rect x="{left:.0f}" y="{_TOP}" width="{width:.0f}" height="{2 * _HEIGHT + _GAP}" fill="{_SHADE}"/>'
        f'<text transform="translate({left + 4:.0f} {_TOP - 6}) rotate(-25)">{phase.name}</text>'
    )


def _axis(top: int, most: float, name: str) -> str:
    return (
        f'<text x="{_LEFT - 6}" y="{top + 8}" text-anchor="end">{most:.0f}</text>'
        f'<text x="{_LEFT - 6}" y="{top + _HEIGHT}" text-anchor="end">0</text>'
        f'<text x="{_LEFT}" y="{top + _HEIGHT + 14}" fill="{_BLUE}">{name}</text>'
    )


def _curve(values: Sequence[float], scale: float, top: int, most: float, colour: str) -> str:
    points = [
        (_LEFT + (at + 0.5) * scale, top + _HEIGHT * (1 - value / (most or 1))) for at, value in enumerate(values)
    ]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
