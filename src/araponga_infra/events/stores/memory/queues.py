"""What is queued in memory, and for whom: one set of queues, behind one lock."""

from __future__ import annotations

import heapq
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import count, islice

import msgspec

from araponga_infra.clock import Clock
from araponga_infra.events.errors import QueueFullError
from araponga_infra.events.lifecycle import Abandoned, Decision, Redriven, RetryPolicy, decide
from araponga_infra.events.protocols import Settlement, Wake
from araponga_infra.events.stores.memory.letters import BuriedLetters
from araponga_infra.events.subscribing import plan_subscriptions
from araponga_infra.events.values import (
    Appended,
    Capabilities,
    DeadFilter,
    DeadLetter,
    DeadReason,
    Delivery,
    EventStats,
    Exchange,
    HandlerStats,
    Message,
    Page,
    Reaped,
    Receipt,
    State,
    Subscription,
    Want,
)

__all__ = ["CAPABILITIES", "MemoryLeaseKeeper", "MemoryListener", "MemoryStore"]

CAPABILITIES = Capabilities(is_durable=False, ordering=True, transactions=False)
_ANY_POLICY = RetryPolicy()
_logger = logging.getLogger("araponga_infra.events.memory")


class _Queue:
    """The deliveries of one handler. `keys` holds what waits behind the head of each ordering key."""

    __slots__ = ("event_name", "keys", "later", "ready", "running", "suspects")

    def __init__(self, event_name: str) -> None:
        self.event_name = event_name
        self.ready: deque[Delivery] = deque()
        self.later: list[tuple[float, int, Delivery]] = []
        self.suspects: deque[Delivery] = deque()
        self.running: dict[str, Receipt] = {}
        self.keys: dict[str, deque[tuple[float, Delivery]]] = {}


