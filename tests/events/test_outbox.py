"""Events and the host's transaction: the outbox, and handlers whose work and acknowledgement are one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, select, text
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from araponga_infra.events import (
    AsyncBackgroundEventProcessor,
    BackgroundEventProcessor,
    DeliveryContext,
    EventRouter,
    HandlerCommitError,
    InMemoryEventStore,
    ProcessorStateError,
    RetryLater,
    SessionMismatchError,
    SqlAlchemyEventStore,
    UnsupportedByStoreError,
)
from araponga_infra.observers import CountingObserver
from araponga_infra.sessions import AsyncReadOnlySessionFactory, ReadOnlySessionFactory, ReadOnlyViolationError
from tests.events.hosts import Followed, Happened, Host, eventually, settled

pytestmark = pytest.mark.anyio


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]


@pytest.fixture
async def sql_host(host: Host) -> Host:
    if host.source.capabilities.transactions:
        if host.is_async:
            async with host.engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
        else:
            Base.metadata.create_all(host.engine)
    return host


def only_sql(host: Host) -> bool:
    """Whether there is a transaction to speak of; the other stores say that there is none."""
    return host.source.capabilities.transactions


async def in_session(host: Host, work: Callable[[Any], Any]) -> None:
    """Run `work` in a transaction of the host's own."""
    if host.is_async:
        async with AsyncSession(host.engine) as session, session.begin():
            await settled(work(session))
    else:
        with Session(host.engine) as plain, plain.begin():
            work(plain)


async def numbers(host: Host) -> list[int]:
    if host.is_async:
        async with AsyncSession(host.engine) as session:
            return sorted(await session.scalars(select(Note.number)))
    with Session(host.engine) as session:
        return sorted(session.scalars(select(Note.number)))


def noting(seen: list[int]) -> EventRouter:
    router = EventRouter()

    @router.subscribe(Happened)
    def note(happened: Happened) -> None:
        seen.append(happened.number)

    return router


async def test_an_event_is_published_by_the_commit_and_not_without_it(sql_host: Host) -> None:
    seen: list[int] = []
    processor = await sql_host.started(noting(seen), consume=False)
    if not only_sql(sql_host):
        with pytest.raises(UnsupportedByStoreError, match="SqlAlchemyEventStore"):
            processor.publish_in(object(), Happened(1))
        return

    await in_session(sql_host, lambda session: processor.publish_in(session, Happened(1)) and None)
    with pytest.raises(ZeroDivisionError):
        await in_session(sql_host, lambda session: processor.publish_in(session, Happened(2)) and 1 / 0)
    await sql_host.run_until_idle(processor)
    assert seen == [1]


async def test_an_observer_hears_of_what_was_committed_and_of_nothing_else(sql_host: Host) -> None:
    if not only_sql(sql_host):
        return
    counters = CountingObserver()
    processor = await sql_host.started(noting([]), consume=False, observer=counters)

    def publish(session: Any) -> None:
        for happening in (Happened(1), Happened(2), Followed(1)):
            processor.publish_in(session, happening)
        assert counters.snapshot()["events.published"] == 0

    await in_session(sql_host, publish)
    with pytest.raises(ZeroDivisionError):
        await in_session(sql_host, lambda session: processor.publish_in(session, Happened(3)) and 1 / 0)
    published = counters.snapshot().of("events.published")
    assert (published.times, dict(published.sums)) == (1, {"events": 3, "deliveries": 2, "unsubscribed": 1})


async def test_a_savepoint_that_is_rolled_back_takes_its_events_along(sql_host: Host) -> None:
    if not only_sql(sql_host):
        return
    seen: list[int] = []
    processor = await sql_host.started(noting(seen), consume=False)

    def publish(session: Any) -> Any:
        if sql_host.is_async:
            return publish_async(session)
        processor.publish_in(session, Happened(1))
        with session.begin_nested():
            processor.publish_in(session, Happened(2))
        with session.begin_nested() as savepoint:
            processor.publish_in(session, Happened(3))
            savepoint.rollback()
        return None

    async def publish_async(session: AsyncSession) -> None:
        processor.publish_in(session, Happened(1))
        async with session.begin_nested():
            processor.publish_in(session, Happened(2))
        async with session.begin_nested() as savepoint:
            processor.publish_in(session, Happened(3))
            await savepoint.rollback()

    await in_session(sql_host, publish)
    await sql_host.run_until_idle(processor)
    assert sorted(seen) == [1, 2]


