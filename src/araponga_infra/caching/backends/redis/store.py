"""Entries in Redis. Whatever Redis does, a call ends within its budget, in an answer or in `RemoteAwayError`."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import redis
from redis.exceptions import OutOfMemoryError

from araponga_infra.caching.backends.redis.availability import Availability, ServerTime
from araponga_infra.caching.backends.redis.link import Link, LinkBusyError, Reply
from araponga_infra.caching.backends.redis.link import pack as pack_commands
from araponga_infra.caching.backends.redis.operations import Operations, new_token
from araponga_infra.caching.backends.redis.scripts import Command, script
from araponga_infra.caching.backends.redis.wire import (
    ForeignEntryError,
    Names,
    life_ms,
    pack,
    remaining,
    unpack,
    write_message,
)  # fmt: skip
from araponga_infra.caching.entries import Entry
from araponga_infra.caching.flights import Signal
from araponga_infra.caching.freshness import Lifetime
from araponga_infra.caching.keys import Pattern
from araponga_infra.caching.remote import Grant, Lease, Reading, RemoteAwayError

__all__ = ["RedisStore"]

_logger = logging.getLogger("araponga_infra.caching")
LEASE_MS = 1500
_NO_ANSWER = (redis.RedisError, OSError, TimeoutError, EOFError)
_SHARE_OF_BUDGET_TO_MEET = 0.9
_MOST_REWRITES = 3
_MOST_READS_KEPT = 4096


class RedisStore:
    """Reads, writes, deletes and leases over one link.

    Args:
        link: carries commands.
        names: the namespace.
        instance: this instance's name.
        availability: whether Redis is trusted.
        meet: starts meeting Redis.
        keep_alive, let_go: begin and end the renewal of a lease, by key and token.
        wait: waits for a signal at most so many seconds.
        budget_seconds: the most one call may take.
        isolated_seconds: how long a copy may be served without news from other instances.
        monotonic: the clock of the entries.
        on_rejected: told when an entry is not ours to read.
    """

    def __init__(
        self,
        link: Link,
        names: Names,
        instance: str,
        availability: Availability,
        *,
        meet: Callable[[], None],
        keep_alive: Callable[[str, str], None],
        let_go: Callable[[str], None],
        wait: Callable[[Signal, float], Awaitable[None]],
        budget_seconds: float,
        isolated_seconds: float,
        monotonic: Callable[[], float],
        on_rejected: Callable[[str, str], None],
    ) -> None:
        self._link = link
        self._names = names
        self._instance = instance
        self._availability = availability
        self._meet = meet
        self._keep_alive = keep_alive
        self._let_go = let_go
        self._wait = wait
        self._budget_seconds = budget_seconds
        self._isolated_seconds = isolated_seconds
        self._monotonic = monotonic
        self._on_rejected = on_rejected
        self._operations = Operations(self._exchange, names, instance)
        self._tokens: dict[str, str] = {}
        self._reads: dict[str, tuple[Command, bytes]] = {}

    @property
    def is_away(self) -> bool:
        return not (self._availability.is_trusted or self._availability.is_new)

    async def _exchange(self, commands: Sequence[Command], packed: bytes | None = None) -> list[Reply]:
        if not self._availability.is_trusted:
            await self._be_introduced()
        try:
            replies = await self._link.exchange(commands, packed)
        except LinkBusyError as error:
            raise RemoteAwayError from error
        except _NO_ANSWER as error:
            self._availability.fail(type(error).__name__)
            raise RemoteAwayError from error
        if not self._availability.is_trusted:
            raise RemoteAwayError
        return replies

    async def _be_introduced(self) -> None:
        """Only who has met Redis knows its clock and its identity, and may trust it."""
        if self._availability.is_trusted:
            return
        if self._availability.is_new:
            self._meet()
            await self._wait(self._availability.met, self._budget_seconds * _SHARE_OF_BUDGET_TO_MEET)
            self._availability.fail_if_unmet("no answer in time")
        if not self._availability.is_trusted:
            raise RemoteAwayError

    async def _run(self, *commands: Command) -> list[Reply]:
        """Exchange, where a refusal that is not about memory means that Redis is not to be used."""
        replies = await self._operations.run(commands)
        for reply in replies:
            if isinstance(reply, redis.ResponseError) and not is_out_of_memory(reply):
                self._refuse(reply)
        return replies

    def _refuse(self, refusal: redis.ResponseError) -> NoReturn:
        self._availability.fail(type(refusal).__name__)
        raise RemoteAwayError from refusal

    # Reading

    async def read(self, key: str) -> Reading:
        """Look a key up."""
        known = self._reads.get(key)
        command, packed = known if known is not None else self._keep_read(key)
        reply = (await self._exchange((command,), packed))[0]
        if isinstance(reply, redis.ResponseError):
            self._refuse(reply)
        blob, epoch, group = reply if len(reply) == 3 else (*reply, b"")
        if blob is None or epoch is None or group is None:
            return Reading(None, epoch, group)
        return Reading(await self._valid(key, blob, epoch, group), epoch, group)

    def _keep_read(self, key: str) -> tuple[Command, bytes]:
        """The command that looks a key up, kept since the same keys are asked for again and again."""
        names = self._names
        marker = names.group_of(key)
        command: Command = ("MGET", names.entry(key), names.epoch, *(() if marker is None else (marker,)))
        if len(self._reads) >= _MOST_READS_KEPT:
            self._reads.clear()
        self._reads[key] = kept = command, pack_commands((command,))
        return kept

    async def read_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Look keys up in one round trip."""
        if not keys:
            return {}
        names = self._names
        markers = list(dict.fromkeys(marker for key in keys if (marker := names.group_of(key)) is not None))
        replies = (await self._run(("MGET", names.epoch, *markers, *map(names.entry, keys))))[0]
        groups = dict(zip(markers, replies[1:], strict=False))
        found: dict[str, Entry] = {}
        for key, blob in zip(keys, replies[1 + len(markers) :], strict=True):
            marker = names.group_of(key)
            reading = await self._reading(key, blob, replies[0], b"" if marker is None else groups[marker])
            if reading.entry is not None:
                found[key] = reading.entry
        return found

    async def _reading(self, key: str, blob: bytes | None, epoch: bytes | None, group: bytes | None) -> Reading:
        entry = None
        if blob is not None and epoch is not None and group is not None:
            entry = await self._valid(key, blob, epoch, group)
        return Reading(entry, epoch, group)

    async def _valid(self, key: str, blob: bytes, epoch: bytes, group: bytes) -> Entry | None:
        try:
            header, payload = unpack(blob)
        except ForeignEntryError as error:
            self._on_rejected(key, str(error))
            return None
        if header.epoch != epoch.decode() or header.group != group.decode():
            return None
        if header.tags and not await self._are_current(header.tags):
            return None
        life = remaining(header, self._availability.server_time.latest(time.monotonic()))
        tags = tuple(tag for tag, _ in header.tags) if header.tags else ()
        return Entry(payload, life, self._monotonic(), tags, self._isolated_seconds)

    async def _are_current(self, tags: tuple[tuple[str, str], ...]) -> bool:
        markers = [self._names.tag(tag) for tag, _ in tags]
        replies = (await self._run(("MGET", *markers)))[0]
        return all(reply == token.encode() for reply, (_, token) in zip(replies, tags, strict=True))

    # Leases

    def new_token(self) -> str:
        return new_token()

    async def acquire(self, key: str, token: str) -> Grant:
        """Ask for the lease of a load, and look once more at the entry and its markers."""
        names = self._names
        marker = names.group_of(key)
        sent_at = time.monotonic()
        call = script("acquire").call((names.entry(key), names.lease(key)), token, LEASE_MS)
        markers = (names.epoch, names.tag_generation) if marker is None else (names.epoch, names.tag_generation, marker)
        reply, (epoch, tag_generation, *group) = await self._run(call, ("MGET", *markers))
        if isinstance(reply, Exception):
            self._availability.warn_full()
            raise RemoteAwayError from reply
        granted, blob, server_ms = reply
        self._availability.server_time = ServerTime(server_ms, sent_at, time.monotonic())
        reading = await self._reading(key, blob, epoch, group[0] if group else b"")
        return Grant(reading, bool(granted), tag_generation)

    async def lease(self, key: str, token: str, grant: Grant, tags: tuple[str, ...], life: Lifetime) -> Lease:
        """Keep a granted lease alive, and take the markers as they are before the load, so that a clear voids it."""
        group = self._names.group_of(key)
        known = {self._names.epoch: grant.reading.epoch} | ({} if group is None else {group: grant.reading.group})
        tokens = {marker: value.decode() for marker, value in known.items() if value is not None}
        wanted = [marker for marker in known if marker not in tokens] + [self._names.tag(tag) for tag in tags]
        if wanted:
            tokens |= await self._marks(wanted, life)
        self._keep_alive(key, token)
        return Lease(
            key, token, tokens[self._names.epoch], "" if group is None else tokens[group],
            {tag: tokens[self._names.tag(tag)] for tag in tags}, grant.tag_generation,
        )  # fmt: skip

    async def _marks(self, markers: Sequence[str], life: Lifetime) -> dict[str, str]:
        try:
            return await self._operations.marks(markers, life_ms(life), self._epoch_token())
        except redis.ResponseError as error:
            if is_out_of_memory(error):
                self._availability.warn_full()
            else:
                self._availability.fail(type(error).__name__)
            raise RemoteAwayError from error

    def _epoch_token(self) -> str:
        return f"{new_token()}@{self._availability.server_id}"

    async def store(self, lease: Lease, payload: bytes, life: Lifetime, tags: tuple[str, ...]) -> bool:
        """Store under a lease, and end it; False when it is no longer ours or Redis has no room."""
        self._let_go(lease.token)
        names = self._names
        tag_tokens = await self._tokens_of(tags, lease, life)
        if tag_tokens is None:
            await self.release(lease.key, lease.token)
            return False
        blob = pack(payload, life, self._server_ms(), lease.epoch, lease.group, tag_tokens)
        call = script("store").call(
            (names.entry(lease.key), names.lease(lease.key)),
            lease.token, blob, life_ms(life), names.channel, write_message(self._instance, "stored", (lease.key,)),
        )  # fmt: skip
        reply = (await self._run(call))[0]
        if isinstance(reply, Exception):
            self._availability.warn_full()
            return False
        if reply:
            self._availability.has_room()
        return bool(reply)

    async def _tokens_of(self, tags: tuple[str, ...], lease: Lease, life: Lifetime) -> dict[str, str] | None:
        """With the tags that only the load has named; None when something was deleted by tag since it began."""
        late = [tag for tag in tags if tag not in lease.tags]
        if not late:
            return {tag: lease.tags[tag] for tag in tags}
        late_tokens = await self._tag_marks(late, life)
        generation = (await self._run(("GET", self._names.tag_generation)))[0]
        return lease.tags | late_tokens if generation == lease.tag_generation else None

    async def release(self, key: str, token: str) -> None:
        """End a lease without a value."""
        self._let_go(token)
        names = self._names
        message = write_message(self._instance, "stored", (key,))
        await self._run(script("release").call((names.entry(key), names.lease(key)), token, names.channel, message))

    async def _tag_marks(self, tags: Iterable[str], life: Lifetime) -> dict[str, str]:
        markers = {self._names.tag(tag): tag for tag in tags}
        tokens = await self._marks(list(markers), life) if markers else {}
        return {markers[marker]: token for marker, token in tokens.items()}

    # Writing

    async def write(self, payloads: Mapping[str, bytes], life: Lifetime, tags: tuple[str, ...]) -> bool:
        """Store values whatever was there. False when Redis is away, which is noted, or has no room."""
        if not payloads:
            return True
        try:
            return await self._write(payloads, life, tags)
        except BaseException as error:
            self._availability.note("keys", payloads)
            return self._swallow(error)

    async def _write(self, payloads: Mapping[str, bytes], life: Lifetime, tags: tuple[str, ...]) -> bool:
        """It names the markers that it last saw and reads them again in the same round trip; they seldom differ."""
        await self._be_introduced()
        markers = [self._names.epoch, *dict.fromkeys(m for key in payloads if (m := self._names.group_of(key)))]
        tokens = {marker: self._tokens[marker] for marker in markers if marker in self._tokens}
        tag_tokens = await self._tag_marks(tags, life)
        for _ in range(_MOST_REWRITES):
            missing = [marker for marker in markers if marker not in tokens]
            if missing:
                tokens |= await self._marks(missing, life)
            sent_at = time.monotonic()
            calls = [self._call_to_write(key, payload, life, tokens, tag_tokens) for key, payload in payloads.items()]
            *replies, current = await self._run(*calls, ("MGET", *markers))
            if any(isinstance(reply, Exception) for reply in replies):
                return await self._delete_for_want_of_room(payloads)
            self._availability.has_room()
            self._availability.server_time = ServerTime(replies[-1][1], sent_at, time.monotonic())
            seen = {marker: value.decode() for marker, value in zip(markers, current, strict=True) if value is not None}
            if all(written for written, _ in replies) and seen == tokens:
                self._remember(tokens)
                return True
            tokens = seen
        raise RemoteAwayError

    def _call_to_write(
        self, key: str, payload: bytes, life: Lifetime, tokens: Mapping[str, str], tags: dict[str, str]
    ) -> Command:
        names = self._names
        marker = names.group_of(key)
        now = time.monotonic()
        blob = pack(
            payload, life, self._server_ms(), tokens[names.epoch], "" if marker is None else tokens[marker], tags
        )
        deadline = self._availability.server_time.latest(now) + self._budget_seconds * 1000.0
        message = write_message(self._instance, "keys", (key,))
        return script("write").call(
            (names.entry(key), names.lease(key)), blob, life_ms(life), int(deadline), names.channel, message
        )

    def _remember(self, tokens: Mapping[str, str]) -> None:
        if len(self._tokens) > 1000:
            self._tokens.clear()
        self._tokens.update(tokens)

    async def _delete_for_want_of_room(self, keys: Iterable[str]) -> bool:
        """A value that cannot be stored must not leave the one before it in place; deleting is always allowed."""
        self._availability.warn_full()
        if not await self.delete(keys):
            raise RemoteAwayError
        return False

    def _server_ms(self) -> float:
        return self._availability.server_time.earliest(time.monotonic())

    # Deleting

    async def delete(self, keys: Iterable[str]) -> bool:
        """Delete entries and void the leases of their loads. False when Redis is away, which is noted."""
        names = list(keys)
        return await self._noted("keys", names, self._operations.delete(names))

    async def delete_matching(self, pattern: Pattern) -> bool:
        return await self._noted("patterns", [pattern.text], self._operations.delete_matching(pattern))

    async def delete_tag(self, tag: str) -> bool:
        return await self._noted("tags", [tag], self._operations.unmark_tag(tag))

    async def delete_group(self, group: str) -> bool:
        self._tokens.pop(self._names.group(group), None)
        return await self._noted("groups", [group], self._operations.unmark_group(group))

    async def clear(self) -> bool:
        self._tokens.clear()
        try:
            await self._operations.unmark_epoch()
        except BaseException as error:
            self._availability.note_everything()
            return self._swallow(error)
        return True

    async def _noted(self, kind: str, names: list[str], deletion: Awaitable[Any]) -> bool:
        try:
            await deletion
        except BaseException as error:
            self._availability.note(kind, names)
            return self._swallow(error)
        return True

    def _swallow(self, error: BaseException) -> bool:
        """What was noted is purged only when Redis is met anew, so a failed delete always ends the trust in it."""
        if isinstance(error, RemoteAwayError):
            if self._availability.is_trusted:
                self._availability.fail("a change did not get through")
            return False
        self._availability.fail(type(error).__name__)
        if isinstance(error, redis.RedisError):
            return False
        raise error


def is_out_of_memory(reply: Exception) -> bool:
    """Whether Redis refused for want of memory alone."""
    return isinstance(reply, OutOfMemoryError) or str(reply).startswith("OOM") or (
        "OOM command not allowed" in str(reply)
    )  # fmt: skip
