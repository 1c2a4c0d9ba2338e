"""The pure decisions about replicas."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from araponga_infra import InvalidArgumentError
from araponga_infra.sessions.health import (
    Answer,
    Limits,
    PositionHistory,
    ReplicaStatus,
    after_answer,
    after_failure,
    after_use,
    is_candidate,
    is_check_due,
    least_loaded_of_two,
    limits_of,
    needs_confirmation,
)  # fmt: skip

LIMITS = Limits()
NEW = ReplicaStatus("replica 1 (here)")
UP = after_answer(NEW, Answer(is_standby=True, position=100), lag_seconds=0.0, now=50.0, limits=LIMITS)


def test_a_new_replica_is_a_candidate_that_must_be_asked_first() -> None:
    assert is_candidate(NEW)
    assert not NEW.is_available
    assert needs_confirmation(NEW, 0.0)


def test_an_answer_makes_it_available_for_a_while() -> None:
    assert (UP.is_available, UP.reason, UP.position) == (True, "", 100)
    assert not needs_confirmation(UP, 50.2)
    assert needs_confirmation(UP, 51.0)


def test_a_promoted_replica_is_out_until_it_is_a_standby_again() -> None:
    promoted = after_answer(UP, Answer(is_standby=False, position=100), lag_seconds=0.0, now=51.0, limits=LIMITS)
    assert not is_candidate(promoted)
    assert "promoted" in promoted.reason
    assert is_candidate(after_answer(promoted, Answer(True, 1), lag_seconds=0.0, now=52.0, limits=LIMITS))


def test_a_lagging_replica_is_out_until_it_has_caught_up() -> None:
    lagging = after_answer(UP, Answer(True, 100), lag_seconds=10.5, now=51.0, limits=LIMITS)
    assert not is_candidate(lagging)
    assert is_candidate(after_answer(lagging, Answer(True, 200), lag_seconds=9.5, now=52.0, limits=LIMITS))


def test_a_failed_replica_forgets_where_it_was_and_keeps_the_first_reason() -> None:
    failed = after_failure(after_failure(UP, "hung"), "connection lost")
    assert (failed.is_available, failed.reason, failed.position, failed.answered_at) == (False, "hung", 0, None)


def test_use_is_counted_and_an_answer_to_it_counts() -> None:
    used = after_use(after_use(UP, step=1), step=-1, answered_at=60.0)
    assert (used.in_use, used.answered_at) == (0, 60.0)
    assert after_use(UP, step=1, answered_at=40.0).answered_at == 50.0
    assert after_use(after_failure(UP, "hung"), step=-1, answered_at=60.0).answered_at is None


def test_checks_are_due_on_schedule_and_while_a_used_replica_is_quiet() -> None:
    assert is_check_due(UP, next_check_at=60.0, now=60.0)
    assert not is_check_due(UP, next_check_at=60.0, now=55.0)
    assert is_check_due(replace(UP, in_use=1), next_check_at=60.0, now=55.0)
    assert not is_check_due(replace(UP, in_use=1), next_check_at=60.0, now=50.05)
    assert not is_check_due(replace(after_failure(UP, "hung"), in_use=1), next_check_at=60.0, now=55.0)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_choice_is_one_of_two_and_never_the_busiest_of_all(loads: list[int], rng: random.Random) -> None:
    candidates = [replace(UP, replica=f"replica {number}", in_use=load) for number, load in enumerate(loads)]
    chosen = least_loaded_of_two(candidates, rng)
    assert chosen in candidates
    if len(set(loads)) == len(loads) > 1:
        assert chosen.in_use < max(loads)


def test_there_must_be_something_to_choose_from() -> None:
    with pytest.raises(InvalidArgumentError, match="candidates"):
        least_loaded_of_two([])


def test_an_idle_pair_has_no_lag_however_old_its_last_write() -> None:
    history = PositionHistory().with_sample(0.0, 100, keep_seconds=30)
    assert history.lag_seconds(100, now=1000.0) == 0.0


def test_lag_counts_from_when_the_primary_was_first_seen_ahead() -> None:
    history = PositionHistory()
    for now, position in ((0.0, 100), (1.0, 100), (2.0, 150), (3.0, 180)):
        history = history.with_sample(now, position, keep_seconds=30)
    assert history.lag_seconds(120, now=5.0) == 3.0
    assert history.lag_seconds(150, now=5.0) == 2.0
    assert history.lag_seconds(180, now=5.0) == 0.0


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 1000)), max_size=30))
def test_the_history_is_bounded_and_never_steps_back(steps: list[tuple[float, int]]) -> None:
    history, now = PositionHistory(), 0.0
    for pause, position in steps:
        now += pause
        history = history.with_sample(now, position, keep_seconds=10)
    seen = [position for _, position in history.samples]
    assert seen == sorted(set(seen))
    assert history.newest == max((position for _, position in steps), default=0)


@pytest.mark.parametrize("name", ["max_lag", "max_wait", "check_interval", "check_timeout"])
def test_bad_limits_are_named(name: str) -> None:
    arguments = {"max_lag": 1.0, "max_wait": 1.0, "check_interval": 1.0, "check_timeout": 1.0}
    with pytest.raises(InvalidArgumentError, match=name):
        limits_of(**{**arguments, name: -1.0})
