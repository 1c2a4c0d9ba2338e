"""What is asked of Redis, in terms of keys, patterns, tags and groups; over any link, sync or async."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeAlias

from redis.exceptions import NoScriptError

from araponga_infra.caching.backends.redis.availability import ServerTime
from araponga_infra.caching.backends.redis.link import Reply
from araponga_infra.caching.backends.redis.scripts import Command, in_full, script
from araponga_infra.caching.backends.redis.wire import Names, write_message
from araponga_infra.caching.journal import Missed
from araponga_infra.caching.keys import Pattern

__all__ = ["Exchange", "Operations", "new_token"]

Exchange: TypeAlias = Callable[[Sequence[Command]], Awaitable[list[Reply]]]

_BATCH = 500
_NO_END = 0


def new_token() -> str:
    """A name for a lease or a marker that nobody else has."""
    return secrets.token_hex(8)


class Operations:
    """Deletes, markers and probes.

    Args:
        exchange: carries commands.
        names: the namespace.
        instance: signs what is told to other instances.

    Every method raises what `exchange` raises, and `redis.ResponseError` when Redis refuses.
    """

    def __init__(self, exchange: Exchange, names: Names, instance: str) -> None:
        self._exchange = exchange
        self._names = names
        self._instance = instance

    async def run(self, commands: Sequence[Command]) -> list[Reply]:
        """Exchange; scripts that the server does not know are sent in full. Refusals are among the replies."""
        replies = await self._exchange(commands)
        unknown = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            again = await self._exchange([in_full(commands[at]) for at in unknown])
            for at, reply in zip(unknown, again, strict=True):
                replies[at] = reply
        return replies

    async def ask(self, *commands: Command) -> list[Reply]:
        """The same, with the first refusal raised."""
        replies = await self.run(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def delete(self, keys: Iterable[str]) -> None:
        """Entries and the leases of their loads; other instances are told."""
        remaining = list(keys)
        while remaining:
            batch, remaining = remaining[:_BATCH], remaining[_BATCH:]
            await self.ask(*[self._delete(key) for key in batch])

    def _delete(self, key: str) -> Command:
        names = self._names
        return script("delete").call(
            (names.entry(key), names.lease(key)), names.channel, write_message(self._instance, "keys", (key,))
        )

    async def delete_matching(self, pattern: Pattern) -> None:
        """By SCAN and UNLINK in batches, on every node."""
        names, cursor = self._names, b"0"
        while True:
            cursor, found = (
                await self.ask(("SCAN", cursor, "MATCH", names.glob(pattern), "COUNT", _BATCH))
            )[0]  # fmt: skip
            doomed = [name for name in found if pattern.matches(names.key_in(name.decode()))]
            if doomed:
                await self.ask(("UNLINK", *doomed))
            if cursor == b"0":
                break
        await self._tell("pattern", pattern.text)

    async def unmark_tag(self, tag: str) -> None:
        """Loads that have not said yet which tags their value has are not stored either."""
        await self.ask(("SET", self._names.tag_generation, new_token()))
        await self._unmark(self._names.tag(tag), "tag", tag)

    async def unmark_group(self, group: str) -> None:
        await self._unmark(self._names.group(group), "group", group)

    async def unmark_epoch(self, only: bytes = b"") -> None:
        """Make a miss of every entry, or only if the epoch is still the given one."""
        await self._unmark(self._names.epoch, "all", only=only)

    async def _unmark(self, marker: str, kind: str, *told: str, only: bytes = b"") -> None:
        message = write_message(self._instance, kind, told)
        await self.ask(script("unmark").call((marker,), self._names.channel, message, only))

    async def _tell(self, kind: str, *told: str) -> None:
        await self.ask(("PUBLISH", self._names.channel, write_message(self._instance, kind, told)))

    async def marks(self, markers: Sequence[str], life_ms: int, epoch_token: str) -> dict[str, str]:
        """The tokens of markers, made where there is none."""
        commands = [
            script("mark").call(
                (marker,), *((epoch_token, _NO_END) if marker == self._names.epoch else (new_token(), life_ms))
            )
            for marker in markers
        ]
        replies = await self.ask(*commands)
        return {marker: reply.decode() for marker, reply in zip(markers, replies, strict=True)}

    async def purge(self, missed: Missed) -> None:
        """Remove whatever was missed; also a probe that writing is possible, so it always writes something."""
        if missed.everything:
            await self.unmark_epoch()
            return
        await self.delete(missed.keys or ("#probe",))
        for pattern in missed.patterns:
            await self.delete_matching(Pattern(pattern))
        for tag in missed.tags:
            await self.unmark_tag(tag)
        for group in missed.groups:
            await self.unmark_group(group)

    async def identify(self) -> tuple[str, ServerTime, bytes | None]:
        """Which server this is, its clock, and the epoch it holds."""
        sent_at = time.monotonic()
        info, clock, epoch = await self.run((("INFO", "server"), ("TIME",), ("GET", self._names.epoch)))
        received_at = time.monotonic()
        for reply in (clock, epoch):
            if isinstance(reply, Exception):
                raise reply
        return run_id_in(info), ServerTime(read_time(clock), sent_at, received_at), epoch


def run_id_in(info: Any) -> str:
    """The run id, which is new each time a server starts; empty where the user may not ask for it."""
    if not isinstance(info, bytes):
        return ""
    for line in info.splitlines():
        if line.startswith(b"run_id:"):
            return line[7:].decode().strip()
    return ""


def read_time(reply: Sequence[bytes]) -> float:
    """The answer of TIME in milliseconds."""
    return math.floor(int(reply[0]) * 1000 + int(reply[1]) / 1000)
