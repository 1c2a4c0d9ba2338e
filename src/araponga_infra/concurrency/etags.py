"""ETag and If-Match: what a client saw, checked against what is there (RFC 9110, sections 8.8.3 and 13.1.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.ext.asyncio import async_session
from sqlalchemy.orm import InstanceState, Session
from sqlalchemy.orm.attributes import flag_modified
from sqlalchemy.util.concurrency import in_greenlet

from araponga_infra.concurrency.errors import PreconditionFailedError, PreconditionRequiredError, RowConflict
from araponga_infra.concurrency.versions import entity_name, loaded_version, row_name, version_column, version_key
from araponga_infra.errors import InvalidArgumentError

__all__ = ["IfMatch", "etag", "expect_version", "parse_if_match", "touch"]

_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_LIST = re.compile(rf"[ \t,]*{_TAG.pattern}(?:[ \t]*,[ \t,]*{_TAG.pattern})*[ \t,]*")
_LONGEST_HEADER = 8_192
_SHOWN = 80


@dataclass(frozen=True)
class IfMatch:
    """What an If-Match header asks for.

    Attributes:
        tags: the strong tags without their quotes, in order.
        weak_tags: the weak ones (`W/"3"`). They never match: If-Match compares strongly (RFC 9110, 13.1.1).
        is_any: the header was `*`: any version will do as long as the row exists.
    """

    tags: tuple[str, ...] = ()
    weak_tags: tuple[str, ...] = ()
    is_any: bool = False

    def matches(self, tag: str) -> bool:
        """Whether a row with this tag, quoted as `etag` gives it, is one the client asked for."""
        return self.is_any or tag[1:-1] in self.tags

    def __str__(self) -> str:
        if self.is_any:
            return "*"
        return ", ".join([*(f'"{tag}"' for tag in self.tags), *(f'W/"{tag}"' for tag in self.weak_tags)])


def etag(obj: object) -> str:
    """The strong ETag of a versioned row, for the response that shows it: `'"3"'`.

    Works on a row that is detached, as one that `execute` returned. A row that was changed has its new tag once it is
    flushed.

    Args:
        obj: a row of a versioned class.

    Returns:
        The tag with its quotes.

    Raises:
        InvalidArgumentError: not a versioned row, one without a version yet (flush it first), or one that expired.

    Examples:
        >>> with Session(engine) as session:
        ...     etag(session.get_one(Post, 1))
        '"1"'
    """
    return f'"{_version_of(obj)}"'


def parse_if_match(header: str | None) -> IfMatch:
    """Read an If-Match header: `"3"`, a list `"3", "4"`, weak tags, or `*`.

    Args:
        header: the header's value; several header lines are joined with a comma, as HTTP has it.

    Raises:
        PreconditionRequiredError: None or blank: the client sent no If-Match. Answer 428.
        InvalidArgumentError: not an If-Match value, or no string. Answer 400.

    Examples:
        >>> parse_if_match('"3", W/"4"')
        IfMatch(tags=('3',), weak_tags=('4',), is_any=False)
    """
    given: object = header
    if given is not None and not isinstance(given, str):
        raise InvalidArgumentError(f"If-Match is a {type(given).__name__}: pass the header's value as a string")
    if header is None or not header.strip():
        raise PreconditionRequiredError(
            'If-Match is missing: send the ETag of the version that this change was made from, as in If-Match: "3"'
        )
    if header.strip() == "*":
        return IfMatch(is_any=True)
    return _parse_tags(header)


def _parse_tags(header: str) -> IfMatch:
    if len(header) > _LONGEST_HEADER or not _LIST.fullmatch(header):
        raise InvalidArgumentError(
            f'If-Match {header[:_SHOWN]!r} cannot be read: send quoted tags as in "3" or "3", "4", or *'
        )
    tags = [(bool(found[1]), found[2]) for found in _TAG.finditer(header)]
    return IfMatch(tuple(tag for is_weak, tag in tags if not is_weak), tuple(tag for is_weak, tag in tags if is_weak))


def expect_version(obj: object, version_or_if_match: int | str | IfMatch) -> None:
    """Insist that a row is at the version that a client saw: checked now, in memory, against the row as it was read.

    From here to COMMIT the row version itself keeps watch: a change in between ends in a conflict, and where the unit
    of work is tried again this check is, too.

    Args:
        obj: a versioned row, read in this unit of work.
        version_or_if_match: a version, an If-Match header, or what `parse_if_match` made of one.

    Raises:
        PreconditionFailedError: the row is at another version. Never retried. Answer 412.
        PreconditionRequiredError: an empty header. Answer 428.
        InvalidArgumentError: not a versioned row, or not a version.
    """
    actual = _version_of(obj)
    expected = version_or_if_match
    if isinstance(expected, str):
        expected = parse_if_match(expected)
    if isinstance(expected, IfMatch):
        is_expected = expected.matches(f'"{actual}"')
    elif isinstance(expected, int) and not isinstance(expected, bool):
        is_expected = expected == actual
    else:
        raise InvalidArgumentError(
            f"version_or_if_match={expected!r} is neither a number nor an If-Match: pass what the client sent"
        )
    if not is_expected:
        state = _versioned_state(obj)
        shown = expected if isinstance(expected, int) else _shown_version(expected)
        conflict = RowConflict(entity_name(state.mapper), tuple(state.identity or ()), shown, actual)
        raise PreconditionFailedError([conflict])


def touch(parent: object) -> None:
    """Count a change of a child as a change of its aggregate: the next flush raises the parent's row version.

    Two units that change different children of one parent then conflict instead of passing each other unseen. A parent
    that is new is left as it is.

    Args:
        parent: a versioned row in a session.

    Raises:
        InvalidArgumentError: not a versioned row, or not in a session.
    """
    state = _versioned_state(parent)
    if state.key is None:
        return
    if state.session is None:
        raise InvalidArgumentError(f"{row_name(state)} is in no session: read it in this unit of work, then touch it")
    if loaded_version(state) is None:
        if not _can_load(state.session):
            raise InvalidArgumentError(f"{row_name(state)} expired: refresh it, then touch it")
        state.session.refresh(parent)
    flag_modified(parent, _written_attribute(state))


def _written_attribute(state: InstanceState[Any]) -> str:
    """Some column that the UPDATE can set to the value it has; the key, where there is no other."""
    mapper = state.mapper
    keys = {mapper.get_property_by_column(column).key for column in mapper.primary_key}
    version = version_key(mapper)
    plain = (a.key for a in mapper.column_attrs if a.key in state.dict and a.key not in keys and a.key != version)
    own_table = version_column(mapper).table
    for key in plain:
        if any(getattr(column, "table", None) is own_table for column in mapper.column_attrs[key].columns):
            return key
    return min(keys)


def _version_of(obj: object) -> int:
    state = _versioned_state(obj)
    version = loaded_version(state)
    if version is None and state.key is not None and state.session is not None and _can_load(state.session):
        version = getattr(obj, version_key(state.mapper))
    if version is None:
        raise InvalidArgumentError(
            f"{row_name(state)} has no version to speak of: flush it if it is new, refresh it if it expired"
        )
    return version


def _can_load(session: Session) -> bool:
    """An AsyncSession reads only where it is awaited; elsewhere the attempt would fail from deep inside a driver."""
    return async_session(session) is None or in_greenlet()


def _versioned_state(obj: object) -> InstanceState[Any]:
    state: InstanceState[Any] | None = inspect(obj, raiseerr=False)
    if not isinstance(state, InstanceState):
        raise InvalidArgumentError(f"a {type(obj).__name__} is not a mapped row: pass an object of a versioned class")
    if state.mapper.version_id_col is None:
        name = entity_name(state.mapper)
        raise InvalidArgumentError(f"{name} has no row version: let {name} extend RowVersion or decorate it @versioned")
    return state


def _shown_version(asked: IfMatch) -> int | str:
    is_one_number = len(asked.tags) == 1 and not asked.weak_tags and asked.tags[0].isdecimal()
    return int(asked.tags[0]) if is_one_number else str(asked)
