"""ETag and If-Match, as RFC 9110 has them."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from araponga_infra.concurrency import (
    IfMatch,
    PreconditionFailedError,
    PreconditionRequiredError,
    RowConflict,
    etag,
    expect_version,
    parse_if_match,
)
from araponga_infra.errors import InvalidArgumentError

from .blog import Base, Ledger, Post, Tag
from .databases import Database

tags = st.text(st.characters(codec="latin-1", exclude_characters='"\x7f', min_codepoint=0x21), max_size=8)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('"3"', IfMatch(("3",))),
        (' "3" ', IfMatch(("3",))),
        ('"3", "4"', IfMatch(("3", "4"))),
        ('"3","4"', IfMatch(("3", "4"))),
        ('W/"3"', IfMatch((), ("3",))),
        ('"3", W/"4"', IfMatch(("3",), ("4",))),
        ('"3",, "4",', IfMatch(("3", "4"))),
        ('"a,b"', IfMatch(("a,b",))),
        ('""', IfMatch(("",))),
        ("*", IfMatch(is_any=True)),
        (" * ", IfMatch(is_any=True)),
    ],
)
def test_headers_that_can_be_read(header: str, expected: IfMatch) -> None:
    assert parse_if_match(header) == expected


@pytest.mark.parametrize(
    "header", ["3", '"3', '3"', '"3" "4"', 'w/"3"', '*, "3"', '"3", 4', "W/3", ",", '"\n"', '"3"' + ',"4"' * 3000]
)
def test_headers_that_cannot(header: str) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be read") as refused:
        parse_if_match(header)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize("header", [None, "", "   "])
def test_a_missing_header_is_required(header: str | None) -> None:
    with pytest.raises(PreconditionRequiredError, match="If-Match is missing") as required:
        parse_if_match(header)
    assert str(pickle.loads(pickle.dumps(required.value))) == str(required.value)


@given(st.lists(st.tuples(st.booleans(), tags), min_size=1, max_size=5))
def test_what_is_written_is_read_back(listed: list[tuple[bool, str]]) -> None:
    header = ", ".join(f'{"W/" if is_weak else ""}"{tag}"' for is_weak, tag in listed)
    parsed = parse_if_match(header)
    assert parsed.tags == tuple(tag for is_weak, tag in listed if not is_weak)
    assert parsed.weak_tags == tuple(tag for is_weak, tag in listed if is_weak)
    assert parse_if_match(str(parsed)) == parsed


@given(st.text(max_size=40))
def test_no_header_is_met_with_another_error(header: str) -> None:
    try:
        parse_if_match(header)
    except (InvalidArgumentError, PreconditionRequiredError):
        return
    assert '"' in header or header.strip() == "*"


def a_post(version: int) -> Post:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine, expire_on_commit=False) as session:
        post = Post(id=1)
        session.add(post)
        session.commit()
        for number in range(1, version):
            post.title = str(number)
            session.commit()
    engine.dispose()
    return post


@pytest.mark.parametrize("expected", [3, '"3"', 'W/"1", "3"', '"2", "3"', "*", IfMatch(("3",))])
def test_a_version_that_matches(expected: int | str | IfMatch) -> None:
    expect_version(a_post(3), expected)


@pytest.mark.parametrize(
    ("expected", "shown"),
    [(2, 2), (4, 4), ('"2"', 2), ('W/"3"', 'W/"3"'), ('"1", "2"', '"1", "2"'), ('"abc"', '"abc"')],
)
def test_a_version_that_does_not(expected: int | str, shown: int | str) -> None:
    with pytest.raises(PreconditionFailedError) as refused:
        expect_version(a_post(3), expected)
    assert refused.value.conflicts == (RowConflict("Post", (1,), shown, 3),)
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)


@pytest.mark.parametrize("expected", [None, True, 2.0, b'"3"'])
def test_what_is_no_version_is_refused(expected: object) -> None:
    with pytest.raises(InvalidArgumentError, match="neither a number nor an If-Match"):
        expect_version(a_post(3), expected)  # type: ignore[arg-type]


def test_the_etag_of_a_detached_row() -> None:
    assert etag(a_post(2)) == '"2"'


def test_the_etag_of_a_new_row_needs_a_flush() -> None:
    with pytest.raises(InvalidArgumentError, match="flush it"):
        etag(Ledger(id=1))


@pytest.mark.parametrize("obj", [object(), Tag(id=1, name="a"), Post])
def test_the_etag_of_what_has_no_version(obj: object) -> None:
    with pytest.raises(InvalidArgumentError):
        etag(obj)


def test_the_etag_after_a_flush_is_that_of_the_new_version(database: Database) -> None:
    def work(session: Session) -> list[str]:
        post = session.get_one(Post, 1)
        before = etag(post)
        post.title = "a"
        unflushed = etag(post)
        session.flush()
        session.expire(post)
        return [before, unflushed, etag(post)]

    assert database.helper()(work) == ['"1"', '"1"', '"2"']


@pytest.mark.anyio
async def test_an_expired_row_of_an_async_session_is_told_what_to_do() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine) as session:
        post = Post(id=1)
        session.add(post)
        await session.commit()
        with pytest.raises(InvalidArgumentError, match="refresh it if it expired"):
            etag(post)
        await session.refresh(post)
        assert etag(post) == '"1"'
    await engine.dispose()


@pytest.mark.parametrize("header", [3, b'"3"'])
def test_a_header_is_a_string(header: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="string"):
        parse_if_match(header)


def test_the_parameter_of_expect_version_is_named_for_what_it_takes() -> None:
    assert list(inspect.signature(expect_version).parameters) == ["obj", "version_or_if_match"]
