"""One observer for all parts of an async service: python examples/telemetry_async.py

`observe` is a plain call here, too: it takes note and awaits nothing. One that blocks all the same is found out and
moved to a thread of its own, so that the event loop goes on.
"""

import asyncio
import logging
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from araponga_infra import AsyncInfrastructure, CountingObserver, EventRouter, InfraSettings, event


@event("territory.renamed", version=1)
@dataclass(frozen=True)
class Renamed:
    name: str


router = EventRouter()


@router.subscribe(Renamed)
async def announce(renamed: Renamed) -> None:
    print("announced:", renamed.name)


async def load() -> str:
    return "Vale Novo"


async def main() -> None:
    logging.getLogger("araponga_infra.infrastructure").setLevel(logging.ERROR)  # it warns that nothing is kept
    counters = CountingObserver()
    settings = InfraSettings.embedded()
    async with AsyncInfrastructure(settings, routers=[router], consume=False, observer=counters) as infra:

        async def rename(session: AsyncSession) -> None:
            infra.events.publish_in(session, Renamed("Vale Novo"))

        await infra.concurrency.execute(rename)
        await infra.events.run_until_idle()
        for _ in range(3):
            await infra.cache.get_or_set("territory:1", load)

    snapshot = counters.snapshot()
    for name in snapshot:
        print(name, snapshot[name])


asyncio.run(main())
