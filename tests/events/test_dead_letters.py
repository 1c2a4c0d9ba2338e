"""Dead letters as an operator has them, over every store, sync and async."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, text

from araponga_infra.cli.commands import command_line
from araponga_infra.events import DeadReason, EventRouter, SqlAlchemyEventStore
from araponga_infra.testing.clock import FakeClock
from tests.events import quarantine
from tests.events.hosts import Happened, Host, eventually, settled

pytestmark = pytest.mark.anyio
MANY = 450
"""More than two batches of a redrive."""


def failing(calls: list[int] | None = None) -> EventRouter:
    router = EventRouter()

    @router.subscribe(Happened, max_attempts=1)
    def fails(happened: Happened) -> None:
        if calls is not None:
            calls.append(happened.number)
        raise OSError("out of order")

    return router


async def bury(host: Host, processor: Any, number: int) -> None:
    await settled(processor.publish_many([Happened(each) for each in range(number)]))
    await host.run_until_idle(processor, raise_dead=False)
    assert (await settled(processor.stats())).dead == number


async def elsewhere(host: Host, call: Callable[[], Any]) -> Any:
    """Call it where it may block: in another thread, with an event loop of its own."""
    return await asyncio.to_thread(lambda: asyncio.run(call()) if host.is_async else call())


async def every(host: Host, letters: Any) -> list[Any]:
    return [each async for each in letters] if host.is_async else list(letters)


# -- redriving while they die again


async def test_each_is_redriven_once_though_it_dies_again_meanwhile(host: Host) -> None:
    calls, steps, loop = list[int](), list[int](), asyncio.get_running_loop()
    processor = await host.started(failing(calls))
    await settled(processor.publish_many([Happened(each) for each in range(MANY)]))

    async def are_all_dead() -> bool:
        return bool((await settled(processor.stats())).dead == MANY)

    def until_they_died_again(done: int) -> None:
        steps.append(done)
        assert done <= MANY
        asyncio.run_coroutine_threadsafe(eventually(are_all_dead), loop).result(30)

    await eventually(are_all_dead)
    redriven = await elsewhere(host, lambda: processor.dead_letters.redrive_all(on_progress=until_they_died_again))
    assert (redriven, steps) == (MANY, [200, 400, MANY])
    assert sorted(calls) == sorted([*range(MANY), *range(MANY)])
    assert len(await every(host, processor.dead_letters)) == MANY


async def test_what_is_redriven_while_they_are_listed_does_not_come_again(host: Host) -> None:
    processor = await host.started(failing(), consume=False)
    await bury(host, processor, MANY)
    seen = list[Any]()

    async def redrive_all() -> None:
        assert await settled(processor.dead_letters.redrive_all()) == MANY
        await host.run_until_idle(processor, raise_dead=False)

    if host.is_async:
        async for each in processor.dead_letters:
            seen.append(each.id)
            if len(seen) == 1:
                await redrive_all()
    else:
        for each in processor.dead_letters:
            seen.append(each.id)
            if len(seen) == 1:
                await redrive_all()
    assert len(seen) == len(set(seen)) == 200, "those that had been read by then"
    assert len(await every(host, processor.dead_letters)) == MANY


async def test_no_dead_letter_is_nothing_to_redrive_or_list(host: Host) -> None:
    letters = (await host.started(consume=False)).dead_letters
    assert await settled(letters.redrive_all()) == 0
    assert await every(host, letters) == []


async def test_pages_go_on_while_dead_letters_come_and_go(host: Host) -> None:
    processor = await host.started(failing(), consume=False)
    await bury(host, processor, 30)
    letters, wanted = processor.dead_letters, {"handler": "fails", "reason": "attempts_exhausted"}
    every_one = (await settled(letters.list(**wanted))).items
    first = await settled(letters.list(**wanted, limit=10))
    await settled(letters.discard(first.items[-1].id))
    await settled(letters.discard(every_one[15].id))
    await settled(letters.redrive(first.items[0].id))
    await host.run_until_idle(processor, raise_dead=False)
    second = await settled(letters.list(**wanted, limit=10, after=first.next))
    assert (first.items, second.items) == (every_one[:10], every_one[10:15] + every_one[16:21])
    third = await settled(letters.list(**wanted, after=second.next))
    assert third.items[:-1] == every_one[21:]
    assert third.items[-1].event_id == every_one[0].event_id, "which died again"


# -- in batches


class StoppedByHandError(Exception):
    """What an operator does in the middle."""


@pytest.mark.parametrize("operation", ["redrive_all", "purge"])
async def test_what_is_interrupted_has_done_whole_batches_and_goes_on_when_it_is_called_again(
    host: Host, operation: str
) -> None:
    processor, steps = await host.started(failing(), consume=False), list[int]()
    await bury(host, processor, 3 * MANY)
    arguments = {"older_than": 0} if operation == "purge" else {}
    call = getattr(processor.dead_letters, operation)

    def interrupt(done: int) -> None:
        steps.append(done)
        if len(steps) == 2:
            raise StoppedByHandError

    with pytest.raises(StoppedByHandError):
        await settled(call(**arguments, on_progress=interrupt))
    stats = await settled(processor.stats())
    assert 0 < steps[0] < steps[1] < 3 * MANY
    assert stats.dead == 3 * MANY - steps[1]
    assert stats.queued == (steps[1] if operation == "redrive_all" else 0)
    assert await settled(call(**arguments)) == 3 * MANY - steps[1]
    assert (await settled(processor.stats())).dead == 0


# -- each reason, mended


async def test_what_became_a_dead_letter_for_any_reason_is_redriven_after_the_fix(host: Host, clock: FakeClock) -> None:
    letters = await quarantine.quarantine(host, clock)
    _check(host, letters)
    seen = list[tuple[DeadReason, Any]]()
    processor = await host.started(quarantine.mended(seen), consume=False, clock=clock)
    for reason, letter in letters.items():
        assert (await settled(processor.dead_letters.list(reason=reason))).items == (letter,)
        assert await settled(processor.dead_letters.redrive_all(reason=reason)) == 1
        assert (await host.run_until_idle(processor)).completed == 1
    assert seen == [(reason, quarantine.READ[reason]) for reason in letters]
    assert (await settled(processor.stats())).dead == 0


def _check(host: Host, letters: dict[DeadReason, Any]) -> None:
    """With the bytes that were published; in memory nobody keeps what has no subscriber."""
    expected = dict(quarantine.BYTES)
    if not host.source.capabilities.is_durable:
        del expected[DeadReason.NO_SUBSCRIBER]
    assert {reason: letter.payload for reason, letter in letters.items()} == expected


async def test_an_operator_redrives_what_became_a_dead_letter_for_any_reason(
    host: Host, clock: FakeClock, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not host.source.capabilities.is_durable:
        return
    if host.engine is None:
        url = request.getfixturevalue("redis_url")
    else:
        url = host.engine.url.render_as_string(hide_password=False).replace("+aiosqlite", "")
    for name, value in quarantine.where(url).items():
        monkeypatch.setenv(name, value)

    async def operate(*arguments: str) -> str:
        command = ["dead-letters", *arguments, "--app", "tests.events.quarantine:operated"]
        result = await asyncio.to_thread(CliRunner().invoke, command_line, command)
        assert result.exit_code == 0, result.output
        return result.stdout

    letters = await quarantine.quarantine(host, clock)
    seen = list[tuple[DeadReason, Any]]()
    processor = await host.started(quarantine.mended(seen), consume=False, clock=clock)
    for reason, letter in letters.items():
        shown = json.loads(await operate("show", letter.id, "--json"))
        assert (shown["reason"], shown["payload"].encode()) == (reason, quarantine.BYTES[reason])
        assert await operate("redrive", "--all", "--reason", reason.value) == "1 redriven\n"
    assert (await host.run_until_idle(processor)).completed == len(quarantine.BYTES)
    assert sorted(seen) == sorted((reason, quarantine.READ[reason]) for reason in letters)


# -- what it was before


async def test_a_delayed_event_that_is_redriven_is_not_delivered_before_its_time(host: Host, clock: FakeClock) -> None:
    router, seen = EventRouter(), list[int]()
    router.subscribe(Happened, name="note")(lambda happened: seen.append(happened.number))
    processor = await host.started(router, consume=False, clock=clock)
    await settled(processor.publish(Happened(1), delay=timedelta(hours=1)))
    await settled(processor.publish(Happened(2)))
    await settled(processor.forget_handler("note"))
    mended = await host.started(router, consume=False, clock=clock)
    assert await settled(mended.dead_letters.redrive_all()) == 2
    await host.run_until_idle(mended, skip_delays=False)
    assert seen == [2]
    clock.advance(timedelta(hours=1))
    await host.run_until_idle(mended, skip_delays=False)
    assert seen == [2, 1]


async def test_a_delayed_event_without_a_subscriber_is_not_delivered_before_its_time_either(
    host: Host, clock: FakeClock
) -> None:
    if not host.source.capabilities.is_durable:
        return
    publisher = await host.started(consume=False, clock=clock)
    await settled(publisher.publish(Happened(1), delay=timedelta(hours=1)))
    router, seen = EventRouter(), list[int]()
    router.subscribe(Happened, name="note")(lambda happened: seen.append(happened.number))
    mended = await host.started(router, consume=False, clock=clock)
    assert await settled(mended.dead_letters.redrive_all()) == 1
    await host.run_until_idle(mended, skip_delays=False)
    assert seen == []
    clock.advance(timedelta(hours=1))
    await host.run_until_idle(mended, skip_delays=False)
    assert seen == [1]


async def test_events_of_a_key_are_redriven_in_their_order_behind_what_waits(host: Host) -> None:
    if not host.source.capabilities.ordering:
        return
    router, seen, is_mended = EventRouter(), list[int](), list[bool]()

    @router.subscribe(Happened, max_attempts=1)
    def note(happened: Happened) -> None:
        if not is_mended:
            raise OSError("out of order")
        seen.append(happened.number)

    processor = await host.started(router, consume=False)
    for number in range(210):
        await settled(processor.publish(Happened(number), ordering_key="key"))
    await host.run_until_idle(processor, raise_dead=False)
    is_mended.append(True)
    await settled(processor.publish(Happened(1000), ordering_key="key"))
    assert await settled(processor.dead_letters.redrive_all()) == 210
    await host.run_until_idle(processor)
    assert seen == [1000, *range(210)]


# -- several operators


async def test_each_is_taken_by_one_of_several_operators(host: Host, clock: FakeClock) -> None:
    calls = list[int]()
    processor = await host.started(failing(calls), consume=False)
    await bury(host, processor, MANY)
    operators = [host.make(consume=False) for _ in range(3)]
    letters = [each.dead_letters for each in operators]

    def at_once(call: Callable[[], Any]) -> Any:
        return call() if host.is_async else asyncio.to_thread(call)

    *redriven, purged = await asyncio.gather(
        at_once(letters[0].redrive_all), at_once(letters[1].redrive_all), at_once(lambda: letters[2].purge(0))
    )
    stats = await settled(processor.stats())
    assert sum(redriven) + purged == MANY
    assert (stats.queued, stats.dead) == (sum(redriven), 0)
    calls.clear()
    await host.run_until_idle(processor, raise_dead=False)
    assert len(calls) == len(set(calls)) == sum(redriven)
    for each in operators:
        await host.stop(each)


@pytest.mark.parametrize("operation", ["redrive", "discard"])
async def test_operators_lock_dead_letters_in_one_order(postgres_database: Any, operation: str) -> None:
    """That of their ids, however they lie in the table: in different ones, two operators would wait for each other."""
    as_they_lie = {"options": "-c enable_indexscan=off -c enable_bitmapscan=off"}
    engine = create_engine(postgres_database.url("psycopg"), connect_args=as_they_lie)
    source = SqlAlchemyEventStore(engine)
    source.create_schema()
    store, ids = source.sync_store(), [str(each) for each in range(1, 201)]
    letter = text(
        "INSERT INTO araponga_deliveries (id, handler, state, due_at, event_id, name, version, payload, published_at, "
        "reason, died_at) OVERRIDING SYSTEM VALUE "
        "VALUES (:id, 'h', 'dead', 0, :event_id, 'e', 1, '{}', 0, 'gave_up', 0)"
    )
    with engine.begin() as connection:
        connection.execute(letter, [{"id": int(each), "event_id": uuid4()} for each in reversed(ids)])
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    locked = text(
        "SELECT id FROM araponga_deliveries WHERE id NOT IN (SELECT id FROM araponga_deliveries FOR UPDATE SKIP LOCKED)"
    )

    def count_waiting() -> int:
        with engine.connect() as connection:
            return int(connection.execute(waiting).scalar_one())

    with engine.begin() as holder:
        holder.execute(text("SELECT id FROM araponga_deliveries WHERE id = 100 FOR UPDATE"))
        operator = asyncio.create_task(asyncio.to_thread(getattr(store, operation), ids))
        await eventually(count_waiting)
        with engine.connect() as looker:
            assert sorted(looker.execute(locked).scalars()) == list(range(1, 101))
    assert await operator == 200
    engine.dispose()
