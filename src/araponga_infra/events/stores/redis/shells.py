"""The Redis store for sync and for async code: each operation one script, in one round trip."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar, cast

from redis.exceptions import NoScriptError

from araponga_infra.events.patience import SHORTEST_SECONDS
from araponga_infra.events.protocols import LeaseKeeper, Settlement, Wake, WakeListener
from araponga_infra.events.stores.redis.clients import clients_of, listening_client
from araponga_infra.events.stores.redis.links import AsyncLink, Link
from araponga_infra.events.stores.redis.operations import FORGET_BATCH, Call, RedisOperations
from araponga_infra.events.values import (
    Appended,
    Capabilities,
    DeadFilter,
    DeadLetter,
    EventStats,
    Exchange,
    Message,
    Page,
    Reaped,
    Receipt,
    Subscription,
    Want,
)

__all__ = ["CAPABILITIES", "AsyncRedisStore", "RedisStore"]

T = TypeVar("T")
CAPABILITIES = Capabilities(is_durable=True, ordering=False, transactions=False)
_TICK_SECONDS = 0.25
_PROBE_SECONDS = 0.75
_logger = logging.getLogger("araponga_infra.events")


class RedisStore:
    """For sync code. Thread-safe, as the client is.

    A processor that consumes has its own calls on a link beside the host's client, from `listen` to `leave`.
    """

    capabilities = CAPABILITIES

    def __init__(self, client: Any, operations: RedisOperations, link: Link | None = None) -> None:
        self._client = client
        self._operations = operations
        self._link = link

    def _run(self, call: Call[T]) -> T:
        return self._send(self._client, call)

    def _run_own(self, call: Call[T]) -> T:
        link = self._link
        return self._run(call) if link is None else link.run(lambda client: self._send(client, call))

    def _send(self, client: Any, call: Call[T]) -> T:
        root, script = self._operations.root, call.script
        try:
            answer = client.evalsha(script.sha, 1, root, *call.arguments)
        except NoScriptError:
            answer = client.eval(script.text, 1, root, *call.arguments)
        return call.read(answer)

    def register(self, subscriptions: Sequence[Subscription]) -> Mapping[str, str]:
        stored = self._run_own(self._operations.subscriptions())
        if self._operations.is_lost(stored):
            self._run_own(self._operations.restore())
            stored = self._run_own(self._operations.subscriptions())
        plan = self._operations.plan(stored, subscriptions)
        if plan.keep or plan.remove:
            self._run_own(self._operations.subscribe(plan))
        return plan.names

    def forget(self, handler: str) -> None:
        is_more = True
        while is_more:
            is_more = self._run(self._operations.forget(handler)) == FORGET_BATCH

    def append(self, messages: Sequence[Message], *, capacity: int | None = None) -> Appended:  # noqa: ARG002
        appended = self._run(self._operations.append(messages))
        if appended is None:
            self._run(self._operations.restore())
            appended = self._run(self._operations.append(messages, is_restored=True))
        return cast(Appended, appended)

    def wait_for_room(self, needed: int, capacity: int, timeout_seconds: float) -> None:
        """There is always room."""

    def exchange(
        self,
        owner: str,
        completed: Sequence[Receipt],
        settlements: Sequence[Settlement],
        wants: Sequence[Want],
        *,
        ignore_due: bool = False,
    ) -> Exchange:
        return self._run_own(self._operations.exchange(owner, completed, settlements, wants, ignore_due))

    def claim_alone(self, owner: str, handlers: Sequence[str]) -> Exchange:
        return self._run_own(self._operations.claim_alone(owner, handlers))

    def join(self, owner: str, lease_seconds: float) -> None:
        self._run_own(self._operations.join(owner, lease_seconds))

    def reconcile(self, owner: str, held: Sequence[str]) -> int:
        return self._run_own(self._operations.reconcile(owner, held, is_leaving=False))

    def leave(self, owner: str) -> None:
        try:
            self._run_own(self._operations.reconcile(owner, (), is_leaving=True))
        finally:
            link, self._link = self._link, None
            if link is not None:
                link.close()

    def lease_keeper(self) -> LeaseKeeper:
        return _RedisLeaseKeeper(self._client, self._operations)

    def listen(self, wake: Wake) -> WakeListener:
        self._link = Link(self._client, self._operations.root)
        return _RedisListener(self._client, self._operations.root, wake)

    def beat(self, owner: str, lease_seconds: float) -> bool:
        return self._run_own(self._operations.beat(owner, lease_seconds))

    def reap(self, handlers: Sequence[str]) -> Reaped:
        return self._run_own(self._operations.reap(handlers))

    def pending(self, handlers: Sequence[str], *, ignore_due: bool = False) -> int:
        return self._run(self._operations.pending(handlers, ignore_due))

    def stats(self) -> EventStats:
        return self._run(self._operations.stats())

    def newest_dead(self) -> str | None:
        return self._run(self._operations.newest_dead())

    def dead_page(self, wanted: DeadFilter, limit: int, after: str | None) -> Page[DeadLetter]:
        found = list[DeadLetter]()
        while True:
            look = self._run(self._operations.look_at_dead(wanted, limit + 1 - len(found), after))
            found, after = found + look.found, look.behind
            if after is None or len(found) > limit:
                return Page(tuple(found[:limit]), found[limit - 1].id if len(found) > limit else None)

    def dead_letter(self, letter: str) -> DeadLetter | None:
        return self._run(self._operations.dead_letter(letter))

    def redrive(self, letters: Iterable[str]) -> int:
        return self._run(self._operations.redrive(letters))

    def discard(self, letters: Iterable[str]) -> int:
        return self._run(self._operations.discard(letters))

    def old_letters(self, wanted: DeadFilter, died_before: datetime, limit: int, after: str | None) -> Page[str]:
        look = self._run(self._operations.old_letters(wanted, died_before, limit, after))
        return Page(tuple(look.found), look.behind)

    def close(self) -> None:
        """The client is the host's, and nothing else is held."""


