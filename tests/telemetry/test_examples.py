"""The examples print what a reader is told they print."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def output_of(example: str) -> list[str]:
    command = [sys.executable, "-W", "error", str(EXAMPLES / example)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.splitlines()


def test_telemetry() -> None:
    complaint, *counts = output_of("telemetry.py")
    assert "Broken raised ZeroDivisionError" in complaint
    assert counts == ["hits: 2, from memory: 2", "loads: 1, failed: 0"]


def test_prometheus() -> None:
    hits, misses = output_of("telemetry_prometheus.py")
    assert hits.startswith('araponga_cache_hit_total{araponga_layer="memory"')
    assert hits.endswith(" 2.0")
    assert misses.startswith("araponga_cache_miss_total{")