async def test_savepoints_within_savepoints_and_sessions_used_again(sql_host: Host) -> None:
    if not only_sql(sql_host):
        return
    seen: list[int] = []
    processor = await sql_host.started(noting(seen), consume=False)

    def publish(session: Session) -> None:
        with session.begin_nested():
            processor.publish_in(session, Happened(1))
            with session.begin_nested() as inner:
                processor.publish_in(session, Happened(2))
                inner.rollback()
            with session.begin_nested():
                processor.publish_in(session, Happened(3))
        outer = session.begin_nested()
        with session.begin_nested():
            processor.publish_in(session, Happened(4))
        outer.rollback()
        processor.publish_in(session, Happened(5))
        session.commit()
        processor.publish_in(session, Happened(6))
        session.rollback()
        session.commit()
        processor.publish_in(session, Happened(7))
        session.close()
        session.commit()
        processor.publish_in(session, Happened(8))
        session.commit()

    await run_plain(sql_host, publish)
    await sql_host.run_until_idle(processor)
    assert sorted(seen) == [1, 3, 5, 8]


async def run_plain(host: Host, work: Callable[[Session], None]) -> None:
    """Run `work` with the plain session that is behind either form."""
    if host.is_async:
        async with AsyncSession(host.engine) as session:
            await session.run_sync(work)
    else:
        with Session(host.engine) as plain:
            work(plain)


async def test_an_idempotency_key_goes_with_its_transaction(sql_host: Host) -> None:
    if not only_sql(sql_host):
        return
    seen: list[int] = []
    processor = await sql_host.started(noting(seen), consume=False)

    def publish(session: Session) -> None:
        processor.publish_in(session, Happened(1), idempotency_key="key")
        session.flush()
        session.rollback()
        with session.begin_nested() as savepoint:
            processor.publish_in(session, Happened(2), idempotency_key="key")
            savepoint.rollback()
        for number in (3, 4):
            processor.publish_in(session, Happened(number), idempotency_key="key")
        session.commit()

    await run_plain(sql_host, publish)
    await settled(processor.publish(Happened(5), idempotency_key="key"))
    await sql_host.run_until_idle(processor)
    assert seen == [3]


async def test_transactions_that_publish_the_same_keys_do_not_wait_for_each_other_in_a_circle(sql_host: Host) -> None:
    if not only_sql(sql_host):
        return
    seen: list[int] = []
    processor = await sql_host.started(noting(seen), consume=False)

    def publish(session: Session, keys: list[str]) -> None:
        for key in keys:
            processor.publish_in(session, Happened(1), idempotency_key=key, ordering_key=key)
        session.commit()

    async def publisher(number: int) -> None:
        for turn in range(5):
            keys = [f"{turn} {key}" for key in "abc"]
            work = partial(publish, keys=keys[:: 1 if number % 2 else -1])
            if sql_host.is_async:
                await run_plain(sql_host, work)
            else:
                await asyncio.to_thread(asyncio.run, run_plain(sql_host, work))

    await asyncio.gather(*(publisher(number) for number in range(6)))
    await sql_host.run_until_idle(processor)
    assert len(seen) == 15


async def test_a_read_only_session_publishes_nothing_and_says_so(sql_host: Host) -> None:
    if not only_sql(sql_host):
        return
    seen: list[int] = []
    processor = await sql_host.started(noting(seen), consume=False)
    if sql_host.is_async:
        async with AsyncReadOnlySessionFactory(sql_host.engine)() as session:
            processor.publish_in(session, Happened(1))
            with pytest.raises(ReadOnlyViolationError):
                await session.commit()
    else:
        with ReadOnlySessionFactory(sql_host.engine)() as session:
            processor.publish_in(session, Happened(1))
            with pytest.raises(ReadOnlyViolationError):
                session.commit()
    await sql_host.run_until_idle(processor)
    assert seen == []


async def test_two_phases_decide_as_one(postgres_engine: Engine) -> None:
    store = SqlAlchemyEventStore(postgres_engine)
    store.create_schema()
    seen: list[int] = []
    with (
        BackgroundEventProcessor(store, routers=[noting(seen)], consume=False) as processor,
        Session(postgres_engine, twophase=True) as session,
    ):
        processor.publish_in(session, Happened(1))
        session.prepare()
        session.commit()
        processor.publish_in(session, Happened(2))
        session.prepare()
        session.rollback()
        processor.publish_in(session, Happened(3))
        session.commit()
        await asyncio.to_thread(processor.run_until_idle)
    assert seen == [1, 3]


