"""A cached territory service that does not notice when Redis comes and goes.

python examples/caching.py                                   # in memory
ARAPONGA_REDIS_URL=redis://localhost:6379 python examples/caching.py
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

from araponga_infra import CachePolicy, create_cache
from araponga_infra.telemetry import Record


@dataclass(frozen=True)
class Territory:
    id: int
    name: str


class Tally:
    """Counts loads, as a metrics exporter would."""

    def __init__(self) -> None:
        self.loads = 0

    def observe(self, record: Record) -> None:
        self.loads += record.name == "cache.load"


database = {1: "Vale do Itamambuca", 2: "Serra do Mar"}
is_database_down = threading.Event()


def load(territory_id: int) -> Territory | None:
    if is_database_down.is_set():
        raise ConnectionError("the database is down")
    print(f"  (asking the database for {territory_id})")
    name = database.get(territory_id)
    return Territory(territory_id, name) if name else None


def main() -> None:
    tally = Tally()
    with create_cache(os.environ.get("ARAPONGA_REDIS_URL"), namespace="example", observer=tally) as cache:
        cache.clear()
        territories = cache.region(
            "territory", Territory | None, ttl=timedelta(minutes=10), policy=CachePolicy(stale_for=timedelta(hours=1))
        )

        print("1. Fifty callers, one load")
        with ThreadPoolExecutor(50) as pool:
            found = list(pool.map(lambda _: territories.get_or_set(1, lambda: load(1)), range(50)))
        print(f"  {len(found)} times {found[0]}")

        print("2. 'No such territory' is remembered, too")
        for _ in range(2):
            print(f"  {territories.get_or_set(3, lambda: load(3))}")

        print("3. A rename reaches every instance")
        database[1] = "Vale Novo"
        territories.delete(1)
        print(f"  {territories.get_or_set(1, lambda: load(1))}")

        print("4. A database that is down does not matter to what is cached")
        is_database_down.set()
        print(f"  {territories.get_or_set(1, lambda: load(1))}")
        print(f"  {tally.loads} loads for 54 look-ups")


if __name__ == "__main__":
    main()
