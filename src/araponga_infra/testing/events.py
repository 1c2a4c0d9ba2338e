"""What every event store and every event bus promises, as tests: subclass, give the fixture, run.

class TestMyStore(EventStoreContract):
    @pytest.fixture
    def source(self) -> EventStoreSource:
        return MyStore(...)
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from araponga_infra.backoff import Backoff
from araponga_infra.events import (
    AsyncEventBus,
    EventBus,
    EventRouter,
    EventStoreSource,
    PayloadError,
    QueueFullError,
    UnknownEventError,
    event,
)
from araponga_infra.events.lifecycle import Failed as HandlerFailed
from araponga_infra.events.lifecycle import GivenBack, Postponed, Quarantined, RetryPolicy, decide
from araponga_infra.events.protocols import AsyncEventStore
from araponga_infra.events.values import (
    DeadFilter,
    DeadReason,
    Delivery,
    Exchange,
    Message,
    Subscription,
    Want,
)
from araponga_infra.testing.clock import FakeClock

__all__ = ["EventBusContract", "EventStoreContract", "awaitable_store"]

_POLICY = RetryPolicy(max_attempts=3, backoff=Backoff(initial=10, maximum=10, jitter=False))
_LEASE_SECONDS = 30.0


def awaitable_store(store: Any) -> AsyncEventStore:
    """A sync store in the clothes of an async one, so that one suite serves both."""
    return cast(AsyncEventStore, _Awaitable(store))


class _Awaitable:
    _plain = ("lease_keeper", "listen", "capabilities")

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name in self._plain:
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            result = found(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return call


def message(name: str = "contract.happened", **changes: Any) -> Message:
    values: dict[str, Any] = {"event_id": uuid4(), "name": name, "version": 1, "payload": b'{"number":1}'}
    return Message(**{**values, **changes})


class _Worker:
    """One owner on a store, with the few moves the tests make."""

    def __init__(self, store: AsyncEventStore, handlers: Sequence[str]) -> None:
        self.store = store
        self.owner: str = uuid4().hex
        self.handlers = handlers

    async def join(self) -> _Worker:
        await self.store.join(self.owner, _LEASE_SECONDS)
        return self

    async def claim(self, limit: int = 100, *, ignore_due: bool = False) -> list[Delivery]:
        return (await self.look(limit, ignore_due=ignore_due)).deliveries

    async def look(self, limit: int = 100, *, ignore_due: bool = False) -> Exchange:
        wants = [Want(each, limit) for each in self.handlers]
        return await self.store.exchange(self.owner, [], [], wants, ignore_due=ignore_due)

    async def claim_alone(self) -> list[Delivery]:
        return (await self.store.claim_alone(self.owner, self.handlers)).deliveries

    async def complete(self, deliveries: Iterable[Delivery]) -> int:
        return (await self.store.exchange(self.owner, [(self.owner, each) for each in deliveries], [], [])).fenced

    async def settle(self, delivery: Delivery, outcome: Any) -> int:
        decision = decide(delivery.attempts, delivery.losses, outcome, _POLICY)
        return (await self.store.exchange(self.owner, [], [((self.owner, delivery), decision)], [])).fenced


class EventStoreContract:
    """What a store owes to processors. `source` is the fixture to give; `is_sync` says which of its stores is meant."""

    pytestmark: pytest.MarkDecorator = pytest.mark.anyio

    @pytest.fixture
    def source(self) -> EventStoreSource:
        raise AssertionError("give the suite a store: override the fixture `source`")

    @pytest.fixture
    def is_sync(self) -> bool:
        return False

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    async def store(self, source: EventStoreSource, is_sync: bool, clock: FakeClock) -> AsyncEventStore:
        store = awaitable_store(source.sync_store(clock)) if is_sync else source.async_store(clock)
        await self.subscribe(store, "mail", "index")
        return store

    @pytest.fixture
    async def worker(self, store: AsyncEventStore) -> _Worker:
        return await _Worker(store, ["mail", "index"]).join()

    @pytest.fixture
    async def other(self, store: AsyncEventStore) -> _Worker:
        return await _Worker(store, ["mail", "index"]).join()

    async def subscribe(
        self, store: AsyncEventStore, *handlers: str, aliases: tuple[str, ...] = ()
    ) -> Mapping[str, str]:
        return await store.register([Subscription(each, "contract.happened", aliases) for each in handlers])

    # -- publishing

    async def test_an_event_is_delivered_once_to_each_handler(self, store: AsyncEventStore, worker: _Worker) -> None:
        sent = message(headers={"traceparent": "00-1"}, payload=b'{"text":"S\xc3\xa1bado"}')
        appended = await store.append([sent])
        claimed = await worker.claim()
        assert appended.deliveries == 2
        assert sorted(each.handler for each in claimed) == ["index", "mail"]
        assert {(each.event_id, each.name, each.version, each.payload) for each in claimed} == {
            (sent.event_id, sent.name, sent.version, sent.payload)
        }
        assert all(dict(each.headers or {}) == {"traceparent": "00-1"} for each in claimed)
        assert (await worker.claim()) == []

    async def test_many_are_delivered_in_the_order_of_publishing(self, store: AsyncEventStore, worker: _Worker) -> None:
        sent = [message() for _ in range(25)]
        await store.append(sent)
        claimed = [each.event_id for each in await worker.claim() if each.handler == "mail"]
        assert claimed == [each.event_id for each in sent]

    async def test_a_claim_takes_no_more_than_wanted(self, store: AsyncEventStore, worker: _Worker) -> None:
        await store.append([message() for _ in range(5)])
        assert [len(await worker.claim(2)) for _ in range(4)] == [4, 4, 2, 0]

    async def test_two_workers_share_the_work(self, store: AsyncEventStore, worker: _Worker, other: _Worker) -> None:
        await store.append([message() for _ in range(10)])
        claimed = [each.id for each in (*await worker.claim(3), *await other.claim(100), *await worker.claim(100))]
        assert len(claimed) == len(set(claimed)) == 20

    async def test_a_delayed_event_waits_for_its_time(
        self, store: AsyncEventStore, worker: _Worker, clock: FakeClock
    ) -> None:
        at = clock.now() + timedelta(seconds=90)
        await store.append([message(delay_seconds=60.0), message(due_at=at.timestamp())])
        look = await worker.look()
        assert look.deliveries == []
        assert look.next_due_seconds == pytest.approx(60.0, abs=0.01)
        clock.advance(60)
        assert len(await worker.claim()) == 2
        clock.advance(30)
        assert len(await worker.claim()) == 2

    async def test_delays_can_be_skipped(self, store: AsyncEventStore, worker: _Worker) -> None:
        await store.append([message(delay_seconds=3600.0)])
        assert await store.pending(["mail", "index"]) == 0
        assert await store.pending(["mail", "index"], ignore_due=True) == 2
        assert len(await worker.claim(ignore_due=True)) == 2

    async def test_an_idempotent_event_is_accepted_once_within_its_window(
        self, store: AsyncEventStore, worker: _Worker, clock: FakeClock
    ) -> None:
        event_id = uuid4()
        first = await store.append([message(event_id=event_id, window_seconds=60.0)])
        second = await store.append([message(event_id=event_id, window_seconds=60.0)])
        assert (first.deliveries, first.duplicates) == (2, 0)
        assert (second.deliveries, second.duplicates) == (0, 1)
        assert len(await worker.claim()) == 2
        clock.advance(61)
        assert (await store.append([message(event_id=event_id, window_seconds=60.0)])).deliveries == 2

    async def test_an_event_without_a_subscriber_is_said_to_have_none(self, store: AsyncEventStore) -> None:
        appended = await store.append([message("contract.unheard")])
        assert (appended.deliveries, appended.unsubscribed) == (0, 1)
        letters = (await store.dead_page(DeadFilter(), 10, None)).items
        if not store.capabilities.is_durable:
            assert letters == ()
            return
        assert [(each.event_name, each.reason) for each in letters] == [("contract.unheard", DeadReason.NO_SUBSCRIBER)]
        assert await store.redrive([letters[0].id]) == 0
        await store.register([Subscription("mail", "contract.happened"), Subscription("late", "contract.unheard")])
        assert await store.redrive([letters[0].id]) == 1
        late = await _Worker(store, ["late"]).join()
        assert [each.event_id for each in await late.claim()] == [letters[0].event_id]

    async def test_a_bounded_store_refuses_what_does_not_fit(self, store: AsyncEventStore, worker: _Worker) -> None:
        if store.capabilities.is_durable:
            assert (await store.append([message()] * 3, capacity=1)).deliveries == 6
            return
        await store.append([message()], capacity=3)
        with pytest.raises(QueueFullError, match="max_queued=3"):
            await store.append([message()], capacity=3)
        await worker.complete(await worker.claim())
        assert (await store.append([message()], capacity=3)).deliveries == 2

    # -- acknowledging

    async def test_what_is_completed_is_forgotten(self, store: AsyncEventStore, worker: _Worker) -> None:
        await store.append([message(), message()])
        assert await worker.complete(await worker.claim()) == 0
        stats = await store.stats()
        assert (stats.queued, stats.running, stats.retrying, stats.dead) == (0, 0, 0, 0)
        assert await store.pending(["mail", "index"], ignore_due=True) == 0

    async def test_a_second_acknowledgement_is_refused(self, store: AsyncEventStore, worker: _Worker) -> None:
        await store.append([message()])
        claimed = await worker.claim()
        assert [await worker.complete(claimed), await worker.complete(claimed)] == [0, 2]

    async def test_a_report_of_an_earlier_claim_is_refused_even_from_the_worker_that_has_it_again(
        self, store: AsyncEventStore, worker: _Worker
    ) -> None:
        await store.append([message()])
        early = await worker.claim()
        for delivery in early:
            await worker.settle(delivery, GivenBack())
        again = await worker.claim()
        assert len(again) == 2
        assert await worker.complete(early) == 2
        assert (await store.stats()).running == 2
        assert await worker.complete(again) == 0

    async def test_only_the_failed_delivery_comes_back_when_it_is_due(
        self, store: AsyncEventStore, worker: _Worker, clock: FakeClock
    ) -> None:
        await store.append([message()])
        mail, index = sorted(await worker.claim(), key=lambda each: each.handler, reverse=True)
        await worker.complete([index])
        await worker.settle(mail, HandlerFailed("OSError: no"))
        assert await worker.claim() == []
        assert (await store.stats()).retrying == 1
        clock.advance(10)
        (again,) = await worker.claim()
        assert (again.handler, again.event_id, again.attempts) == ("mail", mail.event_id, 1)

    async def test_what_is_given_back_is_there_at_once_and_not_counted(
        self, store: AsyncEventStore, worker: _Worker, other: _Worker
    ) -> None:
        await store.append([message()])
        for delivery in await worker.claim():
            await worker.settle(delivery, GivenBack())
        assert [each.attempts for each in await other.claim()] == [0, 0]

    async def test_what_is_postponed_comes_later_and_is_not_counted(
        self, store: AsyncEventStore, worker: _Worker, clock: FakeClock
    ) -> None:
        await store.append([message()])
        for delivery in await worker.claim():
            await worker.settle(delivery, Postponed(5.0))
        assert await worker.claim() == []
        assert ((await store.stats()).queued, (await store.stats()).retrying) == (2, 0)
        clock.advance(5)
        assert [each.attempts for each in await worker.claim()] == [0, 0]

    async def test_a_worker_that_leaves_gives_back_what_it_holds(
        self, store: AsyncEventStore, worker: _Worker, other: _Worker
    ) -> None:
        await store.append([message()])
        await worker.claim()
        await store.leave(worker.owner)
        assert [(each.attempts, each.losses) for each in await other.claim()] == [(0, 0), (0, 0)]

    async def test_what_a_worker_does_not_know_of_is_given_back(
        self, store: AsyncEventStore, worker: _Worker, other: _Worker
    ) -> None:
        await store.append([message(), message()])
        known, *unknown = await worker.claim()
        assert await store.reconcile(worker.owner, [known.id]) == 3
        assert {(each.event_id, each.handler) for each in await other.claim()} == {
            (each.event_id, each.handler) for each in unknown
        }
        assert await worker.complete([known]) == 0

    # -- workers that die

    async def test_deliveries_of_a_dead_worker_are_rescued_and_run_alone(
        self, store: AsyncEventStore, worker: _Worker, other: _Worker, clock: FakeClock
    ) -> None:
        await store.append([message()])
        held = await worker.claim()
        keeper = store.lease_keeper()
        assert (await self.off_loop(keeper.reap, ["mail", "index"])).rescued == 0
        clock.advance(_LEASE_SECONDS / 2)
        assert await self.off_loop(keeper.beat, other.owner, _LEASE_SECONDS)
        clock.advance(_LEASE_SECONDS / 2 + 1)
        reaped = await self.off_loop(keeper.reap, ["mail", "index"])
        assert (reaped.rescued, reaped.has_suspects) == (2, True)
        assert await other.claim() == []
        (suspect,) = await other.claim_alone()
        assert (suspect.attempts, suspect.losses) == (0, 1)
        assert not await self.off_loop(keeper.beat, worker.owner, _LEASE_SECONDS)
        assert await worker.complete(held) == 2
        await other.complete([suspect])
        (second,) = await other.claim_alone()
        await other.complete([second])
        assert await other.claim_alone() == []
        assert not (await self.off_loop(keeper.reap, ["mail", "index"])).has_suspects
        await self.off_loop(keeper.close)

    async def test_an_attempt_that_kills_its_worker_is_counted(self, store: AsyncEventStore, clock: FakeClock) -> None:
        await store.register([Subscription("deadly", "contract.deadly")])
        await store.append([message("contract.deadly")])
        seen: list[tuple[int, int]] = []
        keeper = store.lease_keeper()
        doomed = await _Worker(store, ["deadly"]).join()
        await doomed.claim()
        for _ in range(3):
            clock.advance(_LEASE_SECONDS + 1)
            await self.off_loop(keeper.reap, ["deadly"])
            doomed = await _Worker(store, ["deadly"]).join()
            seen += [(each.attempts, each.losses) for each in await doomed.claim_alone()]
        assert seen == [(0, 1), (1, 2), (2, 3)]
        await self.off_loop(keeper.close)

    async def test_a_worker_with_signs_of_life_keeps_what_it_holds(
        self, store: AsyncEventStore, worker: _Worker, clock: FakeClock
    ) -> None:
        await store.append([message()])
        held = await worker.claim()
        keeper = store.lease_keeper()
        for _ in range(5):
            clock.advance(_LEASE_SECONDS - 1)
            assert await self.off_loop(keeper.beat, worker.owner, _LEASE_SECONDS)
            assert (await self.off_loop(keeper.reap, ["mail", "index"])).rescued == 0
        assert await worker.complete(held) == 0
        await self.off_loop(keeper.close)

    async def off_loop(self, call: Any, *args: Any) -> Any:
        """Signs of life belong to a thread of their own."""
        return await asyncio.to_thread(call, *args)

    # -- order

    async def test_events_of_a_key_come_one_at_a_time_and_in_order(
        self, store: AsyncEventStore, worker: _Worker, other: _Worker, clock: FakeClock
    ) -> None:
        if not store.capabilities.ordering:
            return
        sent = [message(ordering_key="post:1") for _ in range(3)]
        free = message(ordering_key="post:2")
        await store.append([*sent, free])
        first = [each for each in await worker.claim() if each.handler == "mail"]
        assert [each.event_id for each in first] == [sent[0].event_id, free.event_id]
        assert [each.event_id for each in await other.claim() if each.handler == "mail"] == []
        await worker.settle(first[0], HandlerFailed("no"))
        assert await other.claim() == [], "a retryable delivery holds its key"
        clock.advance(10)
        (again,) = await other.claim()
        assert again.event_id == sent[0].event_id
        await other.complete([again])
        assert [each.event_id for each in await worker.claim()] == [sent[1].event_id]

    async def test_a_dead_letter_sets_its_key_free(self, store: AsyncEventStore, worker: _Worker) -> None:
        if not store.capabilities.ordering:
            return
        sent = [message(ordering_key="post:1") for _ in range(2)]
        await store.append(sent)
        for delivery in await worker.claim():
            await worker.settle(delivery, Quarantined(DeadReason.UNDECODABLE, "no"))
        assert {each.event_id for each in await worker.claim()} == {sent[1].event_id}

    async def test_a_redriven_delivery_joins_the_end_of_its_line(self, store: AsyncEventStore, worker: _Worker) -> None:
        if not store.capabilities.ordering:
            return
        worker.handlers = ["mail"]
        sent = [message(ordering_key="post:1") for _ in range(3)]
        await store.append(sent)
        (first,) = await worker.claim()
        await worker.settle(first, Quarantined(DeadReason.UNDECODABLE, "no"))
        running = await worker.claim()
        (letter,) = (await store.dead_page(DeadFilter(), 10, None)).items
        await store.redrive([letter.id])
        assert await worker.claim() == []
        order: list[UUID] = []
        while running:
            await worker.complete(running)
            running = await worker.claim()
            assert len(running) <= 1
            order += [each.event_id for each in running]
        assert order == [sent[2].event_id, sent[0].event_id]

    # -- dead letters

    async def bury(self, store: AsyncEventStore, worker: _Worker, count: int) -> None:
        await store.append([message(payload=b"\xff\x00", headers={"a": "b"}) for _ in range(count)])
        for delivery in await worker.claim():
            reason = DeadReason.UNDECODABLE if delivery.handler == "mail" else DeadReason.UNKNOWN_EVENT
            await worker.settle(delivery, Quarantined(reason, "cannot be read"))

    async def test_a_dead_letter_keeps_reason_and_bytes(self, store: AsyncEventStore, worker: _Worker) -> None:
        await self.bury(store, worker, 1)
        letter = next(each for each in (await store.dead_page(DeadFilter(), 10, None)).items if each.handler == "mail")
        assert (letter.reason, letter.error, letter.payload) == (DeadReason.UNDECODABLE, "cannot be read", b"\xff\x00")
        assert (dict(letter.headers), letter.attempts, letter.event_name) == ({"a": "b"}, 0, "contract.happened")
        assert await store.dead_letter(letter.id) == letter
        assert "xff" not in repr(letter)

    async def test_dead_letters_come_in_pages_and_by_filter(self, store: AsyncEventStore, worker: _Worker) -> None:
        await self.bury(store, worker, 5)
        for wanted, expected in (
            (DeadFilter(), 10),
            (DeadFilter(handler="mail"), 5),
            (DeadFilter(event="contract.happened", reason=DeadReason.UNKNOWN_EVENT), 5),
            (DeadFilter(event="contract.other"), 0),
        ):
            seen: list[str] = []
            after: str | None = None
            while True:
                page = await store.dead_page(wanted, 3, after)
                assert len(page.items) <= 3
                seen += [each.id for each in page.items]
                if page.next is None:
                    break
                after = page.next
            assert len(seen) == len(set(seen)) == expected

    async def test_a_redriven_delivery_has_all_its_attempts_again(
        self, store: AsyncEventStore, worker: _Worker
    ) -> None:
        await self.bury(store, worker, 1)
        letters = (await store.dead_page(DeadFilter(), 10, None)).items
        assert await store.redrive([each.id for each in letters]) == 2
        assert await store.redrive([each.id for each in letters]) == 0
        claimed = await worker.claim()
        assert sorted((each.handler, each.attempts, each.losses) for each in claimed) == [
            ("index", 0, 0),
            ("mail", 0, 0),
        ]
        assert {each.event_id for each in claimed} == {letters[0].event_id}
        assert (await store.dead_page(DeadFilter(), 10, None)).items == ()

    async def test_old_dead_letters_come_in_pages_while_they_are_discarded(
        self, store: AsyncEventStore, worker: _Worker, clock: FakeClock
    ) -> None:
        await self.bury(store, worker, 5)
        clock.advance(timedelta(days=10))
        await self.bury(store, worker, 1)
        wanted, after, seen = DeadFilter(reason=DeadReason.UNDECODABLE), None, list[str]()
        while True:
            page = await store.old_letters(wanted, clock.now() - timedelta(days=5), 2, after)
            assert len(page.items) <= 2
            assert await store.discard(page.items) == len(page.items)
            seen += page.items
            if page.next is None:
                break
            after = page.next
        assert len(seen) == len(set(seen)) == 5
        left = (await store.dead_page(DeadFilter(), 100, None)).items
        assert sorted(each.handler for each in left) == ["index"] * 6 + ["mail"]

    async def test_what_dies_again_is_beyond_the_newest_dead_letter_of_before(
        self, store: AsyncEventStore, worker: _Worker
    ) -> None:
        assert (await store.dead_page(DeadFilter(until=await store.newest_dead() or "0"), 10, None)).items == ()
        await self.bury(store, worker, 2)
        until = await store.newest_dead()
        letters = (await store.dead_page(DeadFilter(until=until), 10, None)).items
        assert len(letters) == 4
        await store.redrive([letters[0].id, letters[-1].id])
        for delivery in await worker.claim():
            await worker.settle(delivery, Quarantined(DeadReason.UNDECODABLE, "cannot be read"))
        again = (await store.dead_page(DeadFilter(until=until), 10, None)).items
        assert again == letters[1:-1]
        assert len((await store.dead_page(DeadFilter(), 10, None)).items) == 4

    async def test_dead_letters_are_discarded_and_purged_by_age(
        self, store: AsyncEventStore, worker: _Worker, clock: FakeClock
    ) -> None:
        await self.bury(store, worker, 1)
        clock.advance(timedelta(days=10))
        await self.bury(store, worker, 1)
        letters = (await store.dead_page(DeadFilter(), 10, None)).items
        old = await store.old_letters(DeadFilter(handler="mail"), clock.now() - timedelta(days=5), 10, None)
        assert old.items == (next(each.id for each in letters if each.handler == "mail"),)
        assert await store.discard(old.items) == 1
        assert await store.discard([letters[-1].id, "0"]) == 1
        assert len((await store.dead_page(DeadFilter(), 10, None)).items) == 2
        assert await store.dead_letter(letters[-1].id) is None

    # -- subscriptions

    async def test_a_renamed_handler_takes_over_what_waits_for_its_old_name(self, store: AsyncEventStore) -> None:
        before, after = message(), message()
        await store.append([before])
        names = await self.subscribe(store, "post", aliases=("mail",))
        await store.append([after])
        assert names == {"post": "post", "mail": "post"}
        renamed = await _Worker(store, ["mail", "post"]).join()
        assert {(each.handler, each.event_id) for each in await renamed.claim()} == {
            ("mail", before.event_id),
            ("post", after.event_id),
        }

    async def test_an_old_instance_that_starts_late_neither_doubles_nor_loses(self, store: AsyncEventStore) -> None:
        await self.subscribe(store, "post", aliases=("mail",))
        names = await self.subscribe(store, "mail")
        assert names == {"mail": "mail", "post": "mail"}
        await store.append([message()])
        old = await _Worker(store, list(names)).join()
        assert [each.handler for each in await old.claim()] == ["post"]

    async def test_a_forgotten_handler_gets_nothing_and_leaves_dead_letters(
        self, store: AsyncEventStore, worker: _Worker
    ) -> None:
        await store.append([message()])
        await store.forget("mail")
        assert (await store.append([message()])).deliveries == 1
        letters = (await store.dead_page(DeadFilter(), 10, None)).items
        assert [(each.handler, each.reason) for each in letters] == [("mail", DeadReason.HANDLER_GONE)]
        assert {each.handler for each in await worker.claim()} == {"index"}

    # -- looking

    async def test_stats_tell_the_states_apart(self, store: AsyncEventStore, worker: _Worker, clock: FakeClock) -> None:
        await store.append([message()])
        clock.advance(7)
        stats = await store.stats()
        assert stats.queued == 2
        assert stats.oldest_age_seconds == pytest.approx(7.0, abs=0.01)
        mail, index = sorted(await worker.claim(), key=lambda each: each.handler, reverse=True)
        await worker.settle(mail, HandlerFailed("no"))
        await worker.settle(index, Quarantined(DeadReason.UNDECODABLE, "no"))
        await store.append([message(delay_seconds=60.0)])
        stats = await store.stats()
        assert (stats.queued, stats.running, stats.retrying, stats.dead) == (2, 0, 1, 1)
        assert stats.oldest_age_seconds == 0
        by_handler = {each.handler: (each.queued, each.retrying, each.dead) for each in stats.handlers}
        assert by_handler == {"mail": (1, 1, 0), "index": (1, 0, 1)}

    async def test_stats_tell_how_long_each_handler_lets_wait(self, store: AsyncEventStore, clock: FakeClock) -> None:
        await store.append([message()])
        clock.advance(7)
        mailer = await _Worker(store, ["mail"]).join()
        await mailer.complete(await mailer.claim())
        await store.append([message()])
        clock.advance(3)
        stats = await store.stats()
        ages = {each.handler: each.oldest_age_seconds for each in stats.handlers}
        assert ages == pytest.approx({"mail": 3.0, "index": 10.0}, abs=0.01)
        assert stats.oldest_age_seconds == pytest.approx(10.0, abs=0.01)

    async def test_stats_tell_how_long_a_late_retry_waits_already(
        self, store: AsyncEventStore, worker: _Worker, clock: FakeClock
    ) -> None:
        await store.append([message()])
        for delivery in await worker.claim():
            await worker.settle(delivery, HandlerFailed("no"))
        await store.append([message(delay_seconds=60.0)])
        clock.advance(400)
        stats = await store.stats()
        assert (stats.queued, stats.retrying) == (2, 2)
        assert stats.oldest_age_seconds == pytest.approx(400.0, abs=0.01)

    async def test_stats_know_what_waits_under_a_former_name(self, store: AsyncEventStore, worker: _Worker) -> None:
        await store.append([message(), message(delay_seconds=60.0)])
        held, *_ = await worker.claim()
        await store.register(
            [
                Subscription("letters", "contract.happened", ("mail",)),
                Subscription("toc", "contract.happened", ("index",)),
            ]
        )
        stats = await store.stats()
        assert (stats.queued, stats.running) == (2, 2)
        assert {each.handler for each in stats.handlers} == {"mail", "index", "letters", "toc"}
        await worker.complete([held])
        assert (await store.stats()).running == 1


@event("contract.bus", version=1)
@dataclass(frozen=True)
class Happened:
    number: int


async def _settled(result: object) -> object:
    return await result if inspect.isawaitable(result) else result


class EventBusContract:
    """What a bus owes to code that publishes, whether handlers run inside `publish` or later.

    `open_bus` is the fixture to give, a function that takes routers and gives a bus; `settle` waits for its handlers.
    """

    pytestmark: pytest.MarkDecorator = pytest.mark.anyio

    @pytest.fixture
    def open_bus(self) -> Any:
        raise AssertionError("give the suite a bus: override the fixture `open_bus`")

    async def settle(self, bus: Any) -> None:
        """Handlers have run already."""

    async def _publish(self, bus: EventBus | AsyncEventBus, *events: object) -> list[UUID]:
        if len(events) > 1:
            return cast(list[UUID], await _settled(bus.publish_many(events)))
        return [cast(UUID, await _settled(bus.publish(*events)))]

    async def test_every_handler_gets_its_own_copy_of_the_value(self, open_bus: Any) -> None:
        router, seen = EventRouter(), list[tuple[str, Happened]]()

        @router.subscribe(Happened)
        def first(happened: Happened) -> None:
            seen.append(("first", happened))

        @router.subscribe(Happened)
        def second(happened: Happened) -> None:
            seen.append(("second", happened))

        bus = open_bus([router])
        await self._publish(bus, Happened(1))
        await self.settle(bus)
        assert sorted(seen, key=str) == [("first", Happened(1)), ("second", Happened(1))]

    async def test_ids_are_told_apart(self, open_bus: Any) -> None:
        bus = open_bus([])
        ids = [*await self._publish(bus, Happened(1)), *await self._publish(bus, Happened(2), Happened(3))]
        assert len(set(ids)) == 3
        assert all(isinstance(each, UUID) for each in ids)

    async def test_what_is_no_event_is_refused_at_the_call(self, open_bus: Any) -> None:
        bus = open_bus([])
        with pytest.raises(UnknownEventError, match="str is not an event"):
            await self._publish(bus, "text")
        with pytest.raises(PayloadError, match=r"contract\.bus"):
            await self._publish(bus, Happened("secret"))  # type: ignore[arg-type]