class MemoryStore:
    """For sync code, and behind the async shell; thread-safe."""

    capabilities = CAPABILITIES

    def __init__(self, clock: Clock, max_dead: int) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._numbers = count(1)
        self._subscriptions: dict[str, Subscription] = {}
        self._names_by_event: dict[str, list[tuple[str, _Queue]]] = {}
        self._queues: dict[str, _Queue] = {}
        self._dead = BuriedLetters(clock, max_dead)
        self._accepted: dict[object, float] = {}
        self._leases: dict[str, float] = {}
        self._live = 0
        self._wakes: list[Wake] = []
        self._room_waiters: list[Callable[[], object]] = []
        self._warned: set[str] = set()

    # -- subscriptions

    def register(self, subscriptions: Sequence[Subscription]) -> Mapping[str, str]:
        with self._lock:
            plan = plan_subscriptions(self._subscriptions.values(), subscriptions)
            for name in plan.remove:
                del self._subscriptions[name]
            self._subscriptions.update({each.handler: each for each in plan.keep})
            self._rebuild()
            for subscription in subscriptions:
                for name in (subscription.handler, *subscription.aliases):
                    self._queues.setdefault(name, _Queue(subscription.event_name))
            return {name: handler for name, handler in plan.names.items() if name in self._queues}

    def _rebuild(self) -> None:
        self._names_by_event = {}
        for each in self._subscriptions.values():
            queue = self._queues.setdefault(each.handler, _Queue(each.event_name))
            self._names_by_event.setdefault(each.event_name, []).append((each.handler, queue))

    def forget(self, handler: str) -> None:
        with self._lock:
            self._subscriptions.pop(handler, None)
            self._rebuild()
            queue = self._queues.get(handler)
            if queue is None:
                return
            waiting = [(0.0, each) for each in (*queue.suspects, *queue.ready)]
            waiting += [(due, each) for due, _, each in queue.later]
            waiting += [place for line in queue.keys.values() for place in line]
            for waiting_line in (queue.suspects, queue.ready, queue.later):
                waiting_line.clear()
            queue.keys = {each.ordering_key: deque() for _, each in queue.running.values() if each.ordering_key}
            gone = "the handler was taken out of service"
            for due, delivery in waiting:
                self._dead.bury(delivery, delivery.attempts, DeadReason.HANDLER_GONE, gone, due)
            self._live -= len(waiting)

    # -- publishing

    def append(self, messages: Sequence[Message], *, capacity: int | None = None) -> Appended:
        if len(messages) == 1 and _is_plain(messages[0]):
            return self._append_plain(messages[0], capacity)
        with self._lock:
            fresh = [each for each in messages if not each.window_seconds or self._is_fresh(each)]
            routes = [self._names_by_event.get(each.name, ()) for each in fresh]
            needed = len(routes[0]) if len(routes) == 1 else sum(map(len, routes))
            self._check_room(needed, capacity)
            now = self._clock.now().timestamp()
            unsubscribed = 0
            for message, route in zip(fresh, routes, strict=True):
                if not route:
                    unsubscribed += 1
                    self._warn_unsubscribed(message.name)
                if message.window_seconds:
                    self._accepted[message.event_id] = self._clock.monotonic() + message.window_seconds
                due = self._due(message, now)
                for handler, queue in route:
                    delivery = self._delivery(message, handler, now)
                    if due or message.ordering_key is not None:
                        self._enqueue(queue, delivery, due)
                    else:
                        queue.ready.append(delivery)
            self._live += needed
        if needed:
            self._wake()
        return Appended(needed, len(messages) - len(fresh), unsubscribed)

    def _append_plain(self, message: Message, capacity: int | None) -> Appended:
        """The most common case, on its own because everybody publishes by it."""
        now = self._clock.now().timestamp()
        with self._lock:
            route = self._names_by_event.get(message.name)
            if route is None:
                self._warn_unsubscribed(message.name)
                return Appended(0, 0, 1)
            self._check_room(len(route), capacity)
            for handler, queue in route:
                queue.ready.append(self._delivery(message, handler, now))
            self._live += len(route)
        for wake in self._wakes:
            wake()
        return Appended(len(route))

    def _check_room(self, needed: int, capacity: int | None) -> None:
        if capacity is not None and self._live + needed > capacity:
            raise QueueFullError(
                f"the queue holds {self._live} of max_queued={capacity} deliveries: no room for {needed} more", needed
            )

    def _is_fresh(self, message: Message) -> bool:
        now = self._clock.monotonic()
        for event_id in list(islice(self._accepted, 2)):
            if self._accepted[event_id] <= now:
                del self._accepted[event_id]
        return self._accepted.get(message.event_id, now) <= now

    def _delivery(self, message: Message, handler: str, now: float) -> Delivery:
        return Delivery(
            str(next(self._numbers)), handler, message.event_id, message.name, message.version, message.payload,
            message.headers, now, 0, 0, message.ordering_key,
        )  # fmt: skip

    def _due(self, message: Message, now: float) -> float:
        """On the monotonic clock, so that a step of the wall clock moves nothing; 0 for at once."""
        if message.due_at is not None:
            return self._clock.monotonic() + max(0.0, message.due_at - now)
        return self._clock.monotonic() + message.delay_seconds if message.delay_seconds else 0.0

    def _enqueue(self, queue: _Queue, delivery: Delivery, due: float) -> None:
        key = delivery.ordering_key
        if key is not None:
            line = queue.keys.get(key)
            if line is not None:
                line.append((due, delivery))
                return
            queue.keys[key] = deque()
        self._place(queue, delivery, due)

    def _place(self, queue: _Queue, delivery: Delivery, due: float) -> None:
        if due:
            heapq.heappush(queue.later, (due, next(self._numbers), delivery))
        else:
            queue.ready.append(delivery)

    def _free_key(self, queue: _Queue, key: str) -> None:
        line = queue.keys.get(key)
        if line:
            due, delivery = line.popleft()
            self._place(queue, delivery, due)
        else:
            queue.keys.pop(key, None)

    def _warn_unsubscribed(self, event_name: str) -> None:
        if event_name not in self._warned:
            self._warned.add(event_name)
            _logger.warning("event %r was published and has no subscriber: it is dropped, as later ones", event_name)

    def wait_for_room(self, needed: int, capacity: int, timeout_seconds: float) -> None:
        freed = threading.Event()
        if self.await_room(needed, capacity, freed.set):
            freed.wait(timeout_seconds)

    def await_room(self, needed: int, capacity: int, freed: Callable[[], object]) -> bool:
        """Returns whether there is no room yet: then `freed` is called when some deliveries are done."""
        with self._lock:
            if self._live + needed <= capacity:
                return False
            self._room_waiters.append(freed)
            return True

    # -- processing

    def exchange(
        self,
        owner: str,
        completed: Sequence[Receipt],
        settlements: Sequence[Settlement],
        wants: Sequence[Want],
        *,
        ignore_due: bool = False,
    ) -> Exchange:
        with self._lock:
            fenced = self._complete(completed)
            has_freed = len(completed) > fenced
            is_released = False
            for receipt, decision in settlements:
                if self._release(receipt) is None:
                    fenced += 1
                    continue
                self._settle(receipt[1], decision)
                is_released = is_released or decision.state is State.AVAILABLE
                has_freed = has_freed or decision.state is State.DEAD
            claimed = self._claim(owner, wants, ignore_due) if wants else []
            next_due = None if claimed or not wants else self._next_due(wants)
            waiters, self._room_waiters = (self._room_waiters, []) if has_freed else ([], self._room_waiters)
        for freed in waiters:
            freed()
        if is_released:
            self._wake()
        return Exchange(claimed, next_due, fenced)

    def _complete(self, completed: Sequence[Receipt]) -> int:
        fenced = 0
        queues = self._queues
        for owner, delivery in completed:
            queue = queues[delivery.handler]
            held = queue.running.pop(delivery.id, None)
            if held is None or held[0] != owner or held[1].claim != delivery.claim:
                if held is not None:
                    queue.running[delivery.id] = held
                fenced += 1
                continue
            if delivery.ordering_key is not None:
                self._free_key(queue, delivery.ordering_key)
            self._live -= 1
        return fenced

    def _release(self, receipt: Receipt) -> _Queue | None:
        owner, delivery = receipt
        queue = self._queues[delivery.handler]
        held = queue.running.get(delivery.id)
        if held is None or held[0] != owner or held[1].claim != delivery.claim:
            return None
        del queue.running[delivery.id]
        return queue

    def _settle(self, delivery: Delivery, decision: Decision) -> None:
        queue = self._queues[delivery.handler]
        if decision.state is State.DEAD:
            reason = decision.reason or DeadReason.ATTEMPTS_EXHAUSTED
            self._dead.bury(delivery, decision.attempts, reason, decision.error)
            self._live -= 1
        elif decision.state is not State.COMPLETED:
            again = _unclaimed(delivery, attempts=decision.attempts, losses=decision.losses)
            if decision.is_suspect:
                queue.suspects.append(again)
            elif decision.state is State.RETRYABLE:
                due = self._clock.monotonic() + decision.delay_seconds
                heapq.heappush(queue.later, (due, next(self._numbers), again))
            else:
                queue.ready.appendleft(again)
            return
        else:
            self._live -= 1
        if delivery.ordering_key is not None:
            self._free_key(queue, delivery.ordering_key)

    def _claim(self, owner: str, wants: Sequence[Want], ignore_due: bool) -> list[Delivery]:
        claimed: list[Delivery] = []
        now = self._clock.monotonic()
        for handler, limit in wants:
            queue = self._queues[handler]
            ready, running, later = queue.ready, queue.running, queue.later
            while later and (ignore_due or later[0][0] <= now):
                ready.append(heapq.heappop(later)[2])
            for _ in range(min(limit, len(ready))):
                delivery = ready.popleft()
                running[delivery.id] = (owner, delivery)
                claimed.append(delivery)
        return claimed

    def _next_due(self, wants: Sequence[Want]) -> float | None:
        due = [self._queues[each.handler].later[0][0] for each in wants if self._queues[each.handler].later]
        return max(0.0, min(due) - self._clock.monotonic()) if due else None

    def claim_alone(self, owner: str, handlers: Sequence[str]) -> Exchange:
        with self._lock:
            for queue in (self._queues[each] for each in handlers if each in self._queues):
                if queue.suspects:
                    delivery = queue.suspects.popleft()
                    counted = msgspec.structs.replace(delivery, attempts=delivery.attempts + 1)
                    queue.running[delivery.id] = (owner, counted)
                    return Exchange([delivery])
        return Exchange([])

    # -- workers

    def join(self, owner: str, lease_seconds: float) -> None:
        with self._lock:
            self._leases[owner] = self._clock.monotonic() + lease_seconds

    def reconcile(self, owner: str, held: Sequence[str]) -> int:
        known, given_back = set(held), 0
        with self._lock:
            for queue in self._queues.values():
                for receipt in [each for each in queue.running.values() if each[0] == owner]:
                    if receipt[1].id not in known:
                        self._release(receipt)
                        queue.ready.appendleft(_unclaimed(receipt[1]))
                        given_back += 1
        return given_back

    def leave(self, owner: str) -> None:
        with self._lock:
            self._leases.pop(owner, None)
            self.reconcile(owner, ())

    def lease_keeper(self) -> MemoryLeaseKeeper:
        return MemoryLeaseKeeper(self)

    def beat(self, owner: str, lease_seconds: float) -> bool:
        with self._lock:
            if owner not in self._leases:
                return False
            self._leases[owner] = self._clock.monotonic() + lease_seconds
            return True

    def reap(self, handlers: Sequence[str]) -> Reaped:
        rescued = 0
        with self._lock:
            now = self._clock.monotonic()
            self._leases = {owner: expires for owner, expires in self._leases.items() if expires > now}
            for queue in self._queues.values():
                for receipt in [each for each in queue.running.values() if each[0] not in self._leases]:
                    self._release(receipt)
                    _, delivery = receipt
                    self._settle(delivery, decide(delivery.attempts, delivery.losses, Abandoned(), _ANY_POLICY))
                    rescued += 1
            has_suspects = any(self._queues[each].suspects for each in handlers if each in self._queues)
        return Reaped(rescued, has_suspects)

    def listen(self, wake: Wake) -> MemoryListener:
        return MemoryListener(self._wakes, wake)

    def _wake(self) -> None:
        for wake in self._wakes:
            wake()

    # -- looking

    def pending(self, handlers: Sequence[str], *, ignore_due: bool = False) -> int:
        with self._lock:
            now = self._clock.monotonic()
            return sum(
                len(queue.ready) + len(queue.suspects) + len(queue.running)
                + sum(1 for due, _, _ in queue.later if ignore_due or due <= now)
                for queue in (self._queues[each] for each in handlers if each in self._queues)
            )  # fmt: skip

    def stats(self) -> EventStats:
        with self._lock:
            now, now_due = self._clock.now().timestamp(), self._clock.monotonic()
            handlers: dict[tuple[str, str], HandlerStats] = {}
            for name, queue in self._queues.items():
                waiting = [*queue.ready, *queue.suspects]
                later = [each for _, _, each in queue.later]
                behind = [place for line in queue.keys.values() for place in line]
                due = [each for due_at, _, each in queue.later if due_at <= now_due]
                due += [each for due_at, each in behind if due_at <= now_due]
                oldest = max((now - each.published_at for each in (*waiting, *due)), default=0.0)
                retrying = sum(1 for each in later if each.attempts)
                dead = self._dead.number_of(name)
                queued = len(waiting) + len(later) - retrying + len(behind)
                found = HandlerStats(queue.event_name, name, queued, len(queue.running), retrying, dead, oldest)
                if name in self._subscriptions or queued or found.running or retrying or dead:
                    handlers[queue.event_name, name] = found
            return EventStats.of(tuple(handlers[each] for each in sorted(handlers)))

    # -- dead letters

    def newest_dead(self) -> str | None:
        with self._lock:
            return self._dead.newest()

    def dead_page(self, wanted: DeadFilter, limit: int, after: str | None) -> Page[DeadLetter]:
        with self._lock:
            return self._dead.page(wanted, limit, after)

    def dead_letter(self, letter: str) -> DeadLetter | None:
        with self._lock:
            return self._dead.get(letter)

    def redrive(self, letters: Iterable[str]) -> int:
        redriven = 0
        with self._lock:
            for letter in letters:
                dead, due = self._dead.take(letter)
                if dead is None:
                    continue
                decision = decide(dead.attempts, dead.lost_leases, Redriven(), _ANY_POLICY)
                delivery = Delivery(
                    str(next(self._numbers)), dead.handler, dead.event_id, dead.event_name, dead.event_version,
                    dead.payload, dead.headers, dead.published_at.timestamp(), decision.attempts, 0, dead.ordering_key,
                )  # fmt: skip
                self._enqueue(self._queues[dead.handler], delivery, due)
                redriven += 1
            self._live += redriven
        if redriven:
            self._wake()
        return redriven

    def discard(self, letters: Iterable[str]) -> int:
        with self._lock:
            return sum(1 for letter in letters if self._dead.take(letter)[0] is not None)

    def old_letters(self, wanted: DeadFilter, died_before: datetime, limit: int, after: str | None) -> Page[str]:
        with self._lock:
            return self._dead.old(wanted, died_before, limit, after)

    def close(self) -> None:
        """Nothing is held open."""


def _unclaimed(delivery: Delivery, **changes: int) -> Delivery:
    """To be claimed again: what the claim before this one still reports does not count for the next."""
    return msgspec.structs.replace(delivery, claim=delivery.claim + 1, **changes)


def _is_plain(message: Message) -> bool:
    return (
        not message.window_seconds and not message.delay_seconds and message.due_at is None and not message.ordering_key
    )


class MemoryLeaseKeeper:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def join(self, owner: str, lease_seconds: float) -> None:
        self._store.join(owner, lease_seconds)

    def beat(self, owner: str, lease_seconds: float) -> bool:
        return self._store.beat(owner, lease_seconds)

    def reap(self, handlers: Sequence[str]) -> Reaped:
        return self._store.reap(handlers)

    def close(self) -> None:
        """Nothing is held open."""


class MemoryListener:
    def __init__(self, wakes: list[Wake], wake: Wake) -> None:
        self._wakes, self._wake = wakes, wake
        wakes.append(wake)

    def close(self) -> None:
        if self._wake in self._wakes:
            self._wakes.remove(self._wake)
