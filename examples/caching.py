"""A cached territory service that does not notice when Redis comes and goes.

python examples/caching.py                                   # in memory
ARAPONGA_REDIS_URL=redis://localhost:6379 python examples/caching.py
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

from araponga_infra import CachePolicy, CountingObserver, create_cache


@dataclass(frozen=True)
class Territory:
    id: int
    name: str


database = {1: "Vale do Itamambuca", 2: "Serra do Mar"}


def load(territory_id: int) -> Territory | None:
    if not database:
        raise ConnectionError("the database is down")
    print(f"  (asking the database for {territory_id})")
    name = database.get(territory_id)
    return Territory(territory_id, name) if name else None


counters = CountingObserver()
with create_cache(os.environ.get("ARAPONGA_REDIS_URL"), namespace="example", observer=counters) as cache:
    cache.clear()
    survives_outages = CachePolicy(stale_for=timedelta(hours=1))
    territories = cache.region("territory", Territory | None, ttl=timedelta(minutes=10), policy=survives_outages)

    def show(territory_id: int) -> Territory | None:
        return territories.get_or_set(territory_id, lambda: load(territory_id))

    print("1. Fifty callers, one load")
    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(show, [1] * 50))
    print(f"  {len(found)} times {found[0]}")

    print("2. 'No such territory' is remembered, too")
    for _ in range(2):
        print(f"  {show(3)}")

    print("3. A rename reaches every instance")
    database[1] = "Vale Novo"
    territories.delete(1)
    print(f"  {show(1)}")

    print("4. A database that is down does not matter to what is cached")
    database.clear()
    print(f"  {show(1)}")
    print(f"  {counters.snapshot()['cache.load']} loads for 54 look-ups")
