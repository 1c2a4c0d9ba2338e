"""Values survive the way to bytes and back, and what may be shared cannot change."""

from __future__ import annotations

import dataclasses
import enum
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypeVar
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from araponga_infra.caching.codec import UnreadableValueError, codec_for, encode, refuse_excess
from araponga_infra.caching.errors import UncacheableValueError
from araponga_infra.caching.immutability import is_immutable
from araponga_infra.errors import InvalidArgumentError

T = TypeVar("T")


class Size(enum.Enum):
    BIG = "big"
    SMALL = "small"


@dataclasses.dataclass(frozen=True)
class Leaf:
    number: int
    text: str
    when: datetime
    id: UUID
    price: Decimal
    size: Size
    raw: bytes
    pause: timedelta


@dataclasses.dataclass
class Tree:
    leaves: list[Leaf]
    by_day: dict[date, set[int]]
    pair: tuple[int, Leaf] | None


leaves = st.builds(
    Leaf,
    number=st.integers(min_value=-(2**63), max_value=2**63 - 1),
    text=st.text(),
    when=st.datetimes(),
    id=st.uuids(),
    price=st.decimals(allow_nan=False, allow_infinity=False),
    size=st.sampled_from(Size),
    raw=st.binary(),
    pause=st.timedeltas(min_value=timedelta(days=-1000), max_value=timedelta(days=1000)),
)
trees = st.builds(
    Tree,
    leaves=st.lists(leaves, max_size=3),
    by_day=st.dictionaries(st.dates(), st.sets(st.integers(-99, 99), max_size=3), max_size=3),
    pair=st.none() | st.tuples(st.integers(-5, 5), leaves),
)
json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(trees)
def test_a_value_comes_back_as_what_it_was(tree: Tree) -> None:
    assert codec_for(Tree).read(encode(tree)) == tree


@given(json)
def test_json_comes_back_without_a_type(value: Any) -> None:
    assert codec_for(Any).read(encode(value)) == value


@given(st.binary())
def test_foreign_bytes_are_unreadable_and_nothing_worse(payload: bytes) -> None:
    try:
        codec_for(Tree).read(payload)
    except UnreadableValueError:
        return


class Address(pydantic.BaseModel):
    street: str = pydantic.Field(alias="road")
    since: datetime
    tags: set[str] = set()


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, frozen=True)
    id: UUID
    on: date


def test_pydantic_models_come_back_also_nested_aliased_and_strict() -> None:
    address = Address(road="a", since=datetime(2026, 1, 1, tzinfo=UTC), tags={"x"})
    assert codec_for(list[Address]).read(encode([address])) == [address]
    strict = Strict(id=UUID(int=1), on=date(2026, 1, 1))
    assert codec_for(Strict | None).read(encode(strict)) == strict
    with pytest.raises(UnreadableValueError):
        codec_for(Strict).read(b'{"id": "x", "on": 5}')


class Point(msgspec.Struct, frozen=True):
    x: int


class Loose(msgspec.Struct):
    x: int


class Pair(NamedTuple):
    left: int
    right: Pair | None


@dataclasses.dataclass(frozen=True)
class Box(Generic[T]):
    content: T


@dataclasses.dataclass(frozen=True)
class HoldsList:
    items: list[int]


@dataclasses.dataclass
class Thawed:
    number: int


Name = NewType("Name", str)


@pytest.mark.parametrize(
    "kind",
    [int, str, None, Leaf, Leaf | None, Point, Pair, Size, tuple[int, ...], frozenset[str], Strict,
     Box[int], Name, Literal["a"], Annotated[int, "metadata"], tuple[Leaf, Point]],
)  # fmt: skip
def test_immutable_types_may_be_shared(kind: Any) -> None:
    assert is_immutable(kind)


@pytest.mark.parametrize(
    "kind",
    [Any, object, list[int], dict[str, int], set[int], Tree, Thawed, HoldsList, Loose, Address, tuple, frozenset,
     tuple[list[int], int], Box, Box[list[int]], Leaf | list[int], Box[Thawed]],
)  # fmt: skip
def test_everything_else_is_decoded_for_each_caller(kind: Any) -> None:
    assert not is_immutable(kind)


def test_excess_is_refused_with_the_size() -> None:
    with pytest.raises(UncacheableValueError, match="1048577 bytes"):
        refuse_excess(b"1" * 1_048_577, str)
    flat = encode([[] for _ in range(500)])
    refuse_excess(flat, list)
    refuse_excess(encode(["[" * 500 + '"']), list)
    with pytest.raises(UncacheableValueError, match="64 levels"):
        refuse_excess(b"[" * 65 + b"]" * 65, list)


def test_errors_do_not_quote_the_value() -> None:
    for secret in ({"password": object()}, float):
        with pytest.raises(UncacheableValueError) as caught:
            encode(["hunter2", secret])
        assert "hunter2" not in str(caught.value)


def test_a_type_that_json_cannot_tell_apart_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="type="):
        codec_for(Thawed | Leaf)