async def test_a_commit_wakes_the_processor_at_once(sql_host: Host) -> None:
    if not only_sql(sql_host):
        return
    seen: list[int] = []
    processor = await sql_host.started(noting(seen), poll_interval=3600.0)
    await eventually(lambda: processor._running._feed.is_dry)
    await in_session(sql_host, lambda session: processor.publish_in(session, Happened(1)) and None)
    await eventually(lambda: seen == [1], seconds=10)


@pytest.mark.parametrize("call", ["publish", "publish_in", "publish_in an AsyncSession"])
async def test_another_process_is_told_by_postgres(postgres_database: Any, call: str) -> None:
    engine, other = (create_engine(postgres_database.url("psycopg")) for _ in range(2))
    async_engine = create_async_engine(postgres_database.url("asyncpg"))
    store = SqlAlchemyEventStore(engine)
    store.create_schema()
    seen: list[int] = []
    with (
        BackgroundEventProcessor(store, routers=[noting(seen)], poll_interval=3600.0) as worker,
        BackgroundEventProcessor(SqlAlchemyEventStore(other), consume=False) as web,
    ):
        await eventually(lambda: worker._running is not None and worker._running._feed.is_dry)

        async def publish(number: int) -> None:
            if call == "publish":
                await asyncio.to_thread(web.publish, Happened(number))
            elif call == "publish_in":
                await asyncio.to_thread(publish_committed, web, other, number)
            else:
                async with AsyncSession(async_engine) as session, session.begin():
                    web.publish_in(session, Happened(number), idempotency_key=f"{number}", ordering_key="key")

        for number in range(40):
            await publish(number)
        await eventually(lambda: sorted(seen) == list(range(40)), seconds=10)
        await publish(40)
        await eventually(lambda: 40 in seen, seconds=10)
    engine.dispose()
    other.dispose()
    await async_engine.dispose()


def publish_committed(processor: BackgroundEventProcessor, engine: Engine, number: int) -> None:
    with Session(engine) as session, session.begin():
        processor.publish_in(session, Happened(number))


async def test_events_of_a_key_are_in_the_order_of_commit(postgres_engine: Engine) -> None:
    """A publisher waits for the COMMIT of the one before it; else what it committed first would be handled first."""
    store = SqlAlchemyEventStore(postgres_engine)
    store.create_schema()
    seen: list[int] = []

    def waits() -> bool:
        with postgres_engine.connect() as connection:
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            return bool(connection.scalar(text(waiting)))

    with (
        BackgroundEventProcessor(store, routers=[noting(seen)], consume=False) as processor,
        Session(postgres_engine) as session,
    ):
        with session.begin_nested():
            processor.publish_in(session, Happened(1), ordering_key="key")
        second = asyncio.create_task(asyncio.to_thread(processor.publish, Happened(2), ordering_key="key"))
        await eventually(lambda: second.done() or waits())
        assert not second.done()
        await asyncio.to_thread(processor.publish, Happened(0), ordering_key="another key")
        session.commit()
        await second
        await asyncio.to_thread(processor.run_until_idle)
    assert seen == [1, 0, 2]


async def test_nothing_is_published_in_a_session_after_stop(sql_host: Host) -> None:
    if not only_sql(sql_host):
        return
    processor = await sql_host.started(noting([]), consume=False)
    await sql_host.stop(processor)

    def publish(session: Any) -> None:
        with pytest.raises(ProcessorStateError, match="has been stopped"):
            processor.publish_in(session, Happened(1))

    await in_session(sql_host, publish)
    other = await sql_host.started(consume=False)
    assert (await settled(other.stats())).queued == 0


@pytest.mark.parametrize("is_sync", [True, False])
async def test_scoped_sessions_and_what_a_flush_listener_publishes(
    sqlite_engine: Engine, async_sqlite_engine: AsyncEngine, is_sync: bool
) -> None:
    Base.metadata.create_all(sqlite_engine)
    store = SqlAlchemyEventStore(sqlite_engine)
    store.create_schema()
    seen: list[int] = []
    with BackgroundEventProcessor(store, routers=[noting(seen)], consume=False) as processor:
        if is_sync:
            scoped = scoped_session(sessionmaker(sqlite_engine))
            processor.publish_in(scoped, Happened(1))
            listen(scoped(), processor)
            scoped.add(Note(id=1, number=1))
            scoped.commit()
            scoped.remove()
        else:
            async_scoped = async_scoped_session(async_sessionmaker(async_sqlite_engine), scopefunc=asyncio.current_task)
            processor.publish_in(async_scoped, Happened(1))
            listen(async_scoped().sync_session, processor)
            async_scoped.add(Note(id=1, number=1))
            await async_scoped.commit()
            await async_scoped.remove()
        await asyncio.to_thread(processor.run_until_idle)
    assert sorted(seen) == [1, 2]


