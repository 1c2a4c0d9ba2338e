"""Which types hold nothing that a caller could change, so that one object may serve all of them."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import types
import typing
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

__all__ = ["ATOMS", "is_immutable"]

ATOMS = frozenset({
    str, int, float, bool, bytes, type(None), complex, Decimal, UUID,
    datetime.date, datetime.datetime, datetime.time, datetime.timedelta,
})  # fmt: skip


def is_immutable(declared: Any) -> bool:
    """Whether every value of a type is immutable all the way down; False when in doubt.

    Frozen dataclasses, Structs and pydantic models whose fields are immutable, enums, tuples and frozensets of
    immutable types, and unions of them.
    """
    try:
        return _holds(declared, frozenset())
    except (NameError, TypeError, AttributeError):
        return False


def _holds(declared: Any, seen: frozenset[Any]) -> bool:
    if declared is None or declared in ATOMS:
        return True
    if declared in seen:
        return True
    origin = typing.get_origin(declared)
    if origin is not None:
        return _generic_holds(origin, declared, seen)
    if isinstance(declared, typing.NewType):
        return _holds(declared.__supertype__, seen)
    return isinstance(declared, type) and _class_holds(declared, declared, seen | {declared})


def _generic_holds(origin: Any, declared: Any, seen: frozenset[Any]) -> bool:
    arguments = typing.get_args(declared)
    if origin is typing.Literal:
        return True
    if origin is typing.Annotated:
        return _holds(arguments[0], seen)
    if origin in (typing.Union, types.UnionType):
        return all(_holds(argument, seen) for argument in arguments)
    if origin in (tuple, frozenset):
        return bool(arguments) and all(argument is ... or _holds(argument, seen) for argument in arguments)
    if not isinstance(origin, type) or not all(_holds(argument, seen) for argument in arguments):
        return False
    return _class_holds(origin, declared, seen | {origin})


def _class_holds(kind: type[Any], declared: Any, seen: frozenset[Any]) -> bool:
    if issubclass(kind, enum.Enum):
        return True
    if not (_is_frozen_dataclass(kind) or _is_frozen_struct(kind) or _is_frozen_model(kind) or _is_named_tuple(kind)):
        return False
    hints = typing.get_type_hints(kind, include_extras=True)
    if declared is kind and bool(getattr(kind, "__parameters__", None)):
        return False
    return all(
        isinstance(hint, typing.TypeVar) or typing.get_origin(hint) is typing.ClassVar or _holds(hint, seen)
        for name, hint in hints.items()
        if _is_field(kind, name)
    )


def _is_field(kind: type[Any], name: str) -> bool:
    fields = getattr(kind, "model_fields", None)
    return fields is None or name in fields


def _is_frozen_dataclass(kind: type[Any]) -> bool:
    return dataclasses.is_dataclass(kind) and bool(kind.__dataclass_params__.frozen)  # type: ignore[attr-defined]


def _is_frozen_struct(kind: type[Any]) -> bool:
    return issubclass(kind, msgspec.Struct) and bool(kind.__struct_config__.frozen)


def _is_frozen_model(kind: type[Any]) -> bool:
    config = getattr(kind, "model_config", None)
    return hasattr(kind, "model_validate_json") and bool(config and config.get("frozen"))


def _is_named_tuple(kind: type[Any]) -> bool:
    return hasattr(kind, "_fields") and issubclass(kind, tuple)