class AsyncRedisStore:
    """For async code, on the event loop whose client it uses."""

    capabilities = CAPABILITIES

    def __init__(self, client: Any, operations: RedisOperations) -> None:
        self._client = client
        self._operations = operations
        self._link: AsyncLink | None = None

    async def _run(self, call: Call[T]) -> T:
        return await self._send(self._client, call)

    async def _run_own(self, call: Call[T]) -> T:
        link = self._link
        return await (self._run(call) if link is None else link.run(lambda client: self._send(client, call)))

    async def _send(self, client: Any, call: Call[T]) -> T:
        root, script = self._operations.root, call.script
        try:
            answer = await client.evalsha(script.sha, 1, root, *call.arguments)
        except NoScriptError:
            answer = await client.eval(script.text, 1, root, *call.arguments)
        return call.read(answer)

    async def register(self, subscriptions: Sequence[Subscription]) -> Mapping[str, str]:
        stored = await self._run_own(self._operations.subscriptions())
        if self._operations.is_lost(stored):
            await self._run_own(self._operations.restore())
            stored = await self._run_own(self._operations.subscriptions())
        plan = self._operations.plan(stored, subscriptions)
        if plan.keep or plan.remove:
            await self._run_own(self._operations.subscribe(plan))
        return plan.names

    async def forget(self, handler: str) -> None:
        is_more = True
        while is_more:
            is_more = await self._run(self._operations.forget(handler)) == FORGET_BATCH

    async def append(self, messages: Sequence[Message], *, capacity: int | None = None) -> Appended:  # noqa: ARG002
        appended = await self._run(self._operations.append(messages))
        if appended is None:
            await self._run(self._operations.restore())
            appended = await self._run(self._operations.append(messages, is_restored=True))
        return cast(Appended, appended)

    async def wait_for_room(self, needed: int, capacity: int, timeout_seconds: float) -> None:
        """There is always room."""

    async def exchange(
        self,
        owner: str,
        completed: Sequence[Receipt],
        settlements: Sequence[Settlement],
        wants: Sequence[Want],
        *,
        ignore_due: bool = False,
    ) -> Exchange:
        return await self._run_own(self._operations.exchange(owner, completed, settlements, wants, ignore_due))

    async def claim_alone(self, owner: str, handlers: Sequence[str]) -> Exchange:
        return await self._run_own(self._operations.claim_alone(owner, handlers))

    async def join(self, owner: str, lease_seconds: float) -> None:
        await self._run_own(self._operations.join(owner, lease_seconds))

    async def reconcile(self, owner: str, held: Sequence[str]) -> int:
        return await self._run_own(self._operations.reconcile(owner, held, is_leaving=False))

    async def leave(self, owner: str) -> None:
        try:
            await self._run_own(self._operations.reconcile(owner, (), is_leaving=True))
        finally:
            link, self._link = self._link, None
            if link is not None:
                await link.close()

    def lease_keeper(self) -> LeaseKeeper:
        return _RedisLeaseKeeper(self._client, self._operations)

    def listen(self, wake: Wake) -> WakeListener:
        self._link = AsyncLink(self._client, self._operations.root)
        return _RedisListener(self._client, self._operations.root, wake)

    async def pending(self, handlers: Sequence[str], *, ignore_due: bool = False) -> int:
        return await self._run(self._operations.pending(handlers, ignore_due))

    async def stats(self) -> EventStats:
        return await self._run(self._operations.stats())

    async def newest_dead(self) -> str | None:
        return await self._run(self._operations.newest_dead())

    async def dead_page(self, wanted: DeadFilter, limit: int, after: str | None) -> Page[DeadLetter]:
        found = list[DeadLetter]()
        while True:
            look = await self._run(self._operations.look_at_dead(wanted, limit + 1 - len(found), after))
            found, after = found + look.found, look.behind
            if after is None or len(found) > limit:
                return Page(tuple(found[:limit]), found[limit - 1].id if len(found) > limit else None)

    async def dead_letter(self, letter: str) -> DeadLetter | None:
        return await self._run(self._operations.dead_letter(letter))

    async def redrive(self, letters: Iterable[str]) -> int:
        return await self._run(self._operations.redrive(letters))

    async def discard(self, letters: Iterable[str]) -> int:
        return await self._run(self._operations.discard(letters))

    async def old_letters(self, wanted: DeadFilter, died_before: datetime, limit: int, after: str | None) -> Page[str]:
        look = await self._run(self._operations.old_letters(wanted, died_before, limit, after))
        return Page(tuple(look.found), look.behind)

    async def close(self) -> None:
        """The client is the host's, and nothing else is held."""


