"""Metrics for Prometheus: what the parts report, and how long requests take, by OpenTelemetry's own exporter."""

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest

from araponga_infra import OpenTelemetryObserver

METHODS = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"))


class Metrics:
    """One per application, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._meters = MeterProvider(metric_readers=[PrometheusMetricReader(registry=self._registry)])
        self.observer = OpenTelemetryObserver(meter_provider=self._meters)
        self._requests = self._meters.get_meter("community").create_histogram("http.server.request.duration", "s")

    def record_request(self, method: str, route: str, status: int, seconds: float) -> None:
        known = method if method in METHODS else "_OTHER"  # a client that makes methods up makes no time series
        self._requests.record(
            seconds, {"http.request.method": known, "http.route": route, "http.response.status_code": status}
        )

    def exposition(self) -> bytes:
        return generate_latest(self._registry)

    def close(self) -> None:
        self._meters.shutdown()
