"""Records as OpenTelemetry metrics, spans and span events.

Names follow OpenTelemetry's semantic conventions: messaging (1.30, "Messaging metrics" and "Messaging spans") for
background events, `db.*`, `code.*` and `error.type` where they fit, and below `araponga.` what they have no word for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from araponga_infra.extras import import_extra
from araponga_infra.telemetry import Record

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Histogram, MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["OpenTelemetryObserver"]

_SCOPE = "araponga_infra"
_DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""What the conventions advise for `messaging.*.duration`."""

_ATTRIBUTES: Final[Mapping[str, str]] = {
    "error_type": "error.type",
    "event_name": "messaging.destination.name",
    "handler": "messaging.consumer.group.name",
    "shape": "db.query.text",
    "file": "code.file.path",
    "line": "code.line.number",
    "function": "code.function.name",
}


@dataclass(frozen=True)
class _Rule:
    """How the records of one name are shown, where that differs from the rest."""

    counter: str = ""
    unit: str = ""
    amount: str = ""
    """The field that says how many, instead of one per record."""

    duration: str = ""
    span: str = ""
    """The name of a span that ends with the record; `{field}` is filled in."""

    span_kind: str = "INTERNAL"
    is_span_event: bool = True
    """Whether the span that is current where it happened gets an event of it."""

    attributes: Mapping[str, str] | None = None
    labels: tuple[str, ...] | None = None
    """Which attributes a metric is split by; every text and flag unless named."""


_MESSAGING = {"messaging.system": _SCOPE}
_PROCESS = {**_MESSAGING, "messaging.operation.name": "process", "messaging.operation.type": "process"}
_CONSUMED = "messaging.client.consumed.messages"
_TRAFFIC = _Rule(is_span_event=False)
_RULES: Final[Mapping[str, _Rule]] = {
    "events.published": _Rule(
        counter="messaging.client.sent.messages",
        unit="{message}",
        amount="events",
        attributes={**_MESSAGING, "messaging.operation.name": "publish", "messaging.operation.type": "send"},
    ),
    "events.completed": _Rule(
        counter=_CONSUMED,
        unit="{message}",
        duration="messaging.process.duration",
        span="process {event_name}",
        span_kind="CONSUMER",
        is_span_event=False,
        attributes=_PROCESS,
    ),
    "events.retried": _Rule(counter=_CONSUMED, unit="{message}", attributes=_PROCESS),
    "events.dead": _Rule(unit="{message}", attributes=_MESSAGING),
    "events.rescued": _Rule(unit="{message}", amount="count", attributes=_MESSAGING),
    "events.fenced": _Rule(unit="{message}", amount="count", attributes=_MESSAGING),
    "cache.hit": _TRAFFIC,
    "cache.miss": _TRAFFIC,
    "cache.fallback": _TRAFFIC,
    "cache.eviction": _Rule(unit="{entry}", amount="entries", is_span_event=False),
    "cache.load": _Rule(span="cache.load", is_span_event=False),
    "cache.wait": _Rule(span="cache.wait", is_span_event=False),
    "queries.n_plus_one": _Rule(labels=("araponga.origin",)),
    "queries.slow_statement": _Rule(labels=("araponga.origin",)),
}
_PLAIN = _Rule()


class OpenTelemetryObserver:
    """Turns records into metrics, spans and span events. Needs the extra `otel`.

    - Every record counts: `araponga.<name>`, such as `araponga.cache.hit`; published and handled events as
      `messaging.client.sent.messages` and `messaging.client.consumed.messages`.
    - A record with a duration adds to a histogram in seconds: `messaging.process.duration`,
      `araponga.cache.load.duration`.
    - Handled events and cache loads are spans, which end with the record. What else happens on the way, such as a
      conflict or a fallback, is an event of the span that is current there.

    Text and flag fields become attributes; numbers only of spans and span events.

    Args:
        meter_provider: where the metrics go; the global one unless you name one.
        tracer_provider: likewise for spans.

    Thread-safe. Without an SDK set up, OpenTelemetry's API discards everything.

    Raises:
        MissingExtraError: the extra is not installed.

    Examples:
        >>> observer = OpenTelemetryObserver()
    """

    def __init__(
        self, *, meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None
    ) -> None:
        needed_for = "OpenTelemetryObserver"
        metrics = import_extra("opentelemetry.metrics", extra="otel", needed_for=needed_for)
        self._trace = import_extra("opentelemetry.trace", extra="otel", needed_for=needed_for)
        own = version(_SCOPE)
        self._meter = metrics.get_meter(_SCOPE, own, meter_provider)
        self._tracer = self._trace.get_tracer(_SCOPE, own, tracer_provider)
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}

    def observe(self, record: Record) -> None:
        rule = _RULES.get(record.name, _PLAIN)
        attributes = _attributes(record, rule)
        labels = _labels(attributes, rule)
        amount = getattr(record, rule.amount) if rule.amount else 1
        self._counter(rule.counter or f"araponga.{record.name}", rule.unit or "{record}").add(amount, labels)
        seconds = getattr(record, "seconds", None)
        if isinstance(seconds, (int, float)):
            self._histogram(rule.duration or f"araponga.{record.name}.duration").record(seconds, labels)
        if rule.span:
            self._add_span(rule, attributes, record, seconds or 0.0)
        elif rule.is_span_event:
            self._trace.get_current_span().add_event(f"araponga.{record.name}", attributes)

    def _add_span(self, rule: _Rule, attributes: dict[str, Any], record: Record, seconds: float) -> None:
        end = time.time_ns()
        span = self._tracer.start_span(
            rule.span.format_map({each.name: getattr(record, each.name) for each in fields(record)}),
            kind=self._trace.SpanKind[rule.span_kind],
            attributes=attributes,
            start_time=end - int(seconds * 1e9),
        )
        if getattr(record, "failed", False):
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR))
        span.end(end)

    def _counter(self, name: str, unit: str) -> Counter:
        counter = self._counters.get(name)
        if counter is None:
            counter = self._counters.setdefault(name, self._meter.create_counter(name, unit))
        return counter

    def _histogram(self, name: str) -> Histogram:
        histogram = self._histograms.get(name)
        if histogram is None:
            created = self._meter.create_histogram(name, "s", explicit_bucket_boundaries_advisory=_DURATION_BUCKETS)
            histogram = self._histograms.setdefault(name, created)
        return histogram


def _labels(attributes: dict[str, Any], rule: _Rule) -> dict[str, Any]:
    wanted = attributes if rule.labels is None else rule.labels
    return {name: value for name, value in attributes.items() if name in wanted and isinstance(value, (str, bool))}


def _attributes(record: Record, rule: _Rule) -> dict[str, Any]:
    attributes: dict[str, Any] = dict(rule.attributes or {})
    for each in fields(record):
        value = getattr(record, each.name)
        value = value.value if isinstance(value, Enum) else value
        if value is not None and value != "" and each.name != "seconds":
            attributes[_ATTRIBUTES.get(each.name, f"araponga.{each.name}")] = value
    return attributes
