"""The same in async code, and an order per key, a delay and an idempotency key: python examples/events_async.py"""

import asyncio
import logging
import tempfile
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from araponga_infra import AsyncBackgroundEventProcessor, DeliveryContext, EventRouter, SqlAlchemyEventStore, event


@event("territory.flooded", version=1)
@dataclass(frozen=True)
class Flooded:
    territory: str
    level: int


router = EventRouter(prefix="alerts.")
is_line_up = asyncio.Event()


@router.subscribe(Flooded)
async def show(flooded: Flooded) -> None:
    print(f"  {flooded.territory} at {flooded.level} m")


@router.subscribe(Flooded, max_attempts=2)
def ring(flooded: Flooded, context: DeliveryContext) -> None:  # sync handlers run in threads of their own
    if flooded.level > 2 and not is_line_up.is_set():
        raise ConnectionError(f"line is busy at attempt {context.attempt}")


async def main(folder: str) -> None:
    logging.getLogger("araponga_infra.events").setLevel(logging.CRITICAL)  # the failures here are staged
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/events.db")
    store = SqlAlchemyEventStore(engine)
    await store.create_schema()
    async with AsyncBackgroundEventProcessor(store, routers=[router], consume=False) as events:
        print("1. In the order of COMMIT, one at a time")
        async with AsyncSession(engine) as session, session.begin():
            for level in (1, 2, 3):  # a plain call, as session.add is
                events.publish_in(session, Flooded("Vale", level), ordering_key="Vale")
        report = await events.run_until_idle(raise_dead=False)
        print(f"  {report.completed} completed, dead: {', '.join(letter.reason for letter in report.dead)}")

        print("2. Redriven")
        is_line_up.set()
        async for letter in events.dead_letters:
            await events.dead_letters.redrive(letter.id)
        print(f"  {(await events.run_until_idle()).completed} completed")

        print("3. Said twice, accepted once; tomorrow is now in tests")
        for _ in range(2):
            await events.publish(Flooded("Serra", 1), delay=timedelta(days=1), idempotency_key="forecast-7")
        print(f"  {(await events.run_until_idle()).completed} completed")
    await engine.dispose()


with tempfile.TemporaryDirectory() as folder:
    asyncio.run(main(folder))
