"""Whoever waits for a flight is woken, in whatever order the others come and go."""

from __future__ import annotations

import threading
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from araponga_infra.caching.flights import Signal


def is_woken(gate: threading.Lock) -> bool:
    """Takes the turn, as a waiter does."""
    return gate.acquire(blocking=False)


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_everybody_in_line_is_woken_though_some_leave_before_their_turn(is_patient: list[bool], random: Random) -> None:
    """Some give up just after the landing, as who checks whether the leader lives does."""
    signal = Signal()
    gates = {number: gate for number, _ in enumerate(is_patient) if (gate := signal.line_up()) is not None}
    signal.land()
    impatient = [number for number, patient in enumerate(is_patient) if not patient]
    random.shuffle(impatient)
    for number in impatient:
        signal.leave(gates.pop(number))
    while gates:
        woken = [number for number, gate in gates.items() if is_woken(gate)]
        assert woken, "the others would wait for their next look"
        for number in woken:
            signal.leave(gates.pop(number))


def test_a_landing_wakes_a_few_and_they_the_rest() -> None:
    """All at once would only queue up for the interpreter's lock, and the last one waits for the longest queue."""
    signal = Signal()
    gates = [gate for _ in range(10) if (gate := signal.line_up()) is not None]
    signal.land()
    woken = [gate for gate in gates if is_woken(gate)]
    assert len(woken) == 2
    signal.leave(woken[0])
    assert sum(is_woken(gate) for gate in gates if gate not in woken) == 1


def test_who_leaves_before_the_landing_is_not_in_line_any_more() -> None:
    signal = Signal()
    early, late = signal.line_up(), signal.line_up()
    assert early is not None
    assert late is not None
    signal.leave(early)
    signal.land()
    assert is_woken(late)
    assert not is_woken(early)


def test_nobody_lines_up_for_what_has_landed() -> None:
    signal = Signal()
    signal.land()
    assert signal.line_up() is None
