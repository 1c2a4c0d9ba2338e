"""The store goes away and comes back: publishing says so, and processing resumes by itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import pytest
import redis
import redis.asyncio
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from araponga_infra.events import (
    BackgroundEventProcessor,
    EventRouter,
    RedisStreamEventStore,
    SqlAlchemyEventStore,
)
from araponga_infra.events.protocols import AsyncEventStore
from araponga_infra.events.values import Message, Subscription, Want
from araponga_infra.telemetry import Record
from araponga_infra.testing.events import awaitable_store
from tests.events.hosts import Happened, Host, eventually, resumed, settled
from tests.servers.redis_server import RedisOptions

pytestmark = pytest.mark.anyio

DELAY_SECONDS = 2.0


class Records:
    def __init__(self) -> None:
        self.names: list[str] = []

    def observe(self, record: Record) -> None:
        self.names.append(record.name)


@pytest.fixture(params=["postgres-sync", "postgres-async", "redis-sync", "redis-async"])
async def far(request: pytest.FixtureRequest, tcp_proxy: Any) -> AsyncIterator[tuple[Host, Any]]:
    """A host whose only way to its store is a proxy."""
    database, kind = request.param.split("-")
    is_async = kind == "async"
    async with AsyncExitStack() as stack:
        if database == "redis":
            server = request.getfixturevalue("redis_server")
            server.flush()
            proxy = tcp_proxy(server.port)
            kind_of_client: Any = redis.asyncio.Redis if is_async else redis.Redis
            client = kind_of_client.from_url(
                server.url(port=proxy.port), socket_timeout=1.0, socket_connect_timeout=1.0
            )
            yield Host(RedisStreamEventStore(client), is_async=is_async, engine=None, stack=stack), proxy
            proxy.restore()
            await stack.aclose()
            await settled(client.aclose() if is_async else client.close())
            return
        database = request.getfixturevalue("postgres_database")
        proxy = tcp_proxy(database.server.port)
        url = database.url("asyncpg" if is_async else "psycopg", port=proxy.port)
        engine: Any = (
            create_async_engine(url, connect_args={"timeout": 1})
            if is_async
            else create_engine(url, connect_args={"connect_timeout": 2})
        )
        source = SqlAlchemyEventStore(engine)
        await settled(source.create_schema())
        yield Host(source, is_async=is_async, engine=engine, stack=stack), proxy
        proxy.restore()
        await stack.aclose()
        await settled(engine.dispose())


def noting(seen: list[int]) -> EventRouter:
    router = EventRouter()

    @router.subscribe(Happened)
    async def note(happened: Happened) -> None:
        seen.append(happened.number)

    return router


@pytest.fixture(params=["postgres-psycopg", "postgres-psycopg-async", "postgres-asyncpg-async", "redis", "redis-async"])
async def patient(request: pytest.FixtureRequest, tcp_proxy: Any) -> AsyncIterator[tuple[Host, Any, Any]]:
    """A host that waits for ever and whose only way to its store is a proxy; and a publisher that is near the store."""
    database, *kind = request.param.split("-")
    is_async = "async" in kind
    async with AsyncExitStack() as stack:
        if database == "redis":
            server = request.getfixturevalue("redis_server")
            server.flush()
            proxy = tcp_proxy(server.port)
            far: Any = (redis.asyncio.Redis if is_async else redis.Redis).from_url(
                server.url(port=proxy.port), socket_timeout=None, socket_connect_timeout=None
            )
            near: Any = redis.Redis.from_url(server.url())
            sources: Any = RedisStreamEventStore(far), RedisStreamEventStore(near)
            ends = (far.aclose if is_async else far.close), near.close
        else:
            on = request.getfixturevalue("postgres_database")
            proxy = tcp_proxy(on.server.port)
            far = (create_async_engine if is_async else create_engine)(on.url(kind[0], port=proxy.port))
            near = create_engine(on.url("psycopg"))
            sources = SqlAlchemyEventStore(far), SqlAlchemyEventStore(near)
            sources[1].create_schema()
            ends = far.dispose, near.dispose
        publisher = BackgroundEventProcessor(sources[1], consume=False)
        publisher.start()
        yield Host(sources[0], is_async=is_async, engine=None, stack=stack), proxy, publisher
        proxy.restore()
        await stack.aclose()
        publisher.stop()
        for end in ends:
            await settled(end())


FAULTS: dict[str, tuple[str, dict[str, bool]]] = {
    "cut": ("cut", {}),
    "connections that are reset": ("black_hole", {}),
    "connections that stay silent": ("black_hole", {"silently": True}),
    "packets that arrive late": ("stall", {}),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_worker_whose_driver_waits_for_ever_resumes_when_the_network_is_back(
    patient: tuple[Host, Any, Any], fault: str
) -> None:
    host, proxy, publisher = patient
    seen, records = list[int](), Records()
    await host.started(noting(seen), poll_interval=0.1, observer=records)
    publisher.publish(Happened(1))
    await eventually(lambda: seen == [1])
    break_it, how_it_heals = FAULTS[fault]
    getattr(proxy, break_it)()
    await eventually(lambda: "events.store_unavailable" in records.names)
    publisher.publish(Happened(2))
    await asyncio.sleep(1)
    proxy.restore(**how_it_heals)
    publisher.publish(Happened(3))
    await resumed(lambda: {2, 3} <= set(seen))
    await eventually(lambda: is_empty(publisher))
    assert sorted(seen) == [1, 2, 3]


async def test_a_worker_resumes_after_a_moment_that_left_its_connections_dead(patient: tuple[Host, Any, Any]) -> None:
    host, proxy, publisher = patient
    seen = list[int]()
    await host.started(noting(seen), poll_interval=0.1)
    publisher.publish(Happened(1))
    await eventually(lambda: seen == [1])
    # The worker asks every tenth of a second, its lease is extended every half.
    proxy.black_hole()
    await asyncio.sleep(0.6)
    proxy.restore(silently=True)
    publisher.publish(Happened(2))
    await resumed(lambda: seen == [1, 2])


async def test_a_worker_that_only_listens_hears_again_when_its_connection_has_died_without_a_word(
    patient: tuple[Host, Any, Any],
) -> None:
    host, proxy, publisher = patient
    seen = list[int]()
    worker = await host.started(noting(seen), poll_interval=3600.0)
    publisher.publish(Happened(1))
    await eventually(lambda: seen == [1])
    await eventually(lambda: worker._running._feed.is_dry)
    proxy.black_hole()
    await asyncio.sleep(2)
    proxy.restore(silently=True)
    publisher.publish(Happened(2))
    await resumed(lambda: seen == [1, 2])


async def test_what_is_claimed_after_it_was_given_up_is_given_back(patient: tuple[Host, Any, Any]) -> None:
    """A claim that the network or the server kept back, done when the worker has long been working again."""
    host, proxy, publisher = patient
    seen, records = list[int](), Records()
    worker = await host.started(noting(seen), poll_interval=0.1, observer=records)
    proxy.cut()
    await eventually(lambda: "events.store_unavailable" in records.names)
    proxy.restore()
    await eventually(lambda: "events.store_recovered" in records.names)
    publisher.publish(Happened(1), delay=2.0)
    late = publisher._opened().exchange(worker._running._feed.owner, [], [], [Want("note", 1)], ignore_due=True)
    assert len(late.deliveries) == 1
    await eventually(lambda: seen == [1])


async def test_a_worker_that_lost_its_lease_in_an_outage_acknowledges_nothing_of_anothers(
    patient: tuple[Host, Any, Any],
) -> None:
    host, proxy, publisher = patient
    gates = threading.Event(), threading.Event()
    runs, records = list[int](), Records()

    def router_of(number: int) -> EventRouter:
        router = EventRouter()

        @router.subscribe(Happened)
        def slow(_: Happened) -> None:
            runs.append(number)
            gates[number].wait(30)

        return router

    await host.started(router_of(0), poll_interval=0.1, lease=0.5, observer=records)
    publisher.publish(Happened(1))
    await eventually(lambda: runs == [0])
    proxy.black_hole()
    with BackgroundEventProcessor(publisher._source, routers=[router_of(1)], poll_interval=0.1, lease=0.5):
        await eventually(lambda: runs == [0, 1])
        proxy.restore(silently=True)
        gates[0].set()
        await eventually(lambda: "events.fenced" in records.names)
        assert publisher.stats().running == 1
        gates[1].set()
        await eventually(lambda: is_empty(publisher))
    assert runs == [0, 1]


async def test_a_worker_stops_while_its_store_is_silent(patient: tuple[Host, Any, Any]) -> None:
    host, proxy, _ = patient
    records = Records()
    worker = await host.started(noting([]), poll_interval=0.1, observer=records)
    proxy.black_hole()
    await eventually(lambda: "events.store_unavailable" in records.names)
    await asyncio.wait_for(host.stop(worker, 0.5), 20)


async def test_a_worker_that_stops_before_its_store_is_back_leaves_nothing_running(
    patient: tuple[Host, Any, Any],
) -> None:
    """Though it could not say what was done meanwhile: that is run again, by whoever is there then."""
    host, proxy, publisher = patient
    router, records, begun, may_end = EventRouter(), Records(), threading.Event(), threading.Event()

    @router.subscribe(Happened)
    def runs_through_it(happened: Happened) -> None:
        begun.set()
        may_end.wait(20)

    worker = await host.started(router, poll_interval=0.1, observer=records)
    publisher.publish(Happened(1))
    await eventually(begun.is_set)
    proxy.cut()
    await eventually(lambda: "events.store_unavailable" in records.names)
    may_end.set()
    await eventually(lambda: "events.completed" in records.names)
    await asyncio.wait_for(host.stop(worker, 0.5), 20)
    await eventually(lambda: "araponga-events-fetch" not in names_of_what_runs())


def names_of_what_runs() -> set[str]:
    return {each.name for each in threading.enumerate()} | {each.get_name() for each in asyncio.all_tasks()}


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_emptied_redis_delivers_what_is_published_at_once(is_async: bool, start_redis: Any) -> None:
    """By a process that knows no handler, before the worker has noticed; also to a handler that came after it."""
    server = start_redis(RedisOptions())
    kind_of_client: Any = redis.asyncio.Redis if is_async else redis.Redis
    client = kind_of_client.from_url(server.url())
    seen, added = list[int](), list[int]()
    later = EventRouter()
    later.subscribe(Happened, name="later")(lambda happened: added.append(happened.number))
    async with AsyncExitStack() as stack:
        host = Host(RedisStreamEventStore(client), is_async=is_async, engine=None, stack=stack)
        await host.started(noting(seen))
        web = await host.started(consume=False)
        await host.started(later)
        await settled(web.publish(Happened(1)))
        await eventually(lambda: seen == added == [1])
        server.kill()
        server.start()
        await publish_when_it_can(web, 2)
        await resumed(lambda: seen == added == [1, 2])
        assert not (await settled(web.stats())).dead
    await settled(client.aclose() if is_async else client.close())


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_emptied_redis_gets_back_what_each_process_knows(is_async: bool, redis_url: str) -> None:
    """Whoever comes first may not know them all."""
    kind_of_client: Any = redis.asyncio.Redis if is_async else redis.Redis
    client = kind_of_client.from_url(redis_url)

    def opened() -> AsyncEventStore:
        source = RedisStreamEventStore(client)
        return source.async_store() if is_async else awaitable_store(source.sync_store())

    mail, index, web = opened(), opened(), opened()
    await mail.register([Subscription("mail", "e")])
    await index.register([Subscription("index", "e")])
    assert (await web.append([Message(uuid4(), "e", 1, b"{}")])).deliveries == 2
    await settled(client.flushdb())
    await mail.register([Subscription("mail", "e")])
    assert (await web.append([Message(uuid4(), "e", 1, b"{}")])).deliveries == 2
    await settled(client.flushdb())
    await web.append([Message(uuid4(), "e", 1, b"{}")])
    await mail.forget("mail")
    assert (await web.append([Message(uuid4(), "e", 1, b"{}")])).deliveries == 1
    await settled(client.aclose() if is_async else client.close())


@pytest.mark.parametrize("fault", ["cut", "black_hole"])
async def test_processing_resumes_when_the_store_is_back(far: tuple[Host, Any], fault: str) -> None:
    host, proxy = far
    seen, records = list[int](), Records()
    processor = await host.started(noting(seen), poll_interval=0.1, observer=records)
    await settled(processor.publish(Happened(1)))
    await eventually(lambda: seen == [1])
    due_during_the_outage = await publish_for_later(processor, 2)
    getattr(proxy, fault)()
    await eventually(lambda: "events.store_unavailable" in records.names, seconds=30)
    await due_during_the_outage()
    proxy.restore()
    await resumed(lambda: 2 in seen)
    assert "events.store_recovered" in records.names
    await publish_when_it_can(processor, 3)
    await eventually(lambda: 3 in seen)


async def publish_for_later(processor: Any, number: int) -> Callable[[], Awaitable[None]]:
    """Returns what waits until it is due."""
    due_at = time.monotonic() + DELAY_SECONDS
    await settled(processor.publish(Happened(number), delay=DELAY_SECONDS))
    return lambda: asyncio.sleep(max(0.0, due_at - time.monotonic()))


async def publish_when_it_can(processor: Any, number: int) -> None:
    """The connections of the host's own pool may be broken still when the store is back: publishing says so."""

    async def is_published() -> bool:
        try:
            await settled(processor.publish(Happened(number)))
        except Exception:
            return False
        return True

    await eventually(is_published, seconds=30)


