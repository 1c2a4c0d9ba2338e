"""Event classes: a stable name and version, stamped on the class and registered nowhere."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import msgspec

from araponga_infra.errors import InvalidArgumentError
from araponga_infra.events.errors import PayloadError, UnknownEventError

__all__ = ["Codec", "EventType", "codec_of", "event", "event_type_of", "is_name"]

C = TypeVar("C", bound=type[Any])
_STAMP = "__araponga_event__"
_CODEC = "__araponga_codec__"
_NULL = b"null"
_AS_STORED: dict[str, bool] = {"by_alias": False, "round_trip": True}
_NAME_LENGTH = 200
_LATEST_VERSION = 2**31 - 1


@dataclass(frozen=True)
class EventType:
    """What the store remembers of an event's class: its name, and the version of its shape."""

    name: str
    version: int


def event(name: str, *, version: int = 1) -> Callable[[C], C]:
    """Make a class an event: give it the name and version that stores keep.

    The class stays as it is and is registered nowhere; handlers subscribe to it on an `EventRouter`. Rename or move the
    class as you like, but keep `name`. Raise `version` when old payloads no longer fit, and give routers an upcaster.

    Args:
        name: stable and dotted, as in `"community.post_published"`, at most 200 characters.
        version: of the payload's shape, from 1.

    Raises:
        InvalidArgumentError: an empty or over-long name or one with blanks, a version below 1, or a class that is
            neither a dataclass, a msgspec Struct nor a pydantic model.

    Examples:
        >>> @event("community.post_published", version=1)
        ... @dataclass(frozen=True)
        ... class PostPublished:
        ...     post_id: int
    """
    if not is_name(name):
        raise InvalidArgumentError(
            f"name={name!r} must be a text of 1 to {_NAME_LENGTH} characters without blanks, such as 'shop.sold'"
        )
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= _LATEST_VERSION:
        raise InvalidArgumentError(
            f"version={version!r} of event {name!r} must be a whole number, 1 or more (at most {_LATEST_VERSION})"
        )

    def stamp(cls: C) -> C:
        if not isinstance(cls, type) or not (_is_plain(cls) or _is_pydantic(cls)):
            raise InvalidArgumentError(
                f"event {name!r} is put on {cls!r}, which is not a dataclass, msgspec Struct or pydantic model: "
                "write @event(...) above @dataclass"
            )
        setattr(cls, _STAMP, EventType(name, version))
        return cls

    return stamp


def is_name(name: object) -> bool:
    """Whether stores, logs and command lines can carry it: printable, without blanks, not too long."""
    if not isinstance(name, str) or not 0 < len(name) <= _NAME_LENGTH:
        return False
    return name.isprintable() and not any(character.isspace() for character in name)


def event_type_of(cls: type[Any]) -> EventType:
    """The stamp of an event class; a subclass does not inherit it.

    Raises:
        UnknownEventError: the class has none.
    """
    stamp = cls.__dict__.get(_STAMP) if isinstance(cls, type) else None
    if stamp is None:
        shown = cls.__qualname__ if isinstance(cls, type) else repr(type(cls))
        raise UnknownEventError(f"{shown} is not an event: put @event('some.stable_name', version=1) above the class")
    return cast(EventType, stamp)


class Codec:
    """Writes one event class as typed JSON and reads it back; immutable, safe to share between threads."""

    __slots__ = ("_content", "decode", "encode", "event_type", "name", "version")

    def __init__(self, cls: type[Any]) -> None:
        self.event_type: EventType = event_type_of(cls)
        self.name: str = self.event_type.name
        self.version: int = self.event_type.version
        self.encode: Callable[[Any], bytes]
        self.decode: Callable[[bytes], Any]
        self._content: Callable[[Any], object]
        if _is_pydantic(cls):
            self.encode = lambda value: value.model_dump_json(**_AS_STORED, warnings=False).encode()
            self.decode = _model_decoder(cls)
            self._content = lambda value: value.model_dump(**_AS_STORED, warnings=False)
        else:
            self.encode = msgspec.json.encode
            self.decode = _decoder(cls)
            self._content = msgspec.to_builtins

    def checked(self, value: object) -> bytes:
        """The payload of `value`, read back once, so that a mistake shows where the event is published.

        Raises:
            PayloadError: a field of a wrong or unsupported type. The value itself is not repeated.
        """
        try:
            payload = self.encode(value)
            self.decode(payload)
            if _NULL in payload and _has_no_json_number(self._content(value)):
                raise ValueError("NaN and infinity have no JSON form and would be read as null")  # noqa: TRY301
        except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
            raise PayloadError(
                f"event {self.name!r} cannot be published: {_without_values(error)}; "
                f"give {type(value).__qualname__} fields of the types it declares"
            ) from None
        return payload


def codec_of(cls: type[Any]) -> Codec:
    """The codec of an event class, made once and kept on it.

    Raises:
        UnknownEventError: not an event.
        PayloadError: a field's type has no JSON form.
    """
    codec = cls.__dict__.get(_CODEC)
    if codec is None:
        codec = Codec(cls)
        setattr(cls, _CODEC, codec)
    return cast(Codec, codec)


def _decoder(cls: type[Any]) -> Callable[[bytes], Any]:
    try:
        return msgspec.json.Decoder(cls).decode
    except (TypeError, NameError) as error:
        raise PayloadError(
            f"event {event_type_of(cls).name!r} has a field without a JSON form ({error}): "
            "use str, int, float, bool, datetime, UUID, Decimal, enums, dataclasses, Structs and collections of them"
        ) from error


def _model_decoder(cls: type[Any]) -> Callable[[bytes], Any]:
    """By the names of fields, as they are written: aliases are for other people's JSON, and may differ both ways."""
    if "by_name" not in inspect.signature(cls.model_validate_json).parameters:
        raise PayloadError(
            f"event {event_type_of(cls).name!r} is a model of a pydantic before 2.11, which cannot read by names of "
            "fields: update pydantic, or make it a dataclass"
        )
    return partial(cls.model_validate_json, by_alias=False, by_name=True)


def _has_no_json_number(content: object) -> bool:
    if isinstance(content, float):
        return not math.isfinite(content)
    if isinstance(content, Mapping):
        return any(map(_has_no_json_number, cast(Mapping[object, object], content).values()))
    if isinstance(content, (list, tuple, set, frozenset)):
        return any(map(_has_no_json_number, cast(Iterable[object], content)))
    return False


def _without_values(error: Exception) -> str:
    """msgspec's messages name types and paths only; pydantic's repeat the input."""
    describe = getattr(error, "errors", None)
    if describe is None:
        return str(error)
    found = describe(include_input=False, include_url=False, include_context=False)
    return "; ".join(f"{each['type']} at {'.'.join(map(str, each['loc']))}" for each in found)


def _is_plain(cls: type[Any]) -> bool:
    return dataclasses.is_dataclass(cls) or issubclass(cls, msgspec.Struct)


def _is_pydantic(cls: type[Any]) -> bool:
    return callable(getattr(cls, "model_validate_json", None)) and callable(getattr(cls, "model_dump_json", None))
