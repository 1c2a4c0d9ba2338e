"""How results look in a terminal, and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from araponga_infra.events import DeadLetter, EventStats, HandlerStats
from araponga_infra.health import Health

__all__ = ["health_lines", "letter_json", "letter_lines", "letter_table", "stats_json", "stats_table", "table"]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as their widest cell; numbers to the right."""
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    numeric = [bool(rows) and all(isinstance(row[column], int) for row in rows) for column in range(len(head))]
    return "\n".join(_line(line, widths, numeric) for line in cells)


def stats_table(stats: EventStats) -> str:
    rows = [(each.event, each.handler, *_numbers(each)) for each in stats.handlers]
    rows.append(("(all)", "", *_numbers(stats)))
    return table(["event", "handler", "queued", "running", "retrying", "dead", "oldest due (s)"], rows)


def _numbers(stats: EventStats | HandlerStats) -> tuple[int, int, int, int, int]:
    return stats.queued, stats.running, stats.retrying, stats.dead, round(stats.oldest_age_seconds)


def stats_json(stats: EventStats) -> str:
    return json.dumps(asdict(stats))


def letter_table(letters: Sequence[DeadLetter]) -> str:
    rows = [
        (each.id, each.event_name, each.handler, each.attempts, each.reason.value, f"{each.died_at:%Y-%m-%d %H:%M:%SZ}")
        for each in letters
    ]
    return table(["id", "event", "handler", "attempts", "reason", "died at"], rows)


def letter_lines(letter: DeadLetter) -> str:
    """Everything about one, its payload as text where it is some."""
    return "\n".join(f"{name + ':':<15} {value}" for name, value in _fields(letter).items() if value not in (None, {}))


def letter_json(letter: DeadLetter) -> str:
    return json.dumps(_fields(letter))


def health_lines(health: Health) -> str:
    """One line for each part."""
    rows = [(name, part.state.value, part.detail) for name, part in sorted(health.parts.items())]
    return "\n".join(f"{name:<12} {state:<9} {detail}".rstrip() for name, state, detail in rows)


def _fields(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "event_id": str(letter.event_id),
        "event": letter.event_name,
        "version": letter.event_version,
        "handler": letter.handler,
        "reason": letter.reason.value,
        "error": letter.error,
        "attempts": letter.attempts,
        "lost_leases": letter.lost_leases,
        "published_at": letter.published_at.isoformat(),
        "died_at": letter.died_at.isoformat(),
        "ordering_key": letter.ordering_key,
        "headers": dict(letter.headers),
        "payload": letter.payload.decode("utf-8", errors="backslashreplace"),
    }


def _line(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    fitted = [
        cell.rjust(width) if is_number else cell.ljust(width)
        for cell, width, is_number in zip(cells, widths, numeric, strict=True)
    ]
    return "  ".join(fitted).rstrip()