async def test_processing_resumes_after_a_restart_of_the_store(
    far: tuple[Host, Any], request: pytest.FixtureRequest
) -> None:
    """Killed and started again. PostgreSQL has everything; a Redis without persistence has nothing, not even the
    subscriptions: these are recorded again."""
    host, _ = far
    is_redis = isinstance(host.source, RedisStreamEventStore)
    server = request.getfixturevalue("redis_server" if is_redis else "postgres")
    seen, records = list[int](), Records()
    processor = await host.started(noting(seen), poll_interval=0.1, observer=records)
    await settled(processor.publish(Happened(1)))
    await eventually(lambda: seen == [1])
    due_during_the_outage = await publish_for_later(processor, 2)
    server.kill()
    with pytest.raises(Exception, match=r"."):
        await settled(processor.publish(Happened(3)))
    await eventually(lambda: "events.store_unavailable" in records.names, seconds=30)
    await due_during_the_outage()
    server.start()
    if not is_redis:
        await resumed(lambda: 2 in seen)
    await publish_when_it_can(processor, 4)
    await resumed(lambda: 4 in seen)
    await eventually(lambda: "events.store_recovered" in records.names)


async def knows_the_handler(processor: Any) -> bool:
    try:
        stats = await settled(processor.stats())
    except Exception:
        return False
    return any(each.handler == "note" for each in stats.handlers)


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_redis_with_persistence_keeps_what_waited_through_its_restart(is_async: bool, start_redis: Any) -> None:
    server = start_redis(RedisOptions(persistent=True))
    seen, records = list[int](), Records()
    kind_of_client: Any = redis.asyncio.Redis if is_async else redis.Redis
    client = kind_of_client.from_url(server.url(), socket_timeout=1.0, socket_connect_timeout=1.0)
    async with AsyncExitStack() as stack:
        host = Host(RedisStreamEventStore(client), is_async=is_async, engine=None, stack=stack)
        web = await host.started(noting([]), consume=False)
        await settled(web.publish(Happened(1)))
        await settled(web.publish(Happened(2), delay=0.5))
        server.kill()
        server.start()
        await eventually(lambda: knows_the_handler(web))
        processor = await host.started(noting(seen), poll_interval=0.1, observer=records)
        await eventually(lambda: sorted(seen) == [1, 2])
        due_during_the_outage = await publish_for_later(processor, 3)
        server.kill()
        await eventually(lambda: "events.store_unavailable" in records.names, seconds=30)
        await due_during_the_outage()
        server.start()
        await resumed(lambda: 3 in seen)
        await publish_when_it_can(processor, 4)
        await eventually(lambda: 4 in seen)
    await settled(client.aclose() if is_async else client.close())


