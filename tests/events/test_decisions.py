"""The pure rules: the life of a delivery, prefetch, isolation, and what a rename does to subscriptions."""

from __future__ import annotations

import random
from dataclasses import dataclass
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from araponga_infra.backoff import Backoff
from araponga_infra.events import DeadReason, EventRouter, State, event
from araponga_infra.events.catalog import Catalog
from araponga_infra.events.dispatch import Dispatch
from araponga_infra.events.feed import Feed
from araponga_infra.events.isolation import Isolation
from araponga_infra.events.lifecycle import (
    Abandoned,
    Decision,
    Discarded,
    Failed,
    GaveUp,
    GivenBack,
    Outcome,
    Postponed,
    Quarantined,
    Redriven,
    RetryAsked,
    RetryPolicy,
    Succeeded,
    decide,
)
from araponga_infra.events.prefetch import next_batch, shares
from araponga_infra.events.stores.sqlalchemy.listening import QUIET_SECONDS
from araponga_infra.events.subscribing import plan_subscriptions
from araponga_infra.events.values import Delivery, Exchange, Subscription
from araponga_infra.testing.clock import FakeClock

WHILE_RUNNING: st.SearchStrategy[Outcome] = st.one_of(
    st.just(Succeeded()),
    st.builds(Failed, st.text()),
    st.builds(RetryAsked, st.floats(0, 1e6)),
    st.builds(GaveUp, st.text()),
    st.builds(Quarantined, st.sampled_from(DeadReason), st.text()),
    st.builds(Postponed, st.floats(0, 1e6)),
    st.just(GivenBack()),
    st.just(Abandoned()),
)
STARTED = (Succeeded, Failed, RetryAsked, GaveUp)


class Life(RuleBasedStateMachine):
    """One delivery, from publishing to its end, under whatever happens to it."""

    @initialize(max_attempts=st.integers(1, 6), seed=st.integers())
    def begin(self, max_attempts: int, seed: int) -> None:
        self.policy = RetryPolicy(max_attempts, Backoff(initial=1, maximum=60), None)
        self.rng = random.Random(seed)
        self.now = Decision(State.AVAILABLE, attempts=0)
        self.starts = self.losses = 0

    @precondition(lambda self: self.now.state in (State.AVAILABLE, State.RETRYABLE))
    @rule(outcome=WHILE_RUNNING)
    def run(self, outcome: Outcome) -> None:
        self.starts += isinstance(outcome, STARTED)
        self.losses += isinstance(outcome, Abandoned)
        self.now = decide(self.now.attempts, self.now.losses, outcome, self.policy, self.rng)

    @precondition(lambda self: self.now.state is State.DEAD)
    @rule(is_redriven=st.booleans())
    def decide_about_the_dead(self, is_redriven: bool) -> None:
        outcome = Redriven() if is_redriven else Discarded()
        self.now = decide(self.now.attempts, self.now.losses, outcome, self.policy, self.rng)
        if is_redriven:
            self.starts = self.losses = 0

    @precondition(lambda self: self.now.state in (State.COMPLETED, State.DISCARDED))
    @rule()
    def publish_another(self) -> None:
        self.now = Decision(State.AVAILABLE, attempts=0)
        self.starts = self.losses = 0

    @invariant()
    def attempts_are_starts_and_never_more_than_allowed(self) -> None:
        if hasattr(self, "policy") and self.now.state is not State.DISCARDED:
            assert self.now.attempts == self.starts <= self.policy.max_attempts
            assert self.now.losses == self.losses

    @invariant()
    def only_the_dead_have_a_reason_and_only_the_retryable_wait(self) -> None:
        if hasattr(self, "policy"):
            assert (self.now.reason is not None) == (self.now.state is State.DEAD)
            assert self.now.delay_seconds == 0 or self.now.state is State.RETRYABLE
            assert not self.now.is_suspect or self.now.state is State.AVAILABLE


TestLife = Life.TestCase


@given(st.integers(1, 500), st.floats(0, 100), st.integers(1, 20), st.integers(20, 500))
def test_batches_stay_within_their_bounds(current: int, lasted: float, smallest: int, largest: int) -> None:
    current = min(max(current, smallest), largest)
    assert smallest <= next_batch(current, lasted, smallest, largest) <= largest


