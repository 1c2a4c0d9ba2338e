"""Workers on one store claim, finish, fail, die and stop as hypothesis likes: nothing is lost or invented."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar, cast
from uuid import UUID, uuid4

import pytest
import redis
import redis.asyncio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from araponga_infra.backoff import Backoff
from araponga_infra.events import EventStoreSource, InMemoryEventStore, RedisStreamEventStore, SqlAlchemyEventStore
from araponga_infra.events.lifecycle import Failed, GivenBack, Outcome, RetryPolicy, decide
from araponga_infra.events.protocols import AsyncEventStore, EventStore
from araponga_infra.events.values import DeadFilter, Delivery, Message, State, Subscription, Want
from araponga_infra.testing.clock import FakeClock

T = TypeVar("T")
OpenStore: TypeAlias = "Callable[[FakeClock], EventStore]"
HANDLERS = ("mail", "index")
BACKOFF_SECONDS = 5.0
POLICY = RetryPolicy(max_attempts=2, backoff=Backoff(initial=BACKOFF_SECONDS, maximum=BACKOFF_SECONDS, jitter=False))
LEASE_SECONDS = 10.0


class Model:
    """What must have become of each accepted delivery, known from what the workers were told."""

    def __init__(self) -> None:
        self.accepted: set[tuple[UUID, str]] = set()
        self.completed: set[tuple[UUID, str]] = set()
        self.dead: set[tuple[UUID, str]] = set()
        self.keys: dict[UUID, str] = {}
        self.order: dict[tuple[str, str], list[UUID]] = {}

    def accept(self, event_id: UUID, key: str | None) -> None:
        for handler in HANDLERS:
            self.accepted.add((event_id, handler))
            if key is not None:
                self.keys[event_id] = key
                self.order.setdefault((handler, key), []).append(event_id)

    def end(self, delivery: Delivery) -> None:
        name = delivery.event_id, delivery.handler
        key = self.keys.get(delivery.event_id)
        if key is not None:
            line = self.order[delivery.handler, key]
            assert line[0] == delivery.event_id, "a key's deliveries end in their order"
            line.pop(0)
        assert name in self.accepted, "invented"
        assert name not in self.completed, "handled again after it was acknowledged"


class Machine(RuleBasedStateMachine):
    def __init__(self, open_store: OpenStore) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.store = open_store(self.clock)
        self.keeper = self.store.lease_keeper()
        self.store.register([Subscription(each, "machine.event") for each in HANDLERS])
        self.model = Model()
        self.held: dict[str, dict[str, Delivery]] = {}
        self.ghosts: list[tuple[str, Delivery]] = []
        self.has_order = self.store.capabilities.ordering

    @rule(number=st.integers(1, 4), key=st.sampled_from([None, None, "a", "b"]), delay=st.sampled_from([0.0, 0.0, 3.0]))
    def publish(self, number: int, key: str | None, delay: float) -> None:
        key = key if self.has_order else None
        messages = [
            Message(uuid4(), "machine.event", 1, b"{}", delay_seconds=0.0 if key else delay, ordering_key=key)
            for _ in range(number)
        ]
        self.store.append(messages)
        for message in messages:
            self.model.accept(message.event_id, key)

    @precondition(lambda self: len(self.held) < 3)
    @rule()
    def start_worker(self) -> None:
        owner = uuid4().hex
        self.store.join(owner, LEASE_SECONDS)
        self.held[owner] = {}

    @precondition(lambda self: self.held)
    @rule(data=st.data(), limit=st.integers(1, 5), is_alone=st.booleans())
    def claim(self, data: st.DataObject, limit: int, is_alone: bool) -> None:
        owner = data.draw(st.sampled_from(list(self.held)))
        if is_alone:
            claimed = self.store.claim_alone(owner, HANDLERS).deliveries
            assert len(claimed) <= 1
        else:
            claimed = self.store.exchange(owner, [], [], [Want(each, limit) for each in HANDLERS]).deliveries
        everything = {each for mine in self.held.values() for each in mine}
        for delivery in claimed:
            assert delivery.id not in everything, "given to two workers"
            self.held[owner][delivery.id] = delivery
        self._no_key_twice()

    def _no_key_twice(self) -> None:
        running = [
            (each.handler, each.ordering_key)
            for mine in self.held.values()
            for each in mine.values()
            if each.ordering_key
        ]
        assert len(running) == len(set(running)), "one at a time per handler and key"

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data(), outcome=st.sampled_from(["completed", "failed", "given back"]))
    def finish(self, data: st.DataObject, outcome: str) -> None:
        owner = data.draw(st.sampled_from([each for each, mine in self.held.items() if mine]))
        delivery = self.held[owner].pop(data.draw(st.sampled_from(list(self.held[owner]))))
        self._finish(owner, delivery, outcome)

    def _finish(self, owner: str, delivery: Delivery, outcome: str) -> None:
        receipt, name = (owner, delivery), (delivery.event_id, delivery.handler)
        if outcome == "completed":
            fenced = self.store.exchange(owner, [receipt], [], []).fenced
            ended = self.model.completed
        else:
            what: Outcome = Failed("no") if outcome == "failed" else GivenBack()
            decision = decide(delivery.attempts, delivery.losses, what, POLICY, random.Random(1))
            fenced = self.store.exchange(owner, [], [(receipt, decision)], []).fenced
            if decision.state is not State.DEAD:
                assert fenced == 0
                return
            ended = self.model.dead
        assert fenced == 0, "an owner with a lease is never fenced"
        self.model.end(delivery)
        ended.add(name)

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data(), is_retried=st.booleans())
    def hang(self, data: st.DataObject, is_retried: bool) -> None:
        """A handler is timed out, and reports that it is done after all: perhaps when its own worker is at it again."""
        owner = data.draw(st.sampled_from([each for each, mine in self.held.items() if mine]))
        late = self.held[owner].pop(data.draw(st.sampled_from(list(self.held[owner]))))
        self._finish(owner, late, "failed")
        if is_retried:
            self.time_passes(BACKOFF_SECONDS)
            self.claim(data, 5, is_alone=False)
        assert self.store.exchange(owner, [(owner, late)], [], []).fenced == 1, "a late report no longer counts"

    @precondition(lambda self: self.held)
    @rule(data=st.data(), limit=st.integers(1, 5))
    def cut(self, data: st.DataObject, limit: int) -> None:
        """The answer to a claim is lost on its way: what the worker does not know of is given back when it is heard."""
        owner = data.draw(st.sampled_from(list(self.held)))
        lost = self.store.exchange(owner, [], [], [Want(each, limit) for each in HANDLERS]).deliveries
        assert self.store.reconcile(owner, list(self.held[owner])) == len(lost)

    @rule(is_repeated=st.booleans())
    def publish_once(self, is_repeated: bool) -> None:
        """With an idempotency key: a second time within its window it is not accepted."""
        message = Message(uuid4(), "machine.event", 1, b"{}", window_seconds=1e6)
        assert self.store.append([message]).duplicates == 0
        self.model.accept(message.event_id, None)
        if is_repeated:
            appended = self.store.append([message])
            assert (appended.deliveries, appended.duplicates) == (0, 1)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """kill -9, or a pause from which it comes back as a ghost."""
        owner = data.draw(st.sampled_from(list(self.held)))
        mine = self.held.pop(owner)
        self.ghosts += [(owner, each) for each in mine.values()]
        for other in self.held:
            assert self.keeper.beat(other, 2 * LEASE_SECONDS)
        self.clock.advance(LEASE_SECONDS + 1)
        assert self.keeper.reap(HANDLERS).rescued >= len(mine)

    @precondition(lambda self: self.ghosts)
    @rule()
    def a_ghost_comes_back(self) -> None:
        owner, delivery = self.ghosts.pop()
        assert self.store.exchange(owner, [(owner, delivery)], [], []).fenced == 1, "what it does no longer counts"
        assert not self.keeper.beat(owner, LEASE_SECONDS)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(list(self.held)))
        del self.held[owner]
        self.store.leave(owner)

    @precondition(lambda self: self.model.dead)
    @rule(is_redriven=st.booleans())
    def decide_about_the_dead(self, is_redriven: bool) -> None:
        letters = self.store.dead_page(DeadFilter(), 1, None).items
        name = letters[0].event_id, letters[0].handler
        self.model.dead.remove(name)
        if is_redriven:
            assert self.store.redrive([letters[0].id]) == 1
            if letters[0].ordering_key is not None:
                self.model.order[letters[0].handler, letters[0].ordering_key].append(letters[0].event_id)
        else:
            assert self.store.discard([letters[0].id]) == 1
            self.model.accepted.remove(name)

    @rule(seconds=st.sampled_from([1.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        for owner in self.held:
            self.keeper.beat(owner, LEASE_SECONDS + seconds)
        self.clock.advance(seconds)

    @invariant()
    def nothing_is_lost(self) -> None:
        stats = self.store.stats()
        ended = len(self.model.completed) + len(self.model.dead)
        assert stats.queued + stats.running + stats.retrying == len(self.model.accepted) - ended
        assert stats.dead == len(self.model.dead)
        assert stats.running == sum(map(len, self.held.values())), "what nobody holds is given back"

    def teardown(self) -> None:
        """Whatever happened: a worker that works completes all that is left."""
        for owner in list(self.held):
            self.store.leave(owner)
        owner = uuid4().hex
        self.clock.advance(LEASE_SECONDS + 1)
        self.keeper.reap(HANDLERS)
        self.store.join(owner, 1e6)
        self.clock.advance(100)
        while True:
            alone = self.store.claim_alone(owner, HANDLERS).deliveries
            rest = self.store.exchange(owner, [], [], [Want(each, 50) for each in HANDLERS]).deliveries
            if not alone and not rest:
                break
            for delivery in (*alone, *rest):
                self.model.end(delivery)
                self.model.completed.add((delivery.event_id, delivery.handler))
            self.store.exchange(owner, [(owner, each) for each in (*alone, *rest)], [], [])
        assert self.model.completed | self.model.dead == self.model.accepted
        self.store.leave(owner)
        self.keeper.close()


class Home:
    """An event loop in a thread of its own, for stores that live on one."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="home of an async store")
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class AtHome:
    """An async store in the clothes of a sync one: each call is run to its end on the store's own loop."""

    _plain = ("lease_keeper", "capabilities")

    def __init__(self, store: AsyncEventStore, home: Home) -> None:
        self._store = store
        self._home = home

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return found if name in self._plain else lambda *args, **kwargs: self._home.run(found(*args, **kwargs))


