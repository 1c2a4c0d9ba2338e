"""Laws of what is an N+1, over statements of any making."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from araponga_infra.queries import CallSite, Origin, Statement
from araponga_infra.queries.detection import find_n_plus_one

statements = st.builds(
    Statement,
    shape=st.sampled_from(["SELECT a", "SELECT b"]),
    parameters=st.just(()),
    parameter_sets=st.just(1),
    origin=st.sampled_from(Origin),
    place=st.sampled_from([None, CallSite("host.py", 1, "f")]),
    unit=st.integers(1, 3),
    seconds=st.none() | st.floats(0, 1),
    call_path=st.integers(1, 2),
)


@given(st.lists(statements, max_size=40))
def test_units_do_not_influence_each_other(sent: list[Statement]) -> None:
    together = find_n_plus_one(sent)
    apart = [found for unit in (1, 2, 3) for found in find_n_plus_one([s for s in sent if s.unit == unit])]
    assert sorted(map(str, together)) == sorted(map(str, apart))


@given(st.lists(statements, max_size=40), st.randoms(use_true_random=False))
def test_the_order_does_not_matter(sent: list[Statement], random: Random) -> None:
    shuffled = list(sent)
    random.shuffle(shuffled)
    assert sorted(map(str, find_n_plus_one(sent))) == sorted(map(str, find_n_plus_one(shuffled)))


@given(st.lists(statements, max_size=40))
def test_what_is_no_read_of_the_code_is_never_one(sent: list[Statement]) -> None:
    harmless = {
        Origin.WRITE,
        Origin.SELECT_IN,
        Origin.SUBQUERY,
        Origin.BATCH,
        Origin.TRANSACTION,
        Origin.CATALOG,
        Origin.OTHER,
    }
    assert all(found.origin not in harmless for found in find_n_plus_one(sent))
    assert find_n_plus_one([s for s in sent if s.origin in harmless]) == ()


@given(statements.map(lambda s: replace(s, origin=Origin.LAZY)), st.integers(2, 20), st.integers(0, 20))
def test_times_are_counted(one: Statement, times: int, min_repeats: int) -> None:
    found = find_n_plus_one([replace(one) for _ in range(times)], min_repeats=min_repeats)
    assert [each.times for each in found] == ([times] if times >= min_repeats else [])