@pytest.mark.parametrize("is_async", [False, True])
async def test_processing_resumes_on_the_promoted_standby(
    is_async: bool, replicated_database: Any, postgres_pair: Any, tcp_proxy: Any
) -> None:
    """One address, as of a pooler or a cloud's endpoint, behind which another server takes over: also what waits."""
    primary, standby = replicated_database.primary, replicated_database.standby
    proxy = tcp_proxy(primary.server.port)
    url = primary.url("asyncpg" if is_async else "psycopg", port=proxy.port)
    engine: Any = (
        create_async_engine(url, connect_args={"timeout": 1})
        if is_async
        else create_engine(url, connect_args={"connect_timeout": 2})
    )
    source = SqlAlchemyEventStore(engine)
    await settled(source.create_schema())
    seen, records, gate = list[int](), Records(), threading.Event()
    router = EventRouter()

    @router.subscribe(Happened)
    def waits(happened: Happened) -> None:
        if happened.number == 1:
            gate.wait(30)
        seen.append(happened.number)

    async with AsyncExitStack() as stack:
        host = Host(source, is_async=is_async, engine=engine, stack=stack)
        # What waits may be taken up once more meanwhile: its lease runs out with the primary.
        processor = await host.started(router, poll_interval=0.1, observer=records, max_concurrency=3)
        await settled(processor.publish(Happened(1)))
        due_during_the_outage = await publish_for_later(processor, 2)
        postgres_pair.wait_for_catch_up()
        primary.server.kill()
        await eventually(lambda: "events.store_unavailable" in records.names, seconds=30)
        await due_during_the_outage()
        standby.server.promote()
        proxy.target = ("127.0.0.1", standby.server.port)
        await resumed(lambda: 2 in seen)
        await publish_when_it_can(processor, 3)
        await eventually(lambda: 3 in seen)
        gate.set()
        await eventually(lambda: {1, 2, 3} == set(seen))
        await eventually(lambda: is_empty(processor))
    await settled(engine.dispose())


