"""Health as the probes of an orchestrator read it: a status, and a document for a person."""

from __future__ import annotations

import json
from dataclasses import dataclass

from araponga_infra.health import Health

__all__ = ["ALIVE_BUT_CLOSED", "NOT_READY_BUT_CLOSED", "ProbeAnswer", "live_answer", "ready_answer"]


@dataclass(frozen=True)
class ProbeAnswer:
    """Status 200 or 503, and a JSON document."""

    status: int
    body: bytes


def live_answer(health: Health) -> ProbeAnswer:
    """Whether a restart of this process would help."""
    return _answer(health.live, "live" if health.live else "dead", health)


def ready_answer(health: Health) -> ProbeAnswer:
    """Whether this process should receive traffic; a part that runs on its fallback does not prevent it."""
    return _answer(health.ready, "ready" if health.ready else "not ready", health)


def _answer(is_good: bool, status: str, health: Health) -> ProbeAnswer:
    parts = {name: {"state": part.state.value, "detail": part.detail} for name, part in health.parts.items()}
    return ProbeAnswer(200 if is_good else 503, json.dumps({"status": status, "parts": parts}).encode())


_CLOSED = json.dumps({"status": "not started", "parts": {}}).encode()
ALIVE_BUT_CLOSED = ProbeAnswer(200, _CLOSED)
NOT_READY_BUT_CLOSED = ProbeAnswer(503, _CLOSED)
"""Where the application has not opened the parts yet, or has closed them: a restart would not help, traffic neither."""
