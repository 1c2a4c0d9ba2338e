"""Which versions a session expects, taken down before each UPDATE and DELETE: after a failed flush nothing tells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, inspect
from sqlalchemy.orm import InstanceState, Mapper, Session
from sqlalchemy.orm.base import NO_VALUE

from araponga_infra.concurrency.versions import entity_name, loaded_version, row_name, version_key
from araponga_infra.errors import InvalidArgumentError

__all__ = [
    "ExpectedRow",
    "Journal",
    "journal_of",
    "note_flush",
    "note_insert",
    "note_synchronized",
    "note_write",
    "open_journal",
    "versioned_states",
]

_KEY = "araponga_infra.concurrency.journal"


@dataclass(frozen=True)
class ExpectedRow:
    """A row that a unit of work read, at the version it had then."""

    mapper: Mapper[Any]
    identity: tuple[Any, ...]
    version: int


class Journal:
    """What one session has read and is about to write. Not thread-safe, as the session is not.

    Attributes:
        is_supervised: a helper runs this session and handles its conflicts, so the session itself leaves them alone.
        is_thorough: take down all that a flush is about to write, not only what it came to before it failed.
        connection: the one that the last flush wrote through.
        matched: while a bulk update runs, the rows of the session that it changed; else None.
    """

    __slots__ = ("_expected", "_inserted", "_overtaken", "connection", "is_supervised", "is_thorough", "matched")

    def __init__(self) -> None:
        self.is_supervised: bool = False
        self.is_thorough: bool = False
        self.connection: Connection | None = None
        self.matched: set[InstanceState[Any]] | None = None
        self._expected: dict[Any, tuple[Mapper[Any], int]] = {}
        self._inserted: set[InstanceState[Any]] = set()
        self._overtaken: dict[InstanceState[Any], int] = {}

    def note_insert(self, state: InstanceState[Any]) -> None:
        self._inserted.add(state)

    def note(self, state: InstanceState[Any], version: int) -> None:
        """The version that was first read counts: later ones of the same transaction are of its own making."""
        if state not in self._inserted:
            self._expected.setdefault(state.key, (state.mapper, version))

    def expect(self, mapper: Mapper[Any], identity: tuple[Any, ...], version: int) -> None:
        self._expected.setdefault(mapper.identity_key_from_primary_key(identity), (mapper, version))

    def note_overtaken(self, state: InstanceState[Any], version: int) -> None:
        """A bulk update of this session gave the row a version that the session cannot know."""
        self._overtaken[state] = version

    def is_overtaken(self, state: InstanceState[Any], version: int) -> bool:
        return self._overtaken.get(state) == version

    def suspects(self, session: Session) -> tuple[ExpectedRow, ...]:
        """The rows that a failure may be about: those written, and those that the session still holds as read."""
        held = dict(self._expected)
        for state in versioned_states(session):
            version = loaded_version(state)
            if version is not None and state not in self._inserted:
                held.setdefault(state.key, (state.mapper, version))
        return tuple(ExpectedRow(mapper, tuple(key[1]), version) for key, (mapper, version) in held.items())

    def clear(self) -> None:
        """The transaction ended; what the session still holds is read anew or was its own making."""
        self._expected.clear()
        self._inserted.clear()
        self._overtaken.clear()
        self.connection = None


def open_journal(session: Session) -> Journal:
    """Begin to take notes on `session`, or go on with the notes that it takes itself."""
    journal: Journal | None = session.info.get(_KEY)
    if journal is None:
        journal = session.info[_KEY] = Journal()
    return journal


def journal_of(session: Session) -> Journal | None:
    journal: Journal | None = session.info.get(_KEY)
    return journal


def note_write(mapper: Mapper[Any], connection: Connection, state: InstanceState[Any]) -> None:
    """Listens to `before_update` and `before_delete`, once for each row: the one place here that must be quick."""
    session = state.session if mapper.version_id_col is not None else None
    journal: Journal | None = session.info.get(_KEY) if session is not None else None
    if journal is None:
        return
    journal.connection = connection
    version = loaded_version(state)
    if version is None:
        _refuse_if_read(state)
    elif journal.is_overtaken(state, version):
        raise InvalidArgumentError(
            f"{row_name(state)} was changed by a bulk update of this session, and its xmin is not known any more: "
            "call session.refresh(obj) before changing it"
        )
    else:
        journal.note(state, version)


def _refuse_if_read(state: InstanceState[Any]) -> None:
    """SQLAlchemy would read the version now and so let pass whatever others changed since the row was read."""
    keys = {state.mapper.get_property_by_column(column).key for column in state.mapper.primary_key}
    for attribute in state.mapper.column_attrs:
        was_read = state.committed_state.get(attribute.key, state.dict.get(attribute.key, NO_VALUE))
        if attribute.key not in keys and was_read is not NO_VALUE:
            version = version_key(state.mapper)
            raise InvalidArgumentError(
                f"{row_name(state)} was read without its {version}, so changes of others would be overwritten unseen: "
                f"add {entity_name(state.mapper)}.{version} to load_only() or take it out of defer()"
            )


def note_flush(session: Session, _context: object, _objects: object) -> None:
    """Listens to `before_flush`: after a second conflict the unit shall not lose to yet another row."""
    journal = journal_of(session)
    if journal is None or not journal.is_thorough:
        return
    for obj in (*session.dirty, *session.deleted):
        state: InstanceState[Any] = inspect(obj)
        if state.mapper.version_id_col is not None and (version := loaded_version(state)) is not None:
            journal.note(state, version)


def note_synchronized(target: object, context: object, _attributes: object) -> None:
    """Listens to `refresh`: without a query's context it is a bulk update that brings this row into step."""
    if context is not None:
        return
    state: InstanceState[Any] = inspect(target)
    journal = journal_of(state.session) if state.session is not None else None
    if journal is not None and journal.matched is not None:
        journal.matched.add(state)


def note_insert(mapper: Mapper[Any], _connection: Connection, state: InstanceState[Any]) -> None:
    if mapper.version_id_col is None or state.session is None:
        return
    journal = journal_of(state.session)
    if journal is not None:
        journal.note_insert(state)


def versioned_states(session: Session) -> Iterable[InstanceState[Any]]:
    for obj in session.identity_map.values():
        state: InstanceState[Any] = inspect(obj)
        if state.mapper.version_id_col is not None:
            yield state
