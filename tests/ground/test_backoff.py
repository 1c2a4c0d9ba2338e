from __future__ import annotations

import pickle
import random
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from araponga_infra import Backoff, InvalidArgumentError


def test_without_jitter_the_delay_doubles_up_to_the_maximum() -> None:
    backoff = Backoff(initial=1, maximum=5, jitter=False)
    assert [backoff.delay(attempt) for attempt in (1, 2, 3, 4, 5000)] == [1, 2, 4, 5, 5]


def test_durations_may_be_timedeltas() -> None:
    assert Backoff(initial=timedelta(seconds=1), maximum=timedelta(minutes=1)) == Backoff(1, 60)


@given(
    initial=st.floats(0, 10), growth=st.floats(0, 100), factor=st.floats(1, 10), attempt=st.integers(1, 10_000),
    seed=st.integers(),
)  # fmt: skip
def test_a_delay_lies_within_its_bounds_and_follows_from_the_seed(
    initial: float, growth: float, factor: float, attempt: int, seed: int
) -> None:
    backoff = Backoff(initial, initial + growth, factor)
    delay = backoff.delay(attempt, random.Random(seed))
    assert 0 <= delay <= Backoff(initial, initial + growth, factor, jitter=False).delay(attempt) <= initial + growth
    assert delay == backoff.delay(attempt, random.Random(seed))


def test_jitter_draws_from_the_whole_range() -> None:
    rng = random.Random(1)
    delays = [Backoff(initial=1, maximum=1).delay(1, rng) for _ in range(1000)]
    assert min(delays) < 0.05
    assert max(delays) > 0.95


def test_it_is_a_value() -> None:
    backoff = Backoff(1, 2)
    assert pickle.loads(pickle.dumps(backoff)) == backoff
    assert len({backoff, Backoff(1, 2)}) == 1
    with pytest.raises(AttributeError):
        backoff.factor = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"initial": -1}, "initial"),
        ({"initial": float("nan")}, "initial"),
        ({"initial": "1"}, "initial"),
        ({"initial": 2, "maximum": 1}, "maximum"),
        ({"factor": 0.5}, "factor"),
        ({"factor": float("nan")}, "factor"),
        ({"factor": "2"}, "factor"),
    ],
)
def test_bad_input_names_the_argument(arguments: dict[str, float], named: str) -> None:
    with pytest.raises(InvalidArgumentError, match=named):
        Backoff(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("attempt", [0, -1, float("nan"), "1", None])
def test_attempts_are_counted_from_one(attempt: int) -> None:
    with pytest.raises(InvalidArgumentError, match="attempt="):
        Backoff().delay(attempt)
