"""What the engine asks of entries that are kept outside this process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from araponga_infra.caching.entries import Entry
from araponga_infra.caching.freshness import Lifetime
from araponga_infra.caching.keys import Pattern

__all__ = ["Lease", "Reading", "Remote", "RemoteAwayError"]


class RemoteAwayError(Exception):
    """The store is not to be asked, or has not answered. Never leaves the cache."""


class Reading(NamedTuple):
    """What a look-up found, and the markers that it was read under."""

    entry: Entry | None
    epoch: bytes | None
    group: bytes | None


class Lease(NamedTuple):
    """The right to store what is being loaded, and the markers as they were before the load."""

    key: str
    token: str
    epoch: str
    group: str
    tags: dict[str, str]
    tag_generation: bytes | None


class Grant(NamedTuple):
    """The answer to asking for a lease: what is there now, whether the lease was granted, and what changes whenever
    anything is deleted by a tag."""

    reading: Reading
    is_granted: bool
    tag_generation: bytes | None


class Remote(Protocol):
    """A store of entries that other processes share.

    Reads and leases raise `RemoteAwayError` when it does not answer. Writes and deletes do not: they answer False, and
    what was missed is purged before the store is trusted again.
    """

    @property
    def is_away(self) -> bool: ...

    async def read(self, key: str) -> Reading: ...

    async def read_many(self, keys: Sequence[str]) -> dict[str, Entry]: ...

    def new_token(self) -> str: ...

    async def acquire(self, key: str, token: str) -> Grant: ...

    async def lease(self, key: str, token: str, grant: Grant, tags: tuple[str, ...], life: Lifetime) -> Lease: ...

    async def store(self, lease: Lease, payload: bytes, life: Lifetime, tags: tuple[str, ...]) -> bool: ...

    async def release(self, key: str, token: str) -> None: ...

    async def write(self, payloads: Mapping[str, bytes], life: Lifetime, tags: tuple[str, ...]) -> bool: ...

    async def delete(self, keys: Iterable[str]) -> bool: ...

    async def delete_matching(self, pattern: Pattern) -> bool: ...

    async def delete_tag(self, tag: str) -> bool: ...

    async def delete_group(self, group: str) -> bool: ...

    async def clear(self) -> bool: ...
