"""A unit that lost a moment ago locks first when it runs again; the memory of that is short and small."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from araponga_infra.concurrency.attempts import Course, FailedAttempt
from araponga_infra.concurrency.classification import Failure
from araponga_infra.concurrency.decisions import RetryPolicy
from araponga_infra.concurrency.hot_units import MOMENT_SECONDS, RESPITE_SECONDS, Call, HotUnits
from araponga_infra.concurrency.journal import ExpectedRow
from araponga_infra.testing.clock import FakeClock

from .blog import Ledger, Post, like
from .databases import Asked, Database

Others = sessionmaker[Session]


def row(key: int, cls: type[Any] = Post) -> ExpectedRow:
    return ExpectedRow(cls.__mapper__, (key,), 1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def units(clock: FakeClock) -> HotUnits:
    return HotUnits(clock)


def rows_locked(units: HotUnits, *call: Any) -> tuple[Any, ...] | None:
    work, *args = call
    found = units.lock_for((work, tuple(args), {}))
    return tuple(row.identity for row in found.rows) if found is not None else None


def test_a_unit_is_its_work_and_its_arguments(units: HotUnits) -> None:
    units.remember((like, (1,), {"by": "Iara"}), [row(1)], is_sqlite=False)
    assert units.lock_for((like, (1,), {"by": "Iara"})) is not None
    others: list[tuple[Any, Any, Any]] = [
        (like, (2,), {"by": "Iara"}),
        (like, (1,), {"by": "Caio"}),
        (like, (1,), {}),
        (rows_locked, (1,), {"by": "Iara"}),
    ]
    assert [units.lock_for(other) for other in others] == [None] * 4


def _handler(post_id: int, title: str = "Feira") -> Callable[[Session], int]:
    def edit(session: Session, shown: str = title) -> int:
        return like(session, post_id)

    return edit


def test_functions_made_by_the_same_code_of_the_same_values_are_one_unit(units: HotUnits) -> None:
    units.remember((_handler(1), (), {}), [row(1)], is_sqlite=False)
    assert rows_locked(units, _handler(1)) == ((1,),)
    assert rows_locked(units, _handler(2)) is None
    assert rows_locked(units, _handler(1, "Bazar")) is None


def test_a_function_over_values_without_a_hash_stands_for_itself(units: HotUnits) -> None:
    def made_over(calls: list[int]) -> Callable[[], int]:
        return lambda: len(calls)

    work = made_over([])
    units.remember((work, (), {}), [row(1)], is_sqlite=False)
    assert rows_locked(units, work) == ((1,),)
    assert rows_locked(units, made_over([])) is None


class _Raises:
    def __hash__(self) -> int:
        raise RuntimeError("no hash today")


@pytest.mark.parametrize("argument", [[1], {"id": 1}, _Raises()], ids=["list", "dict", "hash that raises"])
def test_arguments_without_a_hash_are_not_remembered(units: HotUnits, argument: object) -> None:
    units.remember((like, (argument,), {}), [row(1)], is_sqlite=False)
    units.avoid((like, (argument,), {}))
    units.remember((like, (1,), {}), [row(1)], is_sqlite=False)
    assert rows_locked(units, like, argument) is None


def test_it_is_forgotten_after_a_moment(units: HotUnits, clock: FakeClock) -> None:
    units.remember((like, (1,), {}), [row(1)], is_sqlite=False)
    clock.advance(MOMENT_SECONDS - 0.01)
    assert rows_locked(units, like, 1) == ((1,),)
    clock.advance(0.01)
    assert rows_locked(units, like, 1) is None


def test_two_rows_that_it_lost_to_in_turn_are_both_locked(units: HotUnits, clock: FakeClock) -> None:
    units.remember((like, (1,), {}), [row(1)], is_sqlite=False)
    units.remember((like, (1,), {}), [row(1, Ledger), row(1)], is_sqlite=False)
    found = units.lock_for((like, (1,), {}))
    assert found is not None
    assert {row.mapper for row in found.rows} == {Post.__mapper__, Ledger.__mapper__}
    clock.advance(MOMENT_SECONDS)
    units.remember((like, (1,), {}), [row(2)], is_sqlite=False)
    assert rows_locked(units, like, 1) == ((2,),)


def test_neither_work_nor_arguments_are_kept_alive(units: HotUnits) -> None:
    class Request: ...

    request = Request()
    work = _handler(1)
    gone: list[weakref.ref[Any]] = [weakref.ref(request), weakref.ref(work)]
    units.remember((work, (request,), {}), [row(1)], is_sqlite=False)
    del request, work
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_it_is_bounded(units: HotUnits) -> None:
    for number in range(10_000):
        units.remember((like, (number,), {}), [row(number)], is_sqlite=False)
        units.avoid((like, (-number - 2,), {}))
    assert len(units._units) <= 1_000
    assert len(units._respites) <= 1_000
    assert rows_locked(units, like, 9_999) == ((9_999,),)


def test_a_unit_of_very_many_rows_is_not_remembered(units: HotUnits) -> None:
    units.remember((like, (1,), {}), [row(number) for number in range(500)], is_sqlite=False)
    assert rows_locked(units, like, 1) is None


def _course(units: HotUnits, clock: FakeClock, lock_after: int | None = 1) -> Course:
    return Course((like, (1,), {}), RetryPolicy(lock_after=lock_after), clock, None, units)


def test_a_lock_that_ended_in_a_deadlock_is_left_for_a_while(units: HotUnits, clock: FakeClock) -> None:
    call: Call = (like, (1,), {})
    units.remember(call, [row(1)], is_sqlite=False)
    course = _course(units, clock)
    assert course.lock_first is not None
    course.after(FailedAttempt(RuntimeError("deadlock detected"), Failure.CONFLICT))
    units.remember(call, [row(1)], is_sqlite=False)
    assert units.lock_for(call) is None
    clock.advance(RESPITE_SECONDS)
    units.remember(call, [row(1)], is_sqlite=False)
    assert units.lock_for(call) is not None


def test_another_row_that_moved_is_no_reason_to_leave_it(units: HotUnits, clock: FakeClock) -> None:
    units.remember((like, (1,), {}), [row(1)], is_sqlite=False)
    _course(units, clock).after(FailedAttempt(RuntimeError("stale"), Failure.STALE, (row(2),)))
    assert rows_locked(units, like, 1) == ((1,),)


def test_who_never_locks_does_not_lock_first(units: HotUnits, clock: FakeClock) -> None:
    units.remember((like, (1,), {}), [row(1)], is_sqlite=False)
    assert _course(units, clock, lock_after=None).lock_first is None


@pytest.fixture
def asked(database: Database) -> Iterator[Asked]:
    listening = Asked(database)
    yield listening
    listening.close()


def test_the_next_run_of_a_unit_that_conflicted_locks_first(database: Database, others: Others, asked: Asked) -> None:
    with others.begin() as session:
        session.add(Post(id=2))
    clock = FakeClock()
    execute = database.helper(clock=clock)
    is_overtaken = [True]

    def edit(session: Session, post_id: int) -> int:
        post = session.get_one(Post, post_id)
        if is_overtaken and is_overtaken.pop():
            with others.begin() as other:
                like(other, post_id)
        post.likes += 1
        return post.likes

    assert execute(edit, 1) == 2
    assert not asked.is_locked_first()
    assert execute(edit, 1) == 3
    assert asked.is_locked_first()
    assert execute(edit, 2) == 1
    assert not asked.is_locked_first(), "that is another unit"
    clock.advance(MOMENT_SECONDS)
    assert execute(edit, 1) == 4
    assert not asked.is_locked_first(), "that was too long ago"


def test_a_row_that_is_gone_is_nothing_to_lock(database: Database, others: Others, asked: Asked) -> None:
    execute = database.helper(clock=FakeClock())
    is_overtaken = [True]

    def retitle_if_there(session: Session) -> bool:
        post = session.get(Post, 1)
        if is_overtaken and is_overtaken.pop():
            with others.begin() as other:
                like(other, 1)
        if post is not None:
            post.title = "Bazar"
        return post is not None

    assert execute(retitle_if_there) is True
    with others.begin() as session:
        session.delete(session.get_one(Post, 1))
    asked.texts.clear()
    assert execute(retitle_if_there) is False
    assert asked.is_locked_first()
