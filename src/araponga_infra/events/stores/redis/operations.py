"""What the Redis store does, as calls of scripts: both shells send these and have the answers read here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID, uuid4

import msgspec

from araponga_infra.clock import SYSTEM_CLOCK, Clock
from araponga_infra.events.lifecycle import place_of
from araponga_infra.events.protocols import Settlement
from araponga_infra.events.stores.redis.lua import Script, script
from araponga_infra.events.subscribing import SubscriptionPlan, plan_subscriptions
from araponga_infra.events.values import (
    Appended,
    DeadFilter,
    DeadLetter,
    DeadReason,
    Delivery,
    EventStats,
    Exchange,
    HandlerStats,
    Message,
    Reaped,
    Receipt,
    Subscription,
    Want,
    as_datetime,
)

__all__ = ["FORGET_BATCH", "Call", "DeadLook", "RedisOperations", "Stored"]

T = TypeVar("T")
FORGET_BATCH = 1000
"""Deliveries that a script buries, while all others wait for it."""


class _Envelope(msgspec.Struct, frozen=True, array_like=True):
    """What stays the same for all deliveries of an event, as JSON: readable on clients that decode and that do not."""

    event_id: UUID
    name: str
    version: int
    payload: bytes
    headers: dict[str, str] | None
    published_at: float


_read_envelope = msgspec.json.Decoder(_Envelope).decode


@dataclass(frozen=True)
class Stored:
    """What Redis knows of subscriptions.

    Args:
        life: another name after each loss of its data; empty before the first subscription.
        subscriptions: of all processes.
    """

    life: str
    subscriptions: list[Subscription]


@dataclass(frozen=True)
class DeadLook(Generic[T]):
    """What a script found that looked at some of the dead letters.

    Args:
        found: those that are wanted.
        behind: the place to look on behind; None at the end.
    """

    found: list[T]
    behind: str | None


@dataclass(frozen=True)
class Call(Generic[T]):
    """One script, its arguments, and how to read the answer."""

    script: Script
    arguments: tuple[Any, ...]
    read: Callable[[Any], T]


class RedisOperations:
    """Operations under one root key.

    Args:
        namespace: becomes the hash tag that all keys begin with.
        clock: the host's; None means Redis' own.
    """

    def __init__(self, namespace: str, clock: Clock | None) -> None:
        self.root: str = f"{{{namespace}}}:events"
        self._clock = clock
        self._handlers: tuple[str, ...] = ()
        self._known: dict[str, Subscription] = {}
        self._life = ""

    def _now(self) -> str:
        return "" if self._clock is None else str(int(self._clock.now().timestamp() * 1000))

    # -- subscriptions

    def subscriptions(self) -> Call[Stored]:
        return Call(
            script("subscriptions"), (), lambda answer: Stored(_text(answer[0]), _read_subscriptions(answer[1]))
        )

    def plan(self, stored: Stored, wanted: Sequence[Subscription]) -> SubscriptionPlan:
        known = {each.handler: each for each in stored.subscriptions}
        plan = plan_subscriptions(known.values(), wanted)
        keep = tuple(each for each in plan.keep if known.get(each.handler) != each)
        self._handlers = tuple({*known, *plan.names})
        self._life = stored.life
        self._known = {name: each for name, each in known.items() if name not in plan.remove}
        self._known.update({each.handler: each for each in keep})
        return SubscriptionPlan(keep, plan.remove, plan.names)

    def subscribe(self, plan: SubscriptionPlan) -> Call[None]:
        return self._subscribe(plan.keep, plan.remove, is_restoring=False)

    def is_lost(self, stored: Stored) -> bool:
        """Whether Redis has lost its data since, and others rely on what is known here: `restore` it."""
        return bool(self._known) and stored.life != self._life

    def restore(self) -> Call[None]:
        """Write what is known of the subscriptions of any process and is missing: others may know more, or less."""
        return self._subscribe(tuple(self._known.values()), (), is_restoring=True)

    def _subscribe(self, keep: Sequence[Subscription], remove: Sequence[str], *, is_restoring: bool) -> Call[None]:
        kept = [(each.handler, each.event_name, _json(each)) for each in keep]
        arguments = _json(kept), _json(remove), uuid4().hex, _flag(is_restoring)
        return Call(script("subscribe"), arguments, self._read_life)

    def _read_life(self, answer: str | bytes) -> None:
        self._life = _text(answer)

    def forget(self, handler: str) -> Call[int]:
        """Answers how many were buried; fewer than `FORGET_BATCH` when they are all."""
        return Call(script("forget"), (self._now(), handler, FORGET_BATCH), int)

    # -- publishing

    def append(self, messages: Sequence[Message], *, is_restored: bool = False) -> Call[Appended | None]:
        """Answers None when Redis has lost the subscriptions: `restore` them first."""
        published_at = (self._clock or SYSTEM_CLOCK).now().timestamp()
        batch = [
            (
                each.name,
                each.event_id.hex,
                int(each.window_seconds * 1000),
                -1 if each.due_at is None else int(each.due_at * 1000),
                int(each.delay_seconds * 1000),
                _json(_envelope(each, published_at)),
            )
            for each in messages
        ]
        life = "" if is_restored else self._life
        return Call(script("append"), (self._now(), _json(batch), len(self._known), life), self._read_appended)

    def _read_appended(self, answer: Sequence[Any]) -> Appended | None:
        if int(answer[0]) < 0:
            return None
        if answer[3]:
            self._known = {each.handler: each for each in _read_subscriptions(answer[3])}
            self._life = _text(answer[4])
        return Appended(*map(int, answer[:3]))

    # -- processing

    def exchange(
        self,
        owner: str,
        completed: Sequence[Receipt],
        settlements: Sequence[Settlement],
        wants: Sequence[Want],
        ignore_due: bool,
    ) -> Call[Exchange]:
        arguments = (
            owner, self._now(), _json(_by_stream(completed)), _json([_settlement(each) for each in settlements]),
            _json(wants), _flag(ignore_due),
        )  # fmt: skip
        return Call(script("exchange"), arguments, _read_exchange)

    def claim_alone(self, owner: str, handlers: Sequence[str]) -> Call[Exchange]:
        return Call(
            script("claim_alone"),
            (owner, _json(handlers)),
            lambda claims: Exchange([_read_claim("alone", each) for each in claims]),
        )

    # -- workers

    def join(self, owner: str, lease_seconds: float) -> Call[None]:
        return Call(script("join"), (owner, self._now(), int(lease_seconds * 1000)), _ignore)

    def beat(self, owner: str, lease_seconds: float) -> Call[bool]:
        return Call(script("beat"), (owner, self._now(), int(lease_seconds * 1000)), bool)

    def reap(self, handlers: Sequence[str]) -> Call[Reaped]:
        arguments = (self._now(), _json(handlers))
        return Call(script("reap"), arguments, lambda answer: Reaped(int(answer[0]), bool(answer[1])))

    def reconcile(self, owner: str, held: Sequence[str], *, is_leaving: bool) -> Call[int]:
        arguments = (owner, _json(held), _flag(is_leaving), _json(self._handlers))
        return Call(script("reconcile"), arguments, int)

    # -- looking

    def pending(self, handlers: Sequence[str], ignore_due: bool) -> Call[int]:
        return Call(script("pending"), (self._now(), _json(handlers), _flag(ignore_due)), int)

    def stats(self) -> Call[EventStats]:
        now = (self._clock or SYSTEM_CLOCK).now().timestamp()
        return Call(script("stats"), (self._now(),), lambda answer: _read_stats(answer, now))

    # -- dead letters

    def newest_dead(self) -> Call[str | None]:
        return Call(script("newest_dead"), (), lambda answer: None if answer is None else _text(answer))

    def look_at_dead(self, wanted: DeadFilter, limit: int, after: str | None) -> Call[DeadLook[DeadLetter]]:
        if after is not None:
            place_of(after)
        return Call(
            script("dead_page"), _page_of(wanted, limit, after), lambda answer: _read_look(answer, _read_letter)
        )

    def old_letters(
        self, wanted: DeadFilter, died_before: datetime, limit: int, after: str | None
    ) -> Call[DeadLook[str]]:
        latest = int(died_before.timestamp() * 1000)
        arguments = (*_fields_of(wanted), limit, after or "", latest)
        return Call(script("old_letters"), arguments, lambda answer: _read_look(answer, _text))

    def dead_letter(self, letter: str) -> Call[DeadLetter | None]:
        """The one behind the id before it, if it is that one."""
        before = str(int(letter) - 1) if letter.isdecimal() else "+inf"
        return Call(script("dead_page"), _page_of(DeadFilter(), 1, before), lambda answer: _read_one(answer, letter))

    def redrive(self, letters: Iterable[str]) -> Call[int]:
        return Call(script("redrive"), (self._now(), _ids(letters)), int)

    def discard(self, letters: Iterable[str]) -> Call[int]:
        return Call(script("discard"), (_ids(letters),), int)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _ids(letters: Iterable[str]) -> str:
    return _json([each for each in letters if each.isdecimal()])


def _flag(value: bool) -> str:
    return "1" if value else "0"


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _ignore(_answer: Any) -> None:
    return None


def _envelope(message: Message, published_at: float) -> _Envelope:
    headers = dict(message.headers) if message.headers else None
    return _Envelope(message.event_id, message.name, message.version, message.payload, headers, published_at)


def _read_subscriptions(answer: Sequence[Any]) -> list[Subscription]:
    return [msgspec.json.decode(each, type=Subscription) for each in answer[1::2]]


def _by_stream(completed: Sequence[Receipt]) -> list[tuple[str, str, list[str]]]:
    streams: dict[tuple[str, str], list[str]] = {}
    for _, delivery in completed:
        kind, entry, _ = delivery.id.split(":", 2)
        streams.setdefault((kind, delivery.handler), []).append(entry)
    return [(kind, handler, entries) for (kind, handler), entries in streams.items()]


def _settlement(settlement: Settlement) -> tuple[Any, ...]:
    (_, delivery), decision = settlement
    kind, entry, _ = delivery.id.split(":", 2)
    return (
        kind, delivery.handler, entry, delivery.name, decision.state.value, int(decision.delay_seconds * 1000),
        decision.attempts, decision.losses, decision.reason.value if decision.reason else "", decision.error or "",
    )  # fmt: skip


def _read_claim(kind: str, claim: Sequence[Any]) -> Delivery:
    handler, entry, attempts, losses, envelope = claim
    stored = _read_envelope(envelope)
    name = _text(handler)
    return Delivery(
        f"{kind}:{_text(entry)}:{name}", name, stored.event_id, stored.name, stored.version, stored.payload,
        stored.headers, stored.published_at, int(attempts), int(losses),
    )  # fmt: skip


def _read_exchange(answer: Sequence[Any]) -> Exchange:
    fenced, next_due, claims = answer
    deliveries = [_read_claim("ready", each) for each in claims]
    waits = not deliveries and int(next_due) >= 0
    return Exchange(deliveries, int(next_due) / 1000 if waits else None, int(fenced))


def _read_stats(answer: Sequence[Any], now: float) -> EventStats:
    rows, dead_counts = answer
    dead = {
        _event_and_handler(name): int(number) for name, number in zip(dead_counts[::2], dead_counts[1::2], strict=True)
    }
    handlers: dict[tuple[str, str], HandlerStats] = {}
    for event, handler, queued, running, retrying, first in rows:
        name = _text(event), _text(handler)
        oldest = max((now - _read_envelope(each).published_at for each in first), default=0.0)
        handlers[name] = HandlerStats(
            *name, int(queued), int(running), int(retrying), dead.pop(name, 0), max(0.0, oldest)
        )
    handlers.update({name: HandlerStats(name[0], name[1], dead=number) for name, number in dead.items()})
    return EventStats.of(tuple(handlers[each] for each in sorted(handlers)))


def _event_and_handler(name: str | bytes) -> tuple[str, str]:
    event, _, handler = _text(name).partition("\n")
    return event, handler


def _fields_of(wanted: DeadFilter) -> tuple[str, str, str]:
    return wanted.event or "", wanted.handler or "", str(wanted.reason or "")


def _page_of(wanted: DeadFilter, limit: int, after: str | None) -> tuple[Any, ...]:
    return *_fields_of(wanted), limit, after or "0", wanted.until or "+inf"


def _read_letter(row: Sequence[Any]) -> DeadLetter:
    letter, handler, attempts, losses, envelope, reason, problem, died_at = row
    stored = _read_envelope(envelope)
    return DeadLetter(
        id=_text(letter), event_id=stored.event_id, event_name=stored.name, event_version=stored.version,
        handler=_text(handler), attempts=int(attempts), lost_leases=int(losses), reason=DeadReason(_text(reason)),
        error=_text(problem) or None, published_at=as_datetime(stored.published_at),
        died_at=as_datetime(int(died_at) / 1000), payload=stored.payload, headers=stored.headers or {},
    )  # fmt: skip


def _read_look(answer: Sequence[Any], read: Callable[[Any], T]) -> DeadLook[T]:
    behind, found = answer
    return DeadLook([read(each) for each in found], _text(behind) or None)


def _read_one(answer: Sequence[Any], letter: str) -> DeadLetter | None:
    found = _read_look(answer, _read_letter).found
    return found[0] if found and found[0].id == letter else None
