"""How keys and entries are written in Redis, readable in redis-cli.

    araponga:1:{territory:42}           entry: a header, a line break, the value as JSON
    araponga:1:{territory:42}:lease     who is loading it
    araponga:1:#epoch, #group:territory, #tag:news     markers: an entry names the tokens it was written under

An entry is valid while its markers hold the tokens that it names; removing a marker makes a miss of all of them, and
so does losing one to eviction or a flush. The braces keep an entry and its lease on one node of a cluster.
"""

from __future__ import annotations

import math

import msgspec

from araponga_infra.caching.freshness import Lifetime
from araponga_infra.caching.keys import Pattern, group_of, namespaced, stored_name

__all__ = ["SCHEMA", "ForeignEntryError", "Header", "Message", "Names", "life_ms", "pack", "remaining", "unpack"]

SCHEMA = 1
_NO_END = -1
_LONGEST_LIFE_MS = 10 * 365 * 24 * 3600 * 1000


class ForeignEntryError(Exception):
    """Bytes that this version did not write: a miss."""


class Header(msgspec.Struct, array_like=True, frozen=True):
    """What an entry says of itself."""

    schema: int
    epoch: str
    group: str
    expires_ms: int
    stale_ms: int
    load_ms: int
    tags: tuple[tuple[str, str], ...] = ()


class Message(msgspec.Struct, array_like=True, frozen=True):
    """What instances tell each other: who, what kind (`keys`, `pattern`, `tag`, `group`, `all`, `stored`, `canary`)."""

    sender: str
    kind: str
    names: tuple[str, ...] = ()


_header_decode = msgspec.json.Decoder(Header).decode
_encode = msgspec.json.encode
_message_decode = msgspec.json.Decoder(Message).decode


def read_message(data: bytes) -> Message | None:
    """A message, or None for bytes that are none of ours."""
    try:
        return _message_decode(data)
    except (msgspec.MsgspecError, ValueError):
        return None


def write_message(sender: str, kind: str, names: tuple[str, ...] = ()) -> bytes:
    return _encode(Message(sender, kind, names))


def pack(payload: bytes, life: Lifetime, server_ms: float, epoch: str, group: str, tags: dict[str, str]) -> bytes:
    """The bytes of an entry that is written at a time of the server."""
    header = Header(
        SCHEMA, epoch, group,
        _NO_END if math.isinf(life.ttl_seconds) else int(server_ms + life.ttl_seconds * 1000),
        int(min(life.stale_for_seconds * 1000, _LONGEST_LIFE_MS)),
        math.ceil(life.load_seconds * 1000),
        tuple(tags.items()),
    )  # fmt: skip
    return _encode(header) + b"\n" + payload


def unpack(blob: bytes) -> tuple[Header, bytes]:
    """An entry as read: its header, and its value as JSON.

    Raises:
        ForeignEntryError: not written by this version.
    """
    head, _, payload = blob.partition(b"\n")
    try:
        header = _header_decode(head)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ForeignEntryError("foreign or corrupt") from error
    if header.schema != SCHEMA:
        raise ForeignEntryError(f"schema {header.schema}")
    return header, payload


def remaining(header: Header, server_ms: float) -> Lifetime:
    """What is left of an entry's life at a time of the server."""
    left = math.inf if header.expires_ms == _NO_END else (header.expires_ms - server_ms) / 1000.0
    return Lifetime(left, header.stale_ms / 1000.0, header.load_ms / 1000.0)


def life_ms(life: Lifetime) -> int:
    """How long Redis keeps an entry, its grace included; 0 is without an end."""
    seconds = life.ttl_seconds + life.stale_for_seconds
    return 0 if math.isinf(seconds) else max(1, min(int(seconds * 1000), _LONGEST_LIFE_MS))


class Names:
    """The names that one namespace takes in Redis.

    Args:
        namespace: keeps services that share a Redis apart.

    Raises:
        InvalidArgumentError: empty, or with characters that have a meaning in names or patterns.
    """

    __slots__ = ("_prefix", "_start", "channel", "epoch", "tag_generation")

    def __init__(self, namespace: str) -> None:
        self._prefix = f"{namespaced(namespace)}:{SCHEMA}:"
        self._start = f"{self._prefix}{{"
        self.epoch: str = f"{self._prefix}#epoch"
        self.tag_generation: str = f"{self._prefix}#tags"
        self.channel: str = f"{self._prefix}#changes"

    def entry(self, key: str) -> str:
        return f"{self._start}{stored_name(key)}}}"

    def lease(self, key: str) -> str:
        return f"{self._start}{stored_name(key)}}}:lease"

    def group_of(self, key: str) -> str | None:
        """The marker of the group a key is in; None for a key without a group."""
        group = group_of(key)
        return f"{self._prefix}#group:{stored_name(group)}" if group else None

    def group(self, group: str) -> str:
        return f"{self._prefix}#group:{stored_name(group)}"

    def tag(self, tag: str) -> str:
        return f"{self._prefix}#tag:{stored_name(tag)}"

    def own_channel(self, instance: str) -> str:
        return f"{self.channel}:{instance}"

    def glob(self, pattern: Pattern) -> str:
        """What SCAN is asked for: entries and leases, somewhat more than the pattern means."""
        return f"{self._start}{pattern.coarse}}}*"

    def key_in(self, name: str) -> str:
        """The stored name of the key in the name of an entry or lease."""
        return name[len(self._start) : name.rfind("}")]