def test_batches_grow_while_they_run_dry_and_shrink_while_they_last() -> None:
    assert next_batch(10, 0.01, 5, 200) == 20
    assert next_batch(200, 0.01, 5, 200) == 200
    assert next_batch(100, 5.0, 5, 200) == 50
    assert next_batch(100, 0.5, 5, 200) == 100


@given(st.integers(1, 500), st.lists(st.text(min_size=1), min_size=1, unique=True), st.data())
def test_every_handler_has_a_share(room: int, handlers: list[str], data: st.DataObject) -> None:
    busy = data.draw(st.sets(st.sampled_from(handlers)))
    shared = shares(room, handlers, busy)
    assert set(shared) == set(handlers)
    assert min(shared.values()) >= 1
    assert sum(shared[each] for each in busy) <= max(room, len(busy))


def test_a_suspect_waits_for_the_others_but_not_for_ever() -> None:
    isolation = Isolation(patience_seconds=2.0)
    assert isolation.may_fetch(0.0)
    isolation.has_suspects = True
    assert not isolation.may_fetch(0.0)
    assert not isolation.may_claim_alone(0.0, is_idle=False, is_buffer_empty=True)
    assert isolation.may_claim_alone(1.0, is_idle=True, is_buffer_empty=True)
    assert isolation.may_claim_alone(2.1, is_idle=False, is_buffer_empty=True)
    isolation.note_claim(3.0, is_found=True)
    assert not isolation.may_fetch(4.0)
    assert isolation.may_fetch(5.1), "a slow suspect does not hold up everything"
    assert not isolation.may_claim_alone(5.2, is_idle=False, is_buffer_empty=True), "one suspect at a time"
    assert isolation.may_claim_alone(6.0, is_idle=True, is_buffer_empty=True)
    isolation.note_claim(6.0, is_found=False)
    assert isolation.may_fetch(6.0)


def stored(*subscriptions: Subscription) -> dict[str, Subscription]:
    return {each.handler: each for each in subscriptions}


def applied(known: dict[str, Subscription], *wanted: Subscription) -> dict[str, str]:
    plan = plan_subscriptions(known.values(), wanted)
    for name in plan.remove:
        del known[name]
    known.update({each.handler: each for each in plan.keep})
    return plan.names


@given(st.lists(st.sampled_from(["old", "new"]), min_size=1, max_size=12))
def test_in_whatever_order_instances_start_one_name_gets_the_event_and_the_last_to_start_takes_it(
    starts: list[str],
) -> None:
    old, new = Subscription("mail", "e"), Subscription("post", "e", ("mail",))
    known: dict[str, Subscription] = {}
    for each in starts:
        names = applied(known, old if each == "old" else new)
        assert len(known) == 1, "an event is delivered once"
        assert set(known) <= set(names), "and to a name that whoever has started last takes"


def test_a_feed_that_was_told_of_news_looks_again_soon() -> None:
    """Other processes speak at most once in a while: what they published right after that is found by looking again."""
    clock = FakeClock()
    dispatch = Dispatch(Catalog(), RetryPolicy(), max_concurrency=5, fetch_batch=10, clock=clock)
    feed = Feed(dispatch, clock, patience_seconds=2.0, poll_seconds=3600.0)
    step = feed.plan()
    feed.took(step, Exchange([], None))
    assert feed.rest_seconds(step) == 3600.0
    feed.alert()
    assert QUIET_SECONDS < feed.rest_seconds(step) < 0.05


@event("decisions.opened")
@dataclass(frozen=True)
class Opened:
    door: int


def test_what_a_claim_brings_while_the_processor_stops_is_given_back() -> None:
    """It was under way when what waited was given back; no slot is left to run it, and stopping would wait for it."""
    clock, router, catalog = FakeClock(), EventRouter(), Catalog()
    router.subscribe(Opened, name="close")(lambda opened: None)
    catalog.include(router)
    dispatch = Dispatch(catalog, RetryPolicy(), max_concurrency=5, fetch_batch=10, clock=clock)
    feed = Feed(dispatch, clock, patience_seconds=2.0, poll_seconds=1.0)
    dispatch.learn({"close": "close"})
    step = feed.plan()
    assert [want.handler for want in step.wants] == ["close"]
    feed.is_draining = True
    claimed = Delivery("1", "close", uuid4(), "decisions.opened", 1, b'{"door":1}', None, clock.now().timestamp())
    feed.took(step, Exchange([claimed]))
    assert dispatch.is_idle
    [(_, decision)] = feed.plan().settlements
    assert decision.state is State.AVAILABLE