def listen(session: Session, processor: BackgroundEventProcessor) -> None:
    """A host's hook that publishes while COMMIT flushes."""

    def publish(flushed: Session, _context: Any) -> None:
        processor.publish_in(flushed, Happened(2))

    sqlalchemy_event.listen(session, "after_flush", publish)


async def test_a_session_on_a_connection_with_an_outer_transaction(sqlite_engine: Engine) -> None:
    store = SqlAlchemyEventStore(sqlite_engine)
    store.create_schema()
    seen: list[int] = []
    with BackgroundEventProcessor(store, routers=[noting(seen)], consume=False) as processor:

        def publish(connection: Connection, number: int) -> None:
            with Session(connection, join_transaction_mode="create_savepoint") as session:
                processor.publish_in(session, Happened(number))
                session.commit()

        with sqlite_engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            publish(connection, 1)
            connection.rollback()
        with sqlite_engine.begin() as connection:
            connection.exec_driver_sql("BEGIN")
            publish(connection, 2)
        await asyncio.to_thread(processor.run_until_idle)
    assert seen == [2]


# -- handlers with a session


def with_session(host: Host, body: Callable[[int, Any, DeliveryContext], object]) -> EventRouter:
    """A handler that works in the store's session, sync or async as the host is."""
    router = EventRouter()
    if host.is_async:

        @router.subscribe(Happened, name="works")
        async def works_async(happened: Happened, session: AsyncSession, context: DeliveryContext) -> object:
            return await settled(body(happened.number, session, context))
    else:

        @router.subscribe(Happened, name="works")
        def works(happened: Happened, session: Session, context: DeliveryContext) -> object:
            return body(happened.number, session, context)

    return router


async def test_work_and_acknowledgement_are_one_transaction(sql_host: Host) -> None:
    def body(number: int, session: Any, context: DeliveryContext) -> None:
        session.add(Note(number=number))
        if context.attempt == 1:
            raise OSError("after the work")

    router = with_session(sql_host, body)
    processor = await sql_host.started(router, consume=False)
    await settled(processor.publish(Happened(1)))
    if not only_sql(sql_host):
        with pytest.raises(SessionMismatchError, match="works"):
            await sql_host.run_until_idle(processor)
        return
    report = await sql_host.run_until_idle(processor)
    assert (report.completed, report.retried, await numbers(sql_host)) == (1, 1, [1])


@pytest.mark.parametrize("is_rolled_back_by", ["a commit of its own", "a wish for later"])
async def test_what_a_handler_may_not_or_does_not_want_to_keep_is_undone(
    sql_host: Host, is_rolled_back_by: str
) -> None:
    if not only_sql(sql_host):
        return

    def body(number: int, session: Any, context: DeliveryContext) -> object:
        session.add(Note(number=number))
        if context.attempt > 1:
            return None
        return session.commit() if is_rolled_back_by == "a commit of its own" else RetryLater(0)

    processor = await sql_host.started(with_session(sql_host, body), consume=False)
    await settled(processor.publish(Happened(1)))
    report = await sql_host.run_until_idle(processor)
    assert (report.completed, report.retried, await numbers(sql_host)) == (1, 1, [1])


async def test_the_error_of_a_handlers_own_commit_says_what_to_do(sql_host: Host) -> None:
    if not only_sql(sql_host):
        return
    router = with_session(sql_host, lambda number, session, context: session.commit())
    processor = await sql_host.started(router, consume=False, max_attempts=1)
    await settled(processor.publish(Happened(1)))
    with pytest.raises(HandlerCommitError, match="leave that to the processor"):
        await sql_host.run_until_idle(processor)


def _in_a_with(session: Session) -> None:
    with session:
        pass


def _past_a_savepoint(session: Session) -> None:
    transaction = session.get_transaction()
    session.begin_nested()
    assert transaction is not None
    transaction.commit()