async def is_empty(processor: Any) -> bool:
    try:
        stats = await settled(processor.stats())
    except Exception:
        return False
    return not (stats.queued or stats.running or stats.retrying or stats.dead)


async def test_publishing_says_that_the_store_is_away(far: tuple[Host, Any]) -> None:
    host, proxy = far
    processor = await host.started(noting([]), consume=False)
    proxy.cut()
    with pytest.raises(Exception, match=r".") as caught:
        await settled(processor.publish(Happened(1)))
    assert not isinstance(caught.value, AssertionError)


@pytest.mark.parametrize("store", ["redis", "redis-async", "postgres-async"])
async def test_publishing_into_a_black_hole_ends_by_the_limits_of_the_hosts_driver(
    store: str, request: pytest.FixtureRequest, tcp_proxy: Any
) -> None:
    is_async = "async" in store
    errors: type[Exception] = TimeoutError
    if "redis" in store:
        server = request.getfixturevalue("redis_server")
        server.flush()
        proxy = tcp_proxy(server.port)
        kind_of_client: Any = redis.asyncio.Redis if is_async else redis.Redis
        client: Any = kind_of_client.from_url(server.url(port=proxy.port), socket_timeout=0.5)
        source: Any = RedisStreamEventStore(client)
        end, errors = (client.aclose if is_async else client.close), redis.TimeoutError
    else:
        database = request.getfixturevalue("postgres_database")
        proxy = tcp_proxy(database.server.port)
        limits = {"timeout": 0.5, "command_timeout": 0.5}
        client = create_async_engine(database.url("asyncpg", port=proxy.port), connect_args=limits)
        source, end = SqlAlchemyEventStore(client), client.dispose
        await source.create_schema()
    async with AsyncExitStack() as stack:
        host = Host(source, is_async=is_async, engine=None, stack=stack)
        processor = await host.started(noting([]), consume=False)
        proxy.black_hole()
        with pytest.raises(errors):
            await settled(processor.publish(Happened(1)))
        proxy.restore()
    await settled(end())


async def test_handlers_that_run_through_an_outage_are_acknowledged_after_it(far: tuple[Host, Any]) -> None:
    host, proxy = far
    router, runs, gate = EventRouter(), list[int](), threading.Event()

    @router.subscribe(Happened)
    def slow(happened: Happened) -> None:
        runs.append(happened.number)
        gate.wait(20)

    processor = await host.started(router, poll_interval=0.1, lease=20.0)
    await settled(processor.publish_many([Happened(1), Happened(2)]))
    await eventually(lambda: sorted(runs) == [1, 2])
    proxy.cut()
    gate.set()
    await asyncio.sleep(0.2)
    proxy.restore()
    await eventually(lambda: is_empty(processor))
    assert sorted(runs) == [1, 2]
