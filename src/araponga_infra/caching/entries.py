"""One cached value in this process: its bytes, its times, and the object that may be shared."""

from __future__ import annotations

import math
from typing import Any

from araponga_infra.caching.codec import TypeCodec, codec_for
from araponga_infra.caching.freshness import Lifetime, quiet_seconds

__all__ = ["Entry"]

_NOT_SHARED: tuple[Any, Any] = (object(), None)
_OVERHEAD_BYTES = 400
"""What an entry costs beside its key and payload, roughly: the object, its times, its places in the indexes."""


class Entry:
    """A value as JSON, and until when it may be used, on the clock of this process.

    Args:
        payload: the value as JSON.
        life: how long it lives from `now` on.
        now: the clock's monotonic time.
        tags: what it may be deleted by.
        isolated_seconds: how long it may be served while other instances' deletes do not reach this process.
    """

    __slots__ = (
        "dead", "expires", "isolated_until", "load_seconds", "payload", "quiet_from", "quiet_until", "shared", "tags",
    )  # fmt: skip

    def __init__(
        self,
        payload: bytes,
        life: Lifetime,
        now: float,
        tags: tuple[str, ...] = (),
        isolated_seconds: float = math.inf,
    ) -> None:
        self.payload: bytes = payload
        self.tags: tuple[str, ...] = tags
        self.load_seconds: float = life.load_seconds
        self.expires: float = now + life.ttl_seconds
        self.dead: float = self.expires + life.stale_for_seconds
        self.isolated_until: float = now + isolated_seconds
        self.quiet_from: float = now + quiet_seconds(life)
        """From here on a caller may draw the lot of an early refresh."""
        self.quiet_until: float = 0.0
        """Until here a hit decides nothing; moved on by whoever finds it passed."""
        self.shared: tuple[Any, Any] = _NOT_SHARED
        """A type and the immutable value as that type. One tuple, so that threads never see half of a change."""

    @property
    def size(self) -> int:
        """Bytes it takes in memory, roughly."""
        return len(self.payload) + _OVERHEAD_BYTES

    def value(self, declared: Any) -> Any:
        """The value as a type.

        Raises:
            UnreadableValueError: the payload is not of that type.
        """
        kind, shared = self.shared
        if kind is declared or (kind == declared and kind is not _NOT_SHARED[0]):
            return shared
        codec: TypeCodec = codec_for(declared)
        value = codec.read(self.payload)
        if codec.may_share(value):
            self.shared = (declared, value)
        return value
