"""What the database holds, and what instances answer from their caches instead."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import httpx

from tests.multi_instance.ledger import Row
from tests.multi_instance.load import TIMEOUT_SECONDS, Places
from tests.multi_instance.processes import Instance
from tests.servers import PostgresDatabase

__all__ = ["deliveries", "likes", "notified", "rows", "titles", "wrong_caches"]

_ROWS = (
    "SELECT '/territories/' || id, row_version, name FROM territory",
    "SELECT '/flags/' || name, row_version, is_enabled FROM feature_flag",
    "SELECT '/events/' || id, row_version, title FROM territory_event",
)
_AGENDAS = "SELECT territory_id, array_agg(title ORDER BY starts_at, id) FROM territory_event GROUP BY 1"
_NOTIFIED = """
SELECT post.title, membership.member, count(notification.id)
FROM community_post post JOIN territory_membership membership USING (territory_id)
LEFT JOIN notification
  ON notification.member = membership.member AND notification.text = 'New in your territory: ' || post.title
GROUP BY 1, 2
"""
_SHOWN = {"territories": "name", "flags": "is_enabled"}


def rows(database: PostgresDatabase) -> dict[str, Row]:
    """Each row that is edited with If-Match, by its path."""
    return {path: Row(version, value) for statement in _ROWS for path, version, value in database.execute(statement)}


def titles(database: PostgresDatabase) -> list[str]:
    return [title for (title,) in database.execute("SELECT title FROM community_post")]


def likes(database: PostgresDatabase) -> dict[int, int]:
    return dict(database.execute("SELECT id, likes FROM community_post"))


def notified(database: PostgresDatabase) -> list[tuple[str, str, int]]:
    """How often each member of its territory was told of each post."""
    return [(title, member, count) for title, member, count in database.execute(_NOTIFIED)]


def deliveries(database: PostgresDatabase) -> dict[str, int]:
    """How many deliveries are in each state; those that were completed are gone."""
    return dict(database.execute("SELECT state, count(*) FROM araponga_deliveries GROUP BY 1"))


async def wrong_caches(instances: Sequence[Instance], database: PostgresDatabase, places: Places) -> list[str]:
    """Answers of an instance's cache that the database contradicts."""
    expected = await asyncio.to_thread(_expected, database, places)
    wrong: list[str] = []
    for instance in instances:
        async with httpx.AsyncClient(base_url=instance.address, timeout=TIMEOUT_SECONDS, verify=False) as http:
            answered = {path: await _answered(http, path) for path in expected}
        wrong += [
            f"{instance.name} {path}: {answered[path]}, not {expected[path]}"
            for path in expected
            if answered[path] != expected[path]
        ]
    return wrong


def _expected(database: PostgresDatabase, places: Places) -> Mapping[str, object]:
    agendas = dict(database.execute(_AGENDAS))
    cached = {path: row for path, row in rows(database).items() if not path.startswith("/events/")}
    return {**cached, **{f"/territories/{id}/events": agendas[id] for id in places.territories}}


async def _answered(http: httpx.AsyncClient, path: str) -> object:
    response = await http.get(path)
    if not response.is_success:
        return f"status {response.status_code}"
    if path.endswith("/events"):
        return [event["title"] for event in response.json()]
    return Row(int(response.headers["ETag"].strip('"')), response.json()[_SHOWN[path.split("/")[1]]])
