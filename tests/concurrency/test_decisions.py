"""What next after a failure: laws of the pure decision."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from araponga_infra.backoff import Backoff
from araponga_infra.concurrency.classification import Failure
from araponga_infra.concurrency.decisions import GIVE_UP, PROPAGATE, Progress, Retry, RetryPolicy, next_step
from araponga_infra.errors import InvalidArgumentError

policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 20),
    backoff=st.builds(Backoff, initial=st.floats(0, 1), maximum=st.floats(1, 5), jitter=st.booleans()),
    timeout_seconds=st.none() | st.floats(0.001, 100),
    lock_after=st.none() | st.integers(1, 20),
)
failures = st.sampled_from([Failure.STALE, Failure.CONFLICT, Failure.CONNECTION_LOST])
progresses = st.integers(1, 25).flatmap(
    lambda attempts: st.builds(
        Progress, attempts=st.just(attempts), conflicts=st.integers(0, attempts), elapsed_seconds=st.floats(0, 200)
    )
)


@given(policies, progresses, failures, st.booleans(), st.randoms(use_true_random=False))
def test_a_step_keeps_within_attempts_time_and_lock_after(
    policy: RetryPolicy, progress: Progress, failure: Failure, can_lock: bool, rng: random.Random
) -> None:
    step = next_step(policy, progress, failure, can_lock=can_lock, rng=rng)
    if isinstance(step, Retry):
        assert progress.attempts < policy.max_attempts
        if policy.timeout_seconds is not None:
            assert progress.elapsed_seconds + step.delay_seconds < policy.timeout_seconds
        assert 0 <= step.delay_seconds <= policy.backoff.maximum_seconds
        assert step.lock is (can_lock and policy.lock_after is not None and progress.conflicts >= policy.lock_after)
    else:
        assert step is GIVE_UP


@given(policies, progresses, st.booleans())
def test_what_is_not_ours_propagates(policy: RetryPolicy, progress: Progress, can_lock: bool) -> None:
    assert next_step(policy, progress, Failure.OTHER, can_lock=can_lock) is PROPAGATE


@given(policies, st.lists(failures, max_size=30), st.randoms(use_true_random=False))
def test_every_course_ends(policy: RetryPolicy, course: list[Failure], rng: random.Random) -> None:
    progress = Progress()
    for number, failure in enumerate(course, 1):
        progress = progress.after(failure, elapsed_seconds=0)
        step = next_step(policy, progress, failure, can_lock=True, rng=rng)
        assert progress.attempts == number
        if step is GIVE_UP:
            break
        assert number < policy.max_attempts


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"max_attempts": 0}, "max_attempts=0 must be a whole number of 1 or more"),
        ({"max_attempts": True}, "max_attempts=True"),
        ({"max_attempts": 2.5}, "max_attempts=2.5"),
        ({"lock_after": 0}, "lock_after=0"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": -1}, "timeout=-1"),
        ({"timeout": "soon"}, "timeout='soon' is not a duration"),
        ({"backoff": 3}, "backoff=3 is not a Backoff"),
    ],
)
def test_settings_out_of_range_are_named(arguments: dict[str, Any], match: str) -> None:
    defaults = {"max_attempts": 3, "backoff": None, "timeout": None, "lock_after": 1}
    with pytest.raises(InvalidArgumentError, match=match):
        RetryPolicy.checked(**{**defaults, **arguments})
