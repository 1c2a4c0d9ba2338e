"""Metrics for Prometheus, by OpenTelemetry's own exporter:

    pip install 'araponga_infra[otel]' opentelemetry-exporter-prometheus && python examples/telemetry_prometheus.py

In a service, serve `generate_latest()` at /metrics, or call `prometheus_client.start_http_server(9464)`.
"""

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import generate_latest

from araponga_infra import CachetoolsCacheService, OpenTelemetryObserver

meters = MeterProvider(metric_readers=[PrometheusMetricReader()])  # a service: metrics.set_meter_provider(meters)
cache = CachetoolsCacheService(observer=OpenTelemetryObserver(meter_provider=meters))

cache.set("territory:1", "Vale do Itamambuca")
for number in (1, 1, 2):
    cache.get(f"territory:{number}")

for line in generate_latest().decode().splitlines():
    if line.startswith("araponga_cache"):
        print(line)
meters.shutdown()
