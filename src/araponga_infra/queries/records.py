"""What the inspector reports to an observer, at the end of a capture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from araponga_infra.queries.report import QueryReport
from araponga_infra.queries.values import CallSite
from araponga_infra.telemetry import Record, Report

__all__ = ["NPlusOneFound", "SlowStatementFound", "report_findings"]


@dataclass(frozen=True)
class NPlusOneFound(Record):
    """One statement was sent `times` times in one unit of work from one line."""

    name: ClassVar[str] = "queries.n_plus_one"
    shape: str
    times: int
    origin: str
    file: str
    line: int
    function: str


@dataclass(frozen=True)
class SlowStatementFound(Record):
    name: ClassVar[str] = "queries.slow_statement"
    shape: str
    seconds: float
    origin: str
    file: str
    line: int
    function: str


_NOWHERE = CallSite(file="", line=0, function="")


def report_findings(findings: QueryReport, report: Report) -> None:
    """Hand over what a closed capture found."""
    for found in findings.n_plus_one:
        at = found.place or _NOWHERE
        report(NPlusOneFound(found.shape, found.times, found.origin.value, at.file, at.line, at.function))
    for slow in findings.slow:
        at = slow.place or _NOWHERE
        seconds, origin = slow.seconds or 0.0, slow.origin.value
        report(SlowStatementFound(slow.shape, seconds, origin, at.file, at.line, at.function))
