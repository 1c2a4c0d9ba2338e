"""How many connections each process of the service has open, by what PostgreSQL knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import psycopg

__all__ = ["Connections", "counted"]

LOOK_EVERY_SECONDS = 0.1
_OPEN = """
SELECT application_name, count(*) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND application_name ~ '^(web|worker)-' GROUP BY 1
"""


@dataclass
class Connections:
    """The most that each process had open at a time, and the most that all had, on one server."""

    by_process: dict[str, int] = field(default_factory=dict)
    in_all: int = 0

    def most(self, kind: str) -> int:
        """Of any process whose name begins so."""
        return max((count for name, count in self.by_process.items() if name.startswith(kind)), default=0)

    def add(self, seen: Mapping[str, int]) -> None:
        for name, count in seen.items():
            self.by_process[name] = max(count, self.by_process.get(name, 0))
        self.in_all = max(self.in_all, sum(seen.values()))


@asynccontextmanager
async def counted(url: str) -> AsyncIterator[Connections]:
    """Looks at a server until the end of the block; while it is away there is nothing to count."""
    connections = Connections()
    counting = asyncio.create_task(_count(url, connections))
    try:
        yield connections
    finally:
        counting.cancel()
        with suppress(asyncio.CancelledError):
            await counting


async def _count(url: str, connections: Connections) -> None:
    while True:
        with suppress(psycopg.OperationalError):
            async with await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=2) as connection:
                while True:
                    connections.add(dict(await (await connection.execute(_OPEN)).fetchall()))
                    await asyncio.sleep(LOOK_EVERY_SECONDS)
        await asyncio.sleep(LOOK_EVERY_SECONDS)
