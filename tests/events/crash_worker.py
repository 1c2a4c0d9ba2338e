"""A worker process for the crash test, killed at any moment."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import Session

from araponga_infra.events import (
    BackgroundEventProcessor,
    DeliveryContext,
    EventRouter,
    EventStoreSource,
    RedisStreamEventStore,
    SqlAlchemyEventStore,
)
from tests.events.hosts import Happened

NOTING_SECONDS = 0.04
"""Handlers take a while, so that whoever is killed has some of them in the middle of their work."""
WORKING_SECONDS = 0.002


def sqlite_engine(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def use_wal(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    return engine


def open_store(kind: str, url: str) -> EventStoreSource:
    if kind == "redis":
        return RedisStreamEventStore(redis.Redis.from_url(url))
    return SqlAlchemyEventStore(sqlite_engine(url) if kind == "sqlite" else create_engine(url))


def make_router(kind: str, effects: Path) -> EventRouter:
    """Two handlers per event: one notes each run in a file, one works in the store's transaction where there is one."""
    router = EventRouter()
    log = os.open(effects / f"{os.getpid()}.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    @router.subscribe(Happened, name="note", max_attempts=50)
    def note(happened: Happened, context: DeliveryContext) -> None:
        os.write(log, f"note {happened.number}\n".encode())
        time.sleep(NOTING_SECONDS)

    if kind == "redis":

        @router.subscribe(Happened, name="effect", max_attempts=50)
        def effect(happened: Happened) -> None:
            os.write(log, f"effect {happened.number}\n".encode())

        return router

    @router.subscribe(Happened, name="effect", max_attempts=50)
    def effect_once(happened: Happened, session: Session) -> None:
        session.execute(text("INSERT INTO effects (number) VALUES (:number)"), {"number": happened.number})
        time.sleep(WORKING_SECONDS)

    return router


def owner_file(effects: Path, pid: int) -> Path:
    """Where a worker says by which name it holds deliveries."""
    return effects / f"{pid}.owner"


def main(kind: str, url: str, folder: str) -> None:
    router = make_router(kind, Path(folder))
    with BackgroundEventProcessor(open_store(kind, url), routers=[router], fetch_batch=20) as processor:
        assert processor._running is not None
        owner_file(Path(folder), os.getpid()).write_text(processor._running._feed.owner)
        while True:
            time.sleep(60)