def at_home(source: EventStoreSource, clock: FakeClock, home: Home) -> EventStore:
    return cast(EventStore, AtHome(source.async_store(clock), home))


KINDS = tuple(f"{store}-{kind}" for store in ("memory", "sqlite", "postgres", "redis") for kind in ("sync", "async"))


@pytest.fixture
def home() -> Iterator[Home]:
    home = Home()
    yield home
    home.close()


@pytest.fixture(params=KINDS)
def open_store(request: pytest.FixtureRequest) -> Iterator[OpenStore]:
    """A function that gives an empty store on a clock."""
    database, kind = request.param.split("-")
    home: Home | None = request.getfixturevalue("home") if kind == "async" else None
    if database == "memory":
        yield lambda clock: opened(InMemoryEventStore(), clock, home)
    elif database == "redis":
        url = request.getfixturevalue("redis_url")
        with empty_redis(url, home) as open_redis:
            yield open_redis
    elif database == "postgres":
        database_url = request.getfixturevalue("postgres_database").url
        with empty_sql(database_url("psycopg"), database_url("asyncpg"), home) as open_postgres:
            yield open_postgres
    else:
        path = request.getfixturevalue("tmp_path") / "events.db"
        with empty_sql(f"sqlite:///{path}", f"sqlite+aiosqlite:///{path}", home) as open_sqlite:
            yield open_sqlite


