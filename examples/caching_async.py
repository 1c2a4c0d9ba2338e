"""The same in async code, where a load goes on when the caller that began it is cancelled.

python examples/caching_async.py                             # in memory
ARAPONGA_REDIS_URL=redis://localhost:6379 python examples/caching_async.py
"""

import asyncio
import os
from dataclasses import dataclass
from datetime import timedelta

from araponga_infra import CountingObserver, create_async_cache


@dataclass(frozen=True)
class Territory:
    id: int
    name: str


database = {1: "Vale do Itamambuca", 2: "Serra do Mar"}


async def load(territory_id: int) -> Territory | None:
    print(f"  (asking the database for {territory_id})")
    await asyncio.sleep(0.05)
    name = database.get(territory_id)
    return Territory(territory_id, name) if name else None


async def main() -> None:
    redis, counters = os.environ.get("ARAPONGA_REDIS_URL"), CountingObserver()
    async with create_async_cache(redis, namespace="example", observer=counters) as cache:
        await cache.clear()
        territories = cache.region("territory", Territory | None, ttl=timedelta(minutes=10))

        async def show(territory_id: int) -> Territory | None:
            return await territories.get_or_set(territory_id, lambda: load(territory_id))

        print("1. Fifty callers, one load, and the first of them goes away")
        first, *others = [asyncio.create_task(show(1)) for _ in range(50)]
        await asyncio.sleep(0)
        first.cancel()
        found = await asyncio.gather(*others)
        print(f"  {len(found)} times {found[0]}")

        print("2. 'No such territory' is remembered, too")
        for _ in range(2):
            print(f"  {await show(3)}")

        print("3. A rename reaches every instance")
        database[1] = "Vale Novo"
        await territories.delete(1)
        print(f"  {await show(1)}")
        print(f"  {counters.snapshot()['cache.load']} loads for 53 look-ups")


asyncio.run(main())