ENDINGS: dict[str, Callable[[Session], object]] = {
    "a commit of the connection": lambda session: session.connection().commit(),
    "a commit past a savepoint": _past_a_savepoint,
    "a statement": lambda session: session.execute(text("/* by hand */ commit")),
    "closing": lambda session: session.close(),
    "leaving a with": _in_a_with,
    "throwing the connection away": lambda session: session.invalidate(),
}


def ending(host: Host, end: Callable[[Session], object]) -> EventRouter:
    """A handler that works, and at its first attempt ends the transaction."""

    def body(number: int, session: Any, context: DeliveryContext) -> Any:
        session.add(Note(number=number))
        return session.run_sync(act, context) if host.is_async else act(session, context)

    def act(session: Session, context: DeliveryContext) -> None:
        session.flush()
        if context.attempt == 1:
            end(session)

    return with_session(host, body)


@pytest.mark.parametrize("how", ENDINGS)
async def test_however_a_handler_ends_its_transaction_the_work_is_there_once(sql_host: Host, how: str) -> None:
    if not only_sql(sql_host):
        return
    processor = await sql_host.started(ending(sql_host, ENDINGS[how]), consume=False)
    await settled(processor.publish(Happened(1)))
    report = await sql_host.run_until_idle(processor)
    assert (report.completed, report.retried, await numbers(sql_host)) == (1, 1, [1])


@pytest.mark.parametrize("how", ENDINGS)
async def test_a_handler_that_ended_its_transaction_is_told_even_if_it_does_not_listen(
    sql_host: Host, how: str
) -> None:
    if not only_sql(sql_host):
        return

    def end(session: Session) -> None:
        with suppress(HandlerCommitError):
            ENDINGS[how](session)

    processor = await sql_host.started(ending(sql_host, end), consume=False, max_attempts=1)
    await settled(processor.publish(Happened(1)))
    report = await sql_host.run_until_idle(processor, raise_dead=False)
    letters = list((await settled(processor.dead_letters.list())).items)
    assert all("leave that to the processor" in each.error for each in letters)
    assert (report.completed, len(letters)) == ((1, 0) if await numbers(sql_host) == [1] else (0, 1))


async def test_what_a_handler_does_after_a_rollback_of_its_own_is_there_once(sql_host: Host) -> None:
    if not only_sql(sql_host):
        return

    def body(number: int, session: Any, context: DeliveryContext) -> Any:
        return session.run_sync(act, context) if sql_host.is_async else act(session, context)

    def act(session: Session, context: DeliveryContext) -> None:
        session.add(Note(number=-1))
        context.publish_in(session, Followed(-1))
        session.flush()
        session.rollback()
        session.add(Note(number=context.attempt))
        context.publish_in(session, Followed(context.attempt))
        if context.attempt == 1:
            raise OSError("after the work")

    router, seen = with_session(sql_host, body), list[int]()

    @router.subscribe(Followed)
    def follow(followed: Followed) -> None:
        seen.append(followed.number)

    processor = await sql_host.started(router, consume=False)
    await settled(processor.publish(Happened(1)))
    report = await sql_host.run_until_idle(processor)
    assert (report.completed, report.retried) == (2, 1)
    assert (await numbers(sql_host), seen) == ([2], [2])


@pytest.mark.parametrize("is_in_savepoint", [True, False])
async def test_a_handler_that_goes_on_after_a_refused_row_is_done_once_or_fails(
    sql_host: Host, is_in_savepoint: bool
) -> None:
    """PostgreSQL undoes all of a transaction that something failed in, but for a savepoint; SQLite does not."""
    if not only_sql(sql_host):
        return

    def body(number: int, session: Any, context: DeliveryContext) -> Any:
        return session.run_sync(act, number) if sql_host.is_async else act(session, number)

    def act(session: Session, number: int) -> None:
        insert = text("INSERT INTO note (id, number) VALUES (1, :number)")
        session.execute(insert, {"number": number})
        with suppress(IntegrityError), session.begin_nested() if is_in_savepoint else nullcontext():
            session.execute(insert, {"number": -1})

    processor = await sql_host.started(with_session(sql_host, body), consume=False, max_attempts=1)
    await settled(processor.publish(Happened(1)))
    report = await sql_host.run_until_idle(processor, raise_dead=False)
    is_done = is_in_savepoint or sql_host.engine.dialect.name == "sqlite"
    assert (report.completed, len(report.dead)) == ((1, 0) if is_done else (0, 1))
    assert await numbers(sql_host) == ([1] if is_done else [])


