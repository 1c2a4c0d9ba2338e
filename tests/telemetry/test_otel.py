"""What an OpenTelemetry backend gets to see."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv._incubating.metrics import messaging_metrics
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.trace import SpanKind, StatusCode

from araponga_infra import MissingExtraError
from araponga_infra.otel import OpenTelemetryObserver
from araponga_infra.telemetry import reporter

from .records import Breaker, Completed, Dead, Hit, Load, Published, Retried


class Backend:
    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._spans = InMemorySpanExporter()
        self.meters = MeterProvider([self._reader])
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.observer = OpenTelemetryObserver(meter_provider=self.meters, tracer_provider=self.tracers)

    @property
    def spans(self) -> tuple[Any, ...]:
        return self._spans.get_finished_spans()

    def points(self, name: str) -> list[NumberDataPoint | HistogramDataPoint]:
        return list(self._metric(name).data.data_points)

    def unit(self, name: str) -> str:
        unit: str = self._metric(name).unit
        return unit

    def _metric(self, name: str) -> Any:
        data = self._reader.get_metrics_data()
        assert data is not None
        metrics = data.resource_metrics[0].scope_metrics[0].metrics
        return next(metric for metric in metrics if metric.name == name)


@pytest.fixture
def backend() -> Iterator[Backend]:
    backend = Backend()
    yield backend
    backend.meters.shutdown()
    backend.tracers.shutdown()


def _value(point: object) -> float:
    assert isinstance(point, NumberDataPoint)
    return point.value


def test_a_record_counts_by_its_text_and_flag_fields(backend: Backend) -> None:
    for record in (Hit(), Hit(), Hit("redis")):
        backend.observer.observe(record)
    points = {str(dict(point.attributes or {})): _value(point) for point in backend.points("araponga.cache.hit")}
    assert points == {"{'araponga.layer': 'memory'}": 2, "{'araponga.layer': 'redis'}": 1}
    assert backend.unit("araponga.cache.hit") == "{record}"
    assert backend.spans == ()


def test_a_duration_is_a_histogram_in_seconds_and_a_span_that_ends_now(backend: Backend) -> None:
    backend.observer.observe(Load(seconds=0.5, failed=True))
    (point,) = backend.points("araponga.cache.load.duration")
    assert isinstance(point, HistogramDataPoint)
    assert (point.sum, point.count, backend.unit("araponga.cache.load.duration")) == (0.5, 1, "s")
    assert point.explicit_bounds[0] == 0.005
    (span,) = backend.spans
    assert (span.name, span.kind, span.end_time - span.start_time) == ("cache.load", SpanKind.INTERNAL, 500_000_000)
    assert span.status.status_code is StatusCode.ERROR


def test_events_are_named_by_the_messaging_conventions(backend: Backend) -> None:
    backend.observer.observe(Published(events=3, deliveries=6))
    (sent,) = backend.points(messaging_metrics.MESSAGING_CLIENT_SENT_MESSAGES)
    assert _value(sent) == 3
    assert (sent.attributes or {})[messaging.MESSAGING_SYSTEM] == "araponga_infra"
    backend.observer.observe(Completed("post.published", "notify", attempt=1, seconds=0.25))
    (processed,) = backend.points(messaging_metrics.MESSAGING_PROCESS_DURATION)
    expected = {
        messaging.MESSAGING_SYSTEM: "araponga_infra",
        messaging.MESSAGING_OPERATION_NAME: "process",
        messaging.MESSAGING_OPERATION_TYPE: "process",
        messaging.MESSAGING_DESTINATION_NAME: "post.published",
        messaging.MESSAGING_CONSUMER_GROUP_NAME: "notify",
    }
    assert processed.attributes == expected
    (span,) = backend.spans
    assert (span.name, span.kind) == ("process post.published", SpanKind.CONSUMER)
    assert dict(span.attributes) == {**expected, "araponga.attempt": 1}


def test_a_retry_names_its_error(backend: Backend) -> None:
    backend.observer.observe(Retried("post.published", "notify", "ConnectionError"))
    (consumed,) = backend.points(messaging_metrics.MESSAGING_CLIENT_CONSUMED_MESSAGES)
    assert (consumed.attributes or {})[error_attributes.ERROR_TYPE] == "ConnectionError"


def test_what_happens_on_the_way_is_an_event_of_the_current_span(backend: Backend) -> None:
    report = reporter(backend.observer)
    assert report is not None
    with backend.tracers.get_tracer("service").start_as_current_span("request"):
        report(Breaker("open", reason="refused"))
        report(Hit())
        report(Dead("notify"))
    (request,) = backend.spans
    assert [event.name for event in request.events] == ["araponga.cache.breaker", "araponga.events.dead"]
    assert dict(request.events[0].attributes) == {"araponga.state": "open", "araponga.reason": "refused"}
    assert request.events[1].attributes["araponga.entities"] == ("Post", "Author")
    assert request.events[1].attributes["araponga.reason"] == "red"


def test_a_span_of_ours_belongs_to_the_current_one(backend: Backend) -> None:
    with backend.tracers.get_tracer("service").start_as_current_span("request") as request:
        backend.observer.observe(Load(seconds=0.001))
    load = backend.spans[0]
    assert load.parent.span_id == request.get_span_context().span_id


def test_without_an_sdk_nothing_happens() -> None:
    observer = OpenTelemetryObserver()
    observer.observe(Hit())
    observer.observe(Completed("post.published", "notify", attempt=1, seconds=0.25))


def test_the_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(MissingExtraError, match=r"araponga_infra\[otel\]"):
        OpenTelemetryObserver()
