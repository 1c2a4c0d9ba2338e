"""Keys never meet, whatever they are made of, and read well."""

from __future__ import annotations

import enum
import fnmatch
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from araponga_infra.caching import key
from araponga_infra.caching.keys import Pattern, group_of, normalized, stored_name
from araponga_infra.errors import InvalidArgumentError


class Colour(enum.Enum):
    RED = "red"


part: Any = st.recursive(
    st.one_of(
        st.text(),
        st.integers(),
        st.booleans(),
        st.none(),
        st.uuids(),
        st.binary(),
        st.dates(),
        st.datetimes(),
        st.decimals(allow_nan=False),
        st.floats(allow_nan=False),
        st.timedeltas(),
        st.integers().map(str),
        st.uuids().map(str),
        st.sampled_from(["true", "null", "", "'", "a:b", "(a)", "bytes'00", "%3A", "#"]),
    ),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)


def typed(value: Any) -> Any:
    """1, 1.0 and True are equal in Python and different in a key."""
    return tuple(map(typed, value)) if isinstance(value, tuple) else (type(value), str(value))


@given(st.lists(part, min_size=1, max_size=4), st.lists(part, min_size=1, max_size=4))
def test_different_parts_give_different_keys(one: list[Any], other: list[Any]) -> None:
    assert (key(*one) == key(*other)) == (typed(tuple(one)) == typed(tuple(other)))


@given(st.lists(part, min_size=1, max_size=4))
def test_a_key_is_printable_and_passes_into_redis_unchanged(parts: list[Any]) -> None:
    name = key(*parts)
    assert not set(name) & set(" \n\r\t\0*?[]\\{}")
    assert stored_name(name) == name or len(name) > 200


@given(st.text(min_size=1), st.text(min_size=1))
def test_different_names_are_stored_under_different_names(one: str, other: str) -> None:
    assert (stored_name(one) == stored_name(other)) == (one == other)


@given(st.text(min_size=201, max_size=300), st.text(min_size=1, max_size=3))
def test_long_names_are_bounded_and_differ(name: str, suffix: str) -> None:
    assert len(stored_name(name)) <= 200
    assert stored_name(name) != stored_name(name + suffix)


@given(st.text(alphabet="ab :*?[]\\{}=%\n", min_size=1, max_size=6), st.text(alphabet="ab :*?[\n=", min_size=1))
def test_a_pattern_matches_what_the_shell_would(pattern: str, name: str) -> None:
    if "[" in pattern or "\\" in pattern:
        return
    assert Pattern(pattern).matches(stored_name(name)) == fnmatch.fnmatchcase(name, pattern)


@given(st.text(alphabet="ab *?[]\\", min_size=1, max_size=8))
def test_an_escaped_pattern_means_itself(name: str) -> None:
    escaped = "".join(f"\\{character}" for character in name)
    assert Pattern(escaped).matches(stored_name(name))
    assert not Pattern(escaped).matches(stored_name(name + "a"))


@pytest.mark.parametrize(
    ("parts", "rendered"),
    [
        (("territory", 42, "summary"), "territory:42:summary"),
        (("territory", "42"), "territory:'42"),
        (("post", UUID(int=5)), "post:00000000-0000-0000-0000-000000000005"),
        (("on", date(2026, 1, 2), None, True), "on:date'2026-01-02:null:true"),
        (("at", datetime(2026, 1, 2, tzinfo=UTC)), "at:datetime'2026-01-02T00%3A00%3A00+00%3A00"),
        (("by", Colour.RED, Decimal("1.0"), 1.5), "by:Colour'RED:decimal'1.0:float'1.5"),
        (("pair", (1, "a,b")), "pair:(1,a%2Cb)"),
        (("bytes", b"\x00\xff"), "bytes:bytes'00ff"),
        (("café", "São Paulo"), "café:São%20Paulo"),
    ],
)
def test_keys_read_well(parts: tuple[Any, ...], rendered: str) -> None:
    assert key(*parts) == rendered
    assert normalized(parts) == rendered
    assert group_of(rendered) == parts[0]


@pytest.mark.parametrize("bad", [(), (object(),), ([],), ("a", {})])
def test_what_cannot_be_a_part_is_refused(bad: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match="key"):
        key(*bad)


@pytest.mark.parametrize("bad", ["[a-\U0001ffff]", ""])
def test_a_pattern_that_makes_no_sense_is_refused(bad: str) -> None:
    with pytest.raises(InvalidArgumentError, match="pattern"):
        Pattern(bad)
