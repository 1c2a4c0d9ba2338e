"""A worker process whose handler ends it: once, `before` or `after` the COMMIT of its own transaction, or `always`."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import redis
import redis.asyncio
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from araponga_infra.events import (
    AsyncBackgroundEventProcessor,
    AsyncInbox,
    BackgroundEventProcessor,
    DeliveryContext,
    EventRouter,
    EventStoreSource,
    Inbox,
    RedisStreamEventStore,
    SqlAlchemyEventStore,
)
from tests.events.crash_worker import open_store
from tests.events.hosts import Followed, Happened

EFFECT = text("INSERT INTO effects (number) VALUES (:number)")

ROOM_BYTES = 64 << 20


class Fate:
    """Notes each run, and ends the process where it is to end."""

    def __init__(self, kill: str, database: str) -> None:
        self._kill = kill
        self._notes = Path(f"{database}.runs")
        self._is_first = not self._notes.exists()

    def begin(self, number: int) -> None:
        with self._notes.open("a") as notes:
            notes.write(f"{number}\n")
        if self._kill == "always":
            self._die()
        if self._kill == "memory":
            hoard_until_there_is_none()

    def reach(self, moment: str) -> None:
        if self._is_first and self._kill == moment:
            self._die()

    def _die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def hoard_until_there_is_none() -> None:
    """Meanwhile nobody else in the process gets any, either; not for longer, since malloc keeps what was freed."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM_BYTES, resource.RLIM_INFINITY))
    hoard = list[bytearray]()
    try:
        while True:
            hoard.append(bytearray(ROOM_BYTES // 1000))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def sync_router(database: str, fate: Fate) -> EventRouter:
    router, inbox, engine = EventRouter(), Inbox(), create_engine(f"sqlite:///{database}")

    @router.subscribe(Happened, name="works", max_attempts=2)
    def works(happened: Happened, context: DeliveryContext) -> None:
        fate.begin(happened.number)
        with Session(engine) as session:
            if inbox.accept(session, context):
                session.execute(EFFECT, {"number": happened.number})
            fate.reach("before")
            session.commit()
        fate.reach("after")

    @router.subscribe(Followed, name="innocent", max_attempts=1)
    def innocent(followed: Followed) -> None:
        with Session(engine) as session:
            session.execute(EFFECT, {"number": followed.number})
            session.commit()

    return router


def async_router(database: str, fate: Fate) -> EventRouter:
    router, inbox, engine = EventRouter(), AsyncInbox(), create_async_engine(f"sqlite+aiosqlite:///{database}")

    @router.subscribe(Happened, name="works", max_attempts=2)
    async def works(happened: Happened, context: DeliveryContext) -> None:
        fate.begin(happened.number)
        async with AsyncSession(engine) as session:
            if await inbox.accept(session, context):
                await session.execute(EFFECT, {"number": happened.number})
            fate.reach("before")
            await session.commit()
        fate.reach("after")

    @router.subscribe(Followed, name="innocent", max_attempts=1)
    async def innocent(followed: Followed) -> None:
        async with AsyncSession(engine) as session:
            await session.execute(EFFECT, {"number": followed.number})
            await session.commit()

    return router


def open_async_store(kind: str, url: str) -> EventStoreSource:
    if kind == "redis":
        client: Any = redis.asyncio.Redis
        return RedisStreamEventStore(client.from_url(url))
    return SqlAlchemyEventStore(create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:")))


async def live(kind: str, url: str, router: EventRouter) -> None:
    async with AsyncBackgroundEventProcessor(open_async_store(kind, url), routers=[router], lease=0.5):
        await asyncio.sleep(60)


def run(kind: str, url: str, colour: str, database: str, kill: str) -> None:
    """What the process does.

    Args:
        kind: of the store: sqlite, postgres or redis.
        url: of the store.
        colour: sync or async.
        database: a file, the handlers' own.
        kill: when.
    """
    fate = Fate(kill, database)
    if colour == "async":
        asyncio.run(live(kind, url, async_router(database, fate)))
        return
    with BackgroundEventProcessor(open_store(kind, url), routers=[sync_router(database, fate)], lease=0.5):
        time.sleep(60)
