"""What cannot work is refused at the call, with a message that names the next step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from araponga_infra.errors import NotConfiguredError
from araponga_infra.events import (
    AsyncBackgroundEventProcessor,
    BackgroundEventProcessor,
    EventRouter,
    SqlAlchemyEventStore,
)
from tests.events.hosts import Happened, settled

pytestmark = pytest.mark.anyio


# -- a database without the tables


def subscribed() -> EventRouter:
    router = EventRouter()
    router.subscribe(Happened, name="noted")(lambda happened: None)
    return router


CALLS: dict[str, Callable[[Any], Any]] = {
    "start": lambda processor: processor.start(),
    "publish": lambda processor: processor.publish(Happened(1)),
    "stats": lambda processor: processor.stats(),
    "dead letters": lambda processor: processor.dead_letters.list(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
@pytest.mark.parametrize("is_async", [False, True])
async def test_without_its_tables_a_store_names_create_schema(
    request: pytest.FixtureRequest, tmp_path: Path, call: str, database: str, is_async: bool
) -> None:
    driver = "asyncpg" if is_async else "psycopg"
    sqlite = f"sqlite{'+aiosqlite' if is_async else ''}:///{tmp_path / 'empty.db'}"
    url = sqlite if database == "sqlite" else request.getfixturevalue("postgres_database").url(driver)
    engine: Any = create_async_engine(url) if is_async else create_engine(url)
    kind: Any = AsyncBackgroundEventProcessor if is_async else BackgroundEventProcessor
    with pytest.raises(NotConfiguredError, match=r"create_schema\(\)"):
        await settled(CALLS[call](kind(SqlAlchemyEventStore(engine), routers=[subscribed()])))
    await settled(engine.dispose())


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_without_its_tables_a_commit_names_create_schema(request: pytest.FixtureRequest, database: str) -> None:
    engine: Engine = request.getfixturevalue(f"{database}_engine")
    processor = BackgroundEventProcessor(SqlAlchemyEventStore(engine))
    with Session(engine) as session:
        processor.publish_in(session, Happened(1))
        with pytest.raises(NotConfiguredError, match=r"create_schema\(\)"):
            session.commit()


def test_other_errors_of_the_database_stay_its_own(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'absent' / 'events.db'}")
    with pytest.raises(OperationalError):
        BackgroundEventProcessor(SqlAlchemyEventStore(engine)).publish(Happened(1))