class _RedisLeaseKeeper:
    """Signs of life on connections of its own; for one thread."""

    def __init__(self, client: Any, operations: RedisOperations) -> None:
        self._link = Link(client, operations.root)
        self._store = RedisStore(client, operations, self._link)

    def join(self, owner: str, lease_seconds: float) -> None:
        self._store.join(owner, lease_seconds)

    def beat(self, owner: str, lease_seconds: float) -> bool:
        return self._store.beat(owner, lease_seconds)

    def reap(self, handlers: Sequence[str]) -> Reaped:
        return self._store.reap(handlers)

    def close(self) -> None:
        self._link.close()


class _RedisListener:
    """A thread that listens on a channel which each publish speaks on; polling stands behind it.

    Args:
        client: the host's; each time that listening begins it is asked where its Redis is.
    """

    def __init__(self, client: Any, root: str, wake: Wake) -> None:
        self._client = client
        self._channel = f"{root}:wake"
        self._wake = wake
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="araponga-events-listen", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            own: Any = None
            try:
                own = listening_client(self._client)
                self._listen(own)
            except Exception as error:
                _logger.warning("listening on the event store ended with %s; again", type(error).__name__)
                self._stop.wait(_TICK_SECONDS)
            finally:
                for each in clients_of(own):
                    each.close()

    def _listen(self, own: Any) -> None:
        with own.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe(self._channel)
            self._wake()
            asked_at, is_answered = time.monotonic(), True
            while not self._stop.is_set():
                message = channel.get_message(timeout=_TICK_SECONDS)
                if message is not None and message["type"] == "pong":
                    is_answered = True
                elif message is not None:
                    self._wake()
                now = time.monotonic()
                if not is_answered and now - asked_at >= SHORTEST_SECONDS:
                    raise TimeoutError(f"Redis did not answer for {SHORTEST_SECONDS:g} s")
                if is_answered and now - asked_at >= _PROBE_SECONDS:
                    channel.ping()
                    asked_at, is_answered = now, False
