"""What a handler has done in a transaction of its own is known to the next attempt."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from araponga_infra.errors import InvalidArgumentError, NotConfiguredError
from araponga_infra.events import AsyncInbox, DeliveryContext, EventRouter, Inbox, SqlAlchemyEventStore
from araponga_infra.events.values import Delivery
from araponga_infra.testing.clock import FakeClock
from tests.events.hosts import Happened, Host, settled

pytestmark = pytest.mark.anyio


def context(event_id: UUID, handler: str = "works", published_at: float = 1_700_000_000.25) -> DeliveryContext:
    delivery = Delivery("1", handler, event_id, "tests.happened", 1, b"{}", None, published_at)
    return DeliveryContext(delivery, attempt=1, deadline=None)


class Box:
    """An inbox of either colour on a database of its own."""

    def __init__(self, inbox: Any, engine: Any) -> None:
        self.inbox = inbox
        self.engine = engine

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Any]:
        if isinstance(self.engine, AsyncEngine):
            async with AsyncSession(self.engine) as session:
                yield session
        else:
            with Session(self.engine) as plain:
                yield plain

    async def accept(self, given: DeliveryContext, *, is_committed: bool = True) -> bool:
        async with self.session() as session:
            accepted = bool(await settled(self.inbox.accept(session, given)))
            await settled(session.commit() if is_committed else session.rollback())
        return accepted


@pytest.fixture(params=["sqlite-sync", "sqlite-async", "postgres-sync", "postgres-async"])
async def box(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Box]:
    database, colour = request.param.split("-")
    is_async = colour == "async"
    if database == "postgres":
        url = request.getfixturevalue("postgres_database").url("asyncpg" if is_async else "psycopg")
    else:
        url = f"sqlite{'+aiosqlite' if is_async else ''}:///{tmp_path / 'own.db'}"
    engine: Any = create_async_engine(url) if is_async else create_engine(url)
    inbox: Any = AsyncInbox(clock=clock) if is_async else Inbox(clock=clock)
    await settled(inbox.create_schema(engine))
    yield Box(inbox, engine)
    await settled(engine.dispose())


async def test_a_delivery_is_accepted_once(box: Box) -> None:
    given = context(uuid4())
    assert [await box.accept(given), await box.accept(given)] == [True, False]


async def test_a_rollback_leaves_it_to_the_next_attempt(box: Box) -> None:
    given = context(uuid4())
    assert await box.accept(given, is_committed=False)
    assert await box.accept(given)


async def test_other_handlers_events_and_publications_are_other_work(box: Box) -> None:
    """The second publication of an idempotency key whose window is over has the id of the first."""
    event_id = uuid4()
    assert await box.accept(context(event_id))
    assert await box.accept(context(event_id, handler="other"))
    assert await box.accept(context(event_id, published_at=1_700_000_001.25))
    assert await box.accept(context(uuid4()))


async def test_what_is_old_is_forgotten_when_asked(box: Box, clock: FakeClock) -> None:
    old, young = context(uuid4()), context(uuid4())
    await box.accept(old)
    clock.advance(timedelta(days=40))
    await box.accept(young)
    async with box.session() as session:
        assert await settled(box.inbox.purge(session, timedelta(days=30))) == 1
        await settled(session.commit())
    assert [await box.accept(old), await box.accept(young)] == [True, False]


@pytest.mark.parametrize("is_committed", [True, False])
def test_two_at_once_wait_for_each_other(postgres_engine: Engine, is_committed: bool) -> None:
    inbox, given, answers = Inbox(), context(uuid4()), list[bool]()
    inbox.create_schema(postgres_engine)

    def second() -> None:
        with Session(postgres_engine) as session:
            answers.append(inbox.accept(session, given))

    with Session(postgres_engine) as session:
        assert inbox.accept(session, given)
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        assert answers == []
        session.commit() if is_committed else session.rollback()
    thread.join(20)
    assert answers == [not is_committed]


async def test_its_table_comes_with_the_stores(sqlite_engine: Engine, async_sqlite_engine: AsyncEngine) -> None:
    SqlAlchemyEventStore(sqlite_engine).create_schema()
    with scoped_session(sessionmaker(sqlite_engine))() as session:
        assert Inbox().accept(session, context(uuid4()))
    scoped = async_scoped_session(async_sessionmaker(async_sqlite_engine), scopefunc=asyncio.current_task)
    assert await AsyncInbox().accept(scoped, context(uuid4()))
    await scoped.remove()


async def test_a_handler_tells_a_redriven_delivery_from_a_new_one(host: Host, tmp_path: Path) -> None:
    """Its transaction was committed and the handler failed after it: whenever it is run again, it knows."""
    engine, inbox = create_engine(f"sqlite:///{tmp_path / 'own.db'}"), Inbox()
    inbox.create_schema(engine)
    router, done = EventRouter(), list[bool]()

    @router.subscribe(Happened, max_attempts=2)
    def works(happened: Happened, context: DeliveryContext) -> None:
        with Session(engine) as session, session.begin():
            done.append(inbox.accept(session, context))
        if len(done) < 3:
            raise OSError("after the COMMIT")

    processor = await host.started(router, consume=False)
    await settled(processor.publish(Happened(1)))
    await host.run_until_idle(processor, raise_dead=False)
    await settled(processor.dead_letters.redrive_all())
    await settled(processor.publish(Happened(1)))
    await host.run_until_idle(processor)
    assert sorted(done) == [False, False, True, True]
    engine.dispose()


# -- refusals


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'own.db'}")
    yield engine
    engine.dispose()


async def test_without_its_table_it_names_create_schema(own: Engine) -> None:
    with Session(own) as session, pytest.raises(NotConfiguredError, match=r"create_schema\(\)"):
        Inbox().accept(session, context(uuid4()))
    with Session(own) as session, pytest.raises(NotConfiguredError, match=r"create_schema\(\)"):
        Inbox().purge(session, 1)


async def test_what_it_cannot_use_is_refused(own: Engine, async_sqlite_engine: AsyncEngine) -> None:
    given = context(uuid4())
    wrong: Any
    async with AsyncSession(async_sqlite_engine) as awaited:
        wrong = awaited
        with pytest.raises(InvalidArgumentError, match="use an AsyncInbox"):
            Inbox().accept(wrong, given)
    with Session(own) as session:
        wrong = session
        with pytest.raises(InvalidArgumentError, match="pass an AsyncSession"):
            await AsyncInbox().accept(wrong, given)
        for no_context in (given.event_id, None):
            wrong = no_context
            with pytest.raises(InvalidArgumentError, match="context is a"):
                Inbox().accept(session, wrong)
        with pytest.raises(InvalidArgumentError, match="older_than=-1"):
            Inbox().purge(session, -1)
    with pytest.raises(InvalidArgumentError, match="schema=''"):
        Inbox(schema="")
    elsewhere = create_engine("mysql+pymysql://localhost/x")
    with Session(elsewhere) as session, pytest.raises(InvalidArgumentError, match="on mysql"):
        Inbox().accept(session, given)