async def test_a_handlers_session_has_a_transaction_whatever_the_engine_says(sql_host: Host) -> None:
    if not only_sql(sql_host):
        return
    options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"}
    make: Any = create_async_engine if sql_host.is_async else create_engine
    engine = make(sql_host.engine.url, **options)

    def body(number: int, session: Any, context: DeliveryContext) -> Any:
        return session.run_sync(act, context) if sql_host.is_async else act(session, context)

    def act(session: Session, context: DeliveryContext) -> None:
        session.rollback()
        session.add(Note(number=context.attempt))
        session.flush()
        if context.attempt == 1:
            raise OSError("after the work")

    store = SqlAlchemyEventStore(engine)
    kind: Any = AsyncBackgroundEventProcessor if sql_host.is_async else BackgroundEventProcessor
    processor = kind(store, routers=[with_session(sql_host, body)], consume=False)
    await settled(processor.publish(Happened(1)))
    report = await sql_host.run_until_idle(processor)
    assert (report.completed, report.retried, await numbers(sql_host)) == (1, 1, [2])
    await settled(processor.stop())
    await settled(engine.dispose())


async def test_savepoints_are_the_handlers_to_use(sql_host: Host) -> None:
    if not only_sql(sql_host):
        return

    def body(number: int, session: Any, context: DeliveryContext) -> Any:
        if sql_host.is_async:
            return body_async(number, session)
        with session.begin_nested():
            session.add(Note(number=number))
        return None

    async def body_async(number: int, session: AsyncSession) -> None:
        async with session.begin_nested():
            session.add(Note(number=number))

    processor = await sql_host.started(with_session(sql_host, body), consume=False)
    await settled(processor.publish(Happened(1)))
    assert (await sql_host.run_until_idle(processor)).completed == 1
    assert await numbers(sql_host) == [1]


async def test_follow_up_events_belong_to_the_handlers_transaction(sql_host: Host) -> None:
    if not only_sql(sql_host):
        return

    def body(number: int, session: Any, context: DeliveryContext) -> None:
        context.publish_in(session, Followed(number))
        if context.attempt == 1:
            raise OSError("after publishing")

    router, seen = with_session(sql_host, body), list[int]()

    @router.subscribe(Followed)
    def follow(followed: Followed) -> None:
        seen.append(followed.number)

    processor = await sql_host.started(router, consume=False)
    await settled(processor.publish(Happened(7)))
    await sql_host.run_until_idle(processor)
    assert seen == [7]


async def test_work_of_a_worker_that_was_taken_for_dead_is_rolled_back(sql_host: Host) -> None:
    """The delivery is taken over while the handler runs: what the late one did must not stay."""
    if not only_sql(sql_host):
        return
    ran: list[int] = []

    def body(number: int, session: Any, context: DeliveryContext) -> Any:
        ran.append(number)
        session.add(Note(number=number))
        if sql_host.is_async:
            return steal_and_stay(session)
        session.execute(text("UPDATE araponga_deliveries SET owner = 'thief', claims = claims + 1"))
        return None

    async def steal_and_stay(session: AsyncSession) -> None:
        await session.execute(text("UPDATE araponga_deliveries SET owner = 'thief', claims = claims + 1"))

    processor = await sql_host.started(with_session(sql_host, body), consume=False, max_attempts=1)
    await settled(processor.publish(Happened(1)))
    report = await sql_host.run_until_idle(processor, raise_dead=False)
    assert ran == [1]
    assert report.completed == 0
    assert await numbers(sql_host) == []


async def test_a_mismatch_of_session_and_engine_is_refused_when_a_consumer_starts(host: Host) -> None:
    router = EventRouter()
    if host.is_async:

        @router.subscribe(Happened)
        def plain(happened: Happened, session: Session) -> None: ...
    else:

        @router.subscribe(Happened)
        async def asynchronous(happened: Happened, session: AsyncSession) -> None: ...

    await host.started(router, consume=False)
    processor = host.make(router)
    with pytest.raises(SessionMismatchError, match=r"plain|asynchronous"):
        await settled(processor.start())


async def test_stores_without_sessions_say_so() -> None:
    router = EventRouter()

    @router.subscribe(Happened)
    def works(happened: Happened, session: Session) -> None: ...

    with pytest.raises(SessionMismatchError, match="SqlAlchemyEventStore"):
        BackgroundEventProcessor(InMemoryEventStore(), routers=[router]).start()