def opened(source: EventStoreSource, clock: FakeClock, home: Home | None) -> EventStore:
    return source.sync_store(clock) if home is None else at_home(source, clock, home)


@contextmanager
def empty_redis(url: str, home: Home | None) -> Iterator[OpenStore]:
    with redis.Redis.from_url(url) as client:
        own: Any = client if home is None else redis.asyncio.Redis.from_url(url)

        def emptied(clock: FakeClock) -> EventStore:
            client.flushdb()
            return opened(RedisStreamEventStore(own), clock, home)

        yield emptied
        if home is not None:
            home.run(own.aclose())


@contextmanager
def empty_sql(url: str, async_url: str, home: Home | None) -> Iterator[OpenStore]:
    engine = create_engine(url)
    own: Any = engine if home is None else create_async_engine(async_url)
    SqlAlchemyEventStore(engine).create_schema()

    def emptied(clock: FakeClock) -> EventStore:
        with engine.begin() as connection:
            for table in ("deliveries", "subscriptions", "workers", "accepted"):
                connection.execute(text(f"DELETE FROM araponga_{table}"))
        return opened(SqlAlchemyEventStore(own), clock, home)

    yield emptied
    engine.dispose()
    if home is not None:
        home.run(own.dispose())


def test_nothing_is_lost_invented_or_done_by_two(open_store: OpenStore, request: pytest.FixtureRequest) -> None:
    is_memory = "memory-sync" in request.node.name
    run_machine(open_store, settings.default.max_examples if is_memory and settings.default else 10, 30)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_nothing_is_lost_invented_or_done_by_two_in_the_long_run(open_store: OpenStore) -> None:
    run_machine(open_store, 1000, 50)


def run_machine(open_store: OpenStore, examples: int, steps: int) -> None:
    run_state_machine_as_test(  # a factory, as its documentation says; its annotation asks for a class
        cast(Any, lambda: Machine(open_store)),
        settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None),
    )
