"""What cannot work is refused at the call, with a message that names the next step."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from araponga_infra.errors import InvalidArgumentError, NotConfiguredError
from araponga_infra.events import (
    AsyncBackgroundEventProcessor,
    AsyncInMemoryEventBus,
    BackgroundEventProcessor,
    EventRouter,
    GiveUp,
    InMemoryEventBus,
    InMemoryEventStore,
    ProcessorStateError,
    RetryLater,
    SqlAlchemyEventStore,
    event,
)
from tests.events.hosts import Happened, Host, settled

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


# -- declaring


@pytest.mark.parametrize("name", ["a b", "\n", "x\n", "\ud800", "x" * 201, 3])
def test_names_that_stores_and_logs_cannot_carry_are_refused(name: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="name="):
        event(name)
    with pytest.raises(InvalidArgumentError, match="name="):
        EventRouter().subscribe(Happened, name=name)(lambda happened: None)
    with pytest.raises(InvalidArgumentError, match="prefix="):
        EventRouter(prefix=name)


def test_a_version_no_column_holds_is_refused() -> None:
    event("tests.late", version=2**31 - 1)
    with pytest.raises(InvalidArgumentError, match="version="):
        event("tests.later", version=2**31)


@pytest.mark.parametrize("aliases", [3, None])
def test_aliases_are_several_names(aliases: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="aliases="):
        EventRouter().subscribe(Happened, name="noted", aliases=aliases)(lambda happened: None)


@pytest.mark.parametrize("taker", [EventRouter, BackgroundEventProcessor, InMemoryEventBus])
def test_only_routers_are_included(taker: Callable[[], Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="router is a int"):
        taker().include(3)


def test_a_router_is_not_included_in_itself() -> None:
    router = subscribed()
    with pytest.raises(InvalidArgumentError, match="itself"):
        router.include(router)


@pytest.mark.parametrize("routers", [None, 3, EventRouter(), [3]])
@pytest.mark.parametrize("kind", [BackgroundEventProcessor, InMemoryEventBus])
def test_routers_are_several(kind: Any, routers: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="router"):
        kind(routers=routers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"store": InMemoryEventStore}, "store is the class InMemoryEventStore"),
        ({"backoff": 3}, "backoff=3"),
        ({"inject_headers": 3}, "inject_headers=3"),
        ({"idempotency_window": timedelta.max}, "idempotency_window"),
    ],
)
def test_options_of_processors_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        BackgroundEventProcessor(**options)


@pytest.mark.parametrize("schema", [3, ""])
def test_a_schema_is_a_name(sqlite_engine: Engine, schema: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="schema="):
        SqlAlchemyEventStore(sqlite_engine, schema=schema)


@pytest.mark.parametrize("reason", ["", " ", None])
def test_giving_up_has_a_reason(reason: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="reason="):
        GiveUp(reason)


def test_later_is_within_a_century() -> None:
    with pytest.raises(InvalidArgumentError, match="century"):
        RetryLater(1e300)


# -- publishing


async def test_publishing_what_no_store_can_write_is_refused(host: Host) -> None:
    processor = await host.started(consume=False)
    options: tuple[tuple[dict[str, Any], str], ...] = (
        ({"headers": "x"}, "headers is a str"),
        ({"headers": ""}, "headers is a str"),
        ({"headers": 3}, "headers is a int"),
        ({"headers": {"a": "\ud800"}}, "headers"),
        ({"headers": {"\ud800": "a"}}, "headers"),
        ({"idempotency_key": "\ud800"}, "idempotency_key"),
        ({"delay": timedelta.max}, "delay"),
        ({"delay": 1e300}, "delay"),
    )
    for option, message in options:
        with pytest.raises(InvalidArgumentError, match=message):
            await settled(processor.publish(Happened(1), **option))
    for events in (None, 3, Happened(1)):
        with pytest.raises(InvalidArgumentError, match="events is a"):
            await settled(processor.publish_many(events))


@pytest.mark.parametrize("kind", [InMemoryEventBus, AsyncInMemoryEventBus])
@pytest.mark.parametrize("events", [None, 3, Happened(1)])
async def test_a_bus_wants_several_events_as_well(kind: Any, events: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="events is a"):
        await settled(kind().publish_many(events))


def test_injected_headers_are_texts_too() -> None:
    wrong: Any = lambda: {"trace": 1}  # noqa: E731
    processor = BackgroundEventProcessor(inject_headers=wrong)
    with pytest.raises(InvalidArgumentError, match="headers"):
        processor.publish(Happened(1))


def test_a_session_of_another_database_is_refused_at_the_call(sqlite_engine: Engine, tmp_path: Path) -> None:
    store = SqlAlchemyEventStore(sqlite_engine)
    store.create_schema()
    processor = BackgroundEventProcessor(store)
    with Session() as unbound, pytest.raises(InvalidArgumentError, match="no engine"):
        processor.publish_in(unbound, Happened(1))
    for url in (f"sqlite:///{tmp_path / 'other.db'}", "sqlite://", "postgresql+psycopg://localhost/x"):
        with Session(create_engine(url)) as other, pytest.raises(InvalidArgumentError, match="another database"):
            processor.publish_in(other, Happened(1))
    second = create_engine(sqlite_engine.url)
    with Session(second) as same, same.begin():
        processor.publish_in(same, Happened(1))
    second.dispose()
    assert processor.stats().dead == 1


def test_a_pooler_may_stand_before_the_stores_database() -> None:
    store = SqlAlchemyEventStore(create_engine("postgresql+psycopg://localhost:5432/app"))
    processor = BackgroundEventProcessor(store)
    with Session(create_engine("postgresql+psycopg://pooler:6432/app_pool")) as pooled:
        processor.publish_in(pooled, Happened(1))
    other_engine = create_engine("postgresql+psycopg://localhost:5432/other")
    with Session(other_engine) as other, pytest.raises(InvalidArgumentError, match="another database"):
        processor.publish_in(other, Happened(1))


# -- dead letters


async def test_what_names_no_dead_letter_is_refused(host: Host) -> None:
    letters = (await host.started(consume=False)).dead_letters
    for after in ("garbage", "", "9" * 30, 3):
        with pytest.raises(InvalidArgumentError, match="after="):
            await settled(letters.list(after=after))
    for call in (letters.get, letters.redrive, letters.discard):
        for id in (None, 3):
            with pytest.raises(InvalidArgumentError, match="id is a"):
                await settled(call(id))
        for absent in ("9" * 30, "garbage", "\ud800", "\0", "", "-1", "1e3"):
            with pytest.raises(LookupError):
                await settled(call(id=absent))
    filters: tuple[tuple[dict[str, Any], str], ...] = (
        ({"reason": "bogus"}, "gave_up"),
        ({"event": Happened}, "event"),
        ({"handler": 3}, "handler"),
        ({"handler": "\ud800"}, "handler"),
    )
    for wanted, message in filters:
        for call in (letters.list, letters.redrive_all):
            with pytest.raises(InvalidArgumentError, match=message):
                await settled(call(**wanted))
        with pytest.raises(InvalidArgumentError, match=message):
            await settled(letters.purge(1, **wanted))


# -- closing


async def test_closing_a_processor_stops_it(host: Host) -> None:
    processor = await host.started(consume=False)
    await settled(processor.aclose() if host.is_async else processor.close())
    with pytest.raises(ProcessorStateError, match="has been stopped"):
        await settled(processor.publish(Happened(1)))
    with pytest.raises(ProcessorStateError, match="has been stopped"):
        await settled(processor.publish_many([Happened(1)]))
