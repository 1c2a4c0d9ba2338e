"""Values as typed JSON: written once, read back as the type the caller names, the same from every backend."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import msgspec

from araponga_infra.caching.errors import UncacheableValueError
from araponga_infra.caching.immutability import ATOMS, is_immutable
from araponga_infra.caching.values import Loaded, Missing
from araponga_infra.errors import InvalidArgumentError

__all__ = [
    "MAX_DEPTH",
    "MAX_VALUE_BYTES",
    "TypeCodec",
    "UnreadableValueError",
    "codec_for",
    "encode",
    "refuse_excess",
    "refuse_other_type",
]

MAX_VALUE_BYTES = 1_048_576
MAX_DEPTH = 64

_MARKERS: tuple[type[Any], ...] = (Loaded, Missing)
_MAPPINGS: tuple[type[Any], ...] = (dict,)
_CONTAINERS: tuple[type[Any], ...] = (dict, list, tuple)

Payload: TypeAlias = "bytes | memoryview"


class UnreadableValueError(Exception):
    """Stored bytes do not read as the type that was asked for: a miss."""


class TypeCodec:
    """Reads payloads as one type.

    Args:
        declared: the type callers named.

    Raises:
        InvalidArgumentError: JSON cannot tell the members of such a type apart, or it is no type.
    """

    __slots__ = ("_decode", "declared", "is_immutable")

    def __init__(self, declared: Any) -> None:
        self.declared: Any = declared
        try:
            self._decode = msgspec.json.Decoder(declared, dec_hook=_read_foreign).decode
        except (TypeError, NotImplementedError, NameError) as error:
            raise InvalidArgumentError(
                f"type={declared!r} cannot be read back from JSON ({error}): cache a dataclass, Struct, pydantic "
                "model or a plain type instead"
            ) from error
        self.is_immutable: bool = is_immutable(declared)

    def read(self, payload: Payload) -> Any:
        """The value, new for each call unless it cannot change.

        Raises:
            UnreadableValueError: the bytes are not JSON or not of this type.
        """
        try:
            return self._decode(payload)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
            raise UnreadableValueError(type(error).__name__) from error

    def may_share(self, value: object) -> bool:
        """Whether callers may be handed this very object again and again."""
        return self.is_immutable or value.__class__ in ATOMS


_codecs: dict[Any, TypeCodec] = {}
_MOST_CODECS = 1024


def codec_for(declared: Any) -> TypeCodec:
    """The codec of a type; building one is slow, so they are kept."""
    try:
        return _codecs[declared]
    except KeyError:
        codec = TypeCodec(declared)
    except TypeError:
        return TypeCodec(declared)
    if len(_codecs) >= _MOST_CODECS:
        _codecs.clear()
    _codecs[declared] = codec
    return codec


def encode(value: Any) -> bytes:
    """Write a value as JSON.

    Raises:
        UncacheableValueError: there is no JSON form for it, as for NaN and infinity, which JSON would turn into null.
    """
    if isinstance(value, _MARKERS):
        raise UncacheableValueError(f"a {type(value).__name__} is no value: cache what it stands for")
    try:
        payload = msgspec.json.encode(value, enc_hook=_write_foreign)
        is_lossy = b"null" in payload and _has_not_finite(msgspec.to_builtins(value, enc_hook=_write_foreign))
    except (TypeError, ValueError, RecursionError, NotImplementedError, msgspec.MsgspecError) as error:
        raise UncacheableValueError(
            f"a {type(value).__name__} cannot be cached ({_reason(error)}): cache a dataclass, Struct, pydantic model "
            "or plain values made from it"
        ) from error
    if is_lossy:
        raise UncacheableValueError(
            f"a {type(value).__name__} holds NaN or infinity, which JSON has no form for: cache None or a text instead"
        )
    return payload


def refuse_other_type(value: Any, declared: Any) -> None:
    """Keep out what its readers would pass over.

    Raises:
        UncacheableValueError: written as JSON, the value does not read back as its type.
    """
    try:
        codec_for(declared).read(encode(value))
    except UnreadableValueError as error:
        raise UncacheableValueError(
            f"a {type(value).__name__} does not read back as {declared!r}: correct the type or the value"
        ) from error


def refuse_excess(payload: bytes, kind: type[Any]) -> None:
    """Keep large values out: they cost every reader.

    Raises:
        UncacheableValueError: larger than 1 MiB, or nested deeper than 64 levels.
    """
    if len(payload) > MAX_VALUE_BYTES:
        raise UncacheableValueError(
            f"a {kind.__name__} takes {len(payload)} bytes as JSON, the limit is {MAX_VALUE_BYTES}: "
            "cache its parts under keys of their own"
        )
    if payload.count(b"[") + payload.count(b"{") > MAX_DEPTH and _depth(payload) > MAX_DEPTH:
        raise UncacheableValueError(
            f"a {kind.__name__} is nested deeper than {MAX_DEPTH} levels: cache a flatter value"
        )


def _reason(error: Exception) -> str:
    """What went wrong, without quoting the value, which the messages of some libraries do."""
    return str(error) if isinstance(error, TypeError) else type(error).__name__


def _has_not_finite(value: Any) -> bool:
    """Whether a NaN or an infinity is somewhere in builtins."""
    if isinstance(value, float):
        return not math.isfinite(value)
    members: Any = value.values() if isinstance(value, _MAPPINGS) else value
    return isinstance(value, _CONTAINERS) and any(map(_has_not_finite, members))


def _depth(payload: bytes) -> int:
    deepest = level = 0
    in_string = is_escaped = False
    for byte in payload:
        if in_string:
            in_string = is_escaped or byte != 0x22
            is_escaped = byte == 0x5C and not is_escaped
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            level += 1
            deepest = max(deepest, level)
        elif byte in b"]}":
            level -= 1
    return deepest


def _write_foreign(value: Any) -> Any:
    """Pydantic models, told by their protocol, since pydantic need not be installed."""
    dump = getattr(value, "model_dump_json", None)
    if dump is None:
        raise TypeError(f"no JSON form for {type(value).__name__}")
    return msgspec.Raw(dump(by_alias=True, round_trip=True).encode())


def _read_foreign(declared: type[Any], builtins: Any) -> Any:
    validate = getattr(declared, "model_validate_json", None)
    if validate is None:
        raise TypeError(f"no JSON form for {declared!r}")
    return validate(msgspec.json.encode(builtins))
