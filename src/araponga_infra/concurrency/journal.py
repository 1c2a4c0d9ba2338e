"""Which versions a session expects, taken down before each UPDATE and DELETE: after a failed flush nothing tells."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakSet

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
    "note_refresh",
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


class _Written:
    """Rows of one class that a flush is about to write. Three plain lists: a flush of many rows must not feel it."""

    __slots__ = ("keys", "states", "versions")

    def __init__(self, states: list[InstanceState[Any]], version_key: str) -> None:
        self.states = states
        self.keys: list[Any] = [state.key for state in states]
        self.versions: list[int | None] = [state.dict.get(version_key) for state in states]


class Journal:
    """What one session has read and is about to write. Not thread-safe, as the session is not.

    Attributes:
        is_flushing: statements of a flush run, and what they read is of the session's own making.
        is_supervised: a helper runs this session and handles its conflicts, so the session itself leaves them alone.
        connection: the one that the last flush wrote through.
        matched: while a bulk update runs, the rows of the session that it changed; else None.
    """

    __slots__ = (
        "_expected",
        "_overtaken",
        "_patched",
        "_settled",
        "_written",
        "connection",
        "is_flushing",
        "is_supervised",
        "matched",
    )

    def __init__(self) -> None:
        self.is_flushing: bool = False
        self.is_supervised: bool = False
        self.connection: Connection | None = None
        self.matched: set[InstanceState[Any]] | None = None
        self._expected: dict[Any, tuple[Mapper[Any], int]] = {}
        self._patched: WeakSet[InstanceState[Any]] | None = None
        self._settled: set[InstanceState[Any]] = set()
        self._overtaken: dict[InstanceState[Any], int] = {}
        self._written: list[_Written] = []

    def note_flush(self, session: Session, context: Any) -> None:
        """Take down the versioned rows that a flush is about to write.

        Raises:
            InvalidArgumentError: one of them cannot be checked, so that changes of others would be overwritten unseen.
        """
        self._sort_in()
        for mapper, states in context.mappers.items():
            if mapper.version_id_col is not None:
                self._note_written(context, mapper, states)
                if not self.is_supervised:
                    self.connection = session.connection(bind_arguments={"mapper": mapper})

    def note_registered(self, context: Any, state: InstanceState[Any]) -> None:
        """Take down a row that a relationship drew into the flush under way."""
        if state.mapper.version_id_col is not None:
            self._note_written(context, state.mapper, (state,))

    def _note_written(self, context: Any, mapper: Mapper[Any], states: Iterable[InstanceState[Any]]) -> None:
        key = version_key(mapper)
        written = _Written(list(states), key)
        if None in written.keys:
            self._settled.update(state for state in written.states if state.key is None)
        if self._overtaken or self._patched or None in written.versions:
            for state, version in zip(written.states, written.versions, strict=True):
                _is_deleted, is_only_listed = context.states[state]
                if state.key is not None and not is_only_listed:
                    self.check(state, version)
        self._written.append(written)

    def check(self, state: InstanceState[Any], version: int | None) -> None:
        """Refuse to write a row whose version tells nothing of when the rest of it was read.

        Raises:
            InvalidArgumentError: naming the row and what to do first.
        """
        if version is None:
            _refuse_if_read(state)
        elif self._patched is not None and state in self._patched:
            key = version_key(state.mapper)
            raise InvalidArgumentError(
                f"{key} of {row_name(state)} was read after its other columns, so changes of others in between would "
                f"be overwritten unseen: add {key} to load_only(), or refresh the whole row before changing it"
            )
        elif self._overtaken.get(state) == version:
            raise InvalidArgumentError(
                f"{row_name(state)} was changed by a bulk update of this session, and its xmin is not known any more: "
                "call session.refresh(obj) before changing it"
            )

    def _sort_in(self) -> None:
        """The version that was first read counts: later ones of the same transaction are of its own making."""
        for written in self._written:
            for state, key, version in zip(written.states, written.keys, written.versions, strict=True):
                if key is not None and version is not None and state not in self._settled:
                    self._settle(state, key, version)
        self._written.clear()

    def _settle(self, state: InstanceState[Any], key: Any, version: int) -> None:
        self._settled.add(state)
        self._expected.setdefault(key, (state.mapper, version))

    def note_loaded(self, state: InstanceState[Any], attributes: Iterable[str] | None) -> None:
        """A row that the session holds was read once more: all of it, or what was not loaded or had expired."""
        if self.is_flushing:
            return
        loaded = None if attributes is None else set(attributes)
        if loaded is not None and version_key(state.mapper) not in loaded:
            return
        if loaded is not None and any(_read_besides(state, loaded)):
            self._patched = self._patched or WeakSet()
            self._patched.add(state)
        elif self._patched:
            self._patched.discard(state)

    def note(self, state: InstanceState[Any], version: int) -> None:
        """Take down a row that a bulk update wrote."""
        self._sort_in()
        if state not in self._settled:
            self._settle(state, state.key, version)

    def expect(self, mapper: Mapper[Any], identity: tuple[Any, ...], version: int) -> None:
        """Take down a row that an update by key is about to write."""
        self._sort_in()
        self._expected.setdefault(mapper.identity_key_from_primary_key(identity), (mapper, version))

    def note_overtaken(self, state: InstanceState[Any], version: int) -> None:
        """A bulk update of this session gave the row a version that the session cannot know."""
        self._overtaken[state] = version

    def suspects(self, session: Session) -> tuple[ExpectedRow, ...]:
        """The rows that a failure may be about: those written, and those that the session still holds as read."""
        self._sort_in()
        held = dict(self._expected)
        for state in versioned_states(session):
            version = loaded_version(state)
            if version is not None and state not in self._settled:
                held.setdefault(state.key, (state.mapper, version))
        return tuple(ExpectedRow(mapper, tuple(key[1]), version) for key, (mapper, version) in held.items())

    def clear(self) -> None:
        """The transaction ended; what the session still holds is read anew or was its own making."""
        self._expected.clear()
        self._settled.clear()
        self._overtaken.clear()
        self._written.clear()
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


def _refuse_if_read(state: InstanceState[Any]) -> None:
    """SQLAlchemy would read the version now and so let pass whatever others changed since the row was read."""
    if any(_read_besides(state, ())):
        version = version_key(state.mapper)
        raise InvalidArgumentError(
            f"{row_name(state)} was read without its {version}, so changes of others would be overwritten unseen: "
            f"add {entity_name(state.mapper)}.{version} to load_only() or take it out of defer()"
        )


def _read_besides(state: InstanceState[Any], attributes: Container[str]) -> Iterable[str]:
    """The columns that were read and are neither of the key nor among `attributes`."""
    keys = {state.mapper.get_property_by_column(column).key for column in state.mapper.primary_key}
    for attribute in state.mapper.column_attrs:
        was_read = state.committed_state.get(attribute.key, state.dict.get(attribute.key, NO_VALUE))
        if was_read is not NO_VALUE and attribute.key not in keys and attribute.key not in attributes:
            yield attribute.key


def note_flush(session: Session, context: Any, _objects: object) -> None:
    """Listens to `before_flush`: notes are taken between the last of these listeners and the first statement.

    Once per flush, since a mapper event per row would cost a flush of many rows a twentieth of its time. No event comes
    between the two, so `execute`, `register_object`, `mappers` and `states` are taken from inside SQLAlchemy's context;
    tests/concurrency/test_inside_sqlalchemy.py fails when one of them is not what it was.
    """
    journal = journal_of(session)
    if journal is not None:
        context.execute = partial(_execute_noted, journal, session, context, context.execute)


def _execute_noted(journal: Journal, session: Session, context: Any, execute: Callable[[], None]) -> None:
    del context.execute
    journal.note_flush(session, context)
    context.register_object = partial(_register_noted, journal, context, context.register_object)
    journal.is_flushing = True
    try:
        execute()
    finally:
        journal.is_flushing = False
        del context.register_object


def _register_noted(
    journal: Journal,
    context: Any,
    register: Callable[..., bool],
    state: InstanceState[Any],
    *args: Any,
    **kwargs: Any,
) -> bool:
    before = context.states.get(state)
    is_registered = register(state, *args, **kwargs)
    if context.states.get(state) != before:
        journal.note_registered(context, state)
    return is_registered


def note_refresh(state: InstanceState[Any], context: object, attributes: Iterable[str] | None) -> None:
    """Listens to `refresh`: without a query's context it is a bulk update that brings this row into step."""
    if state.mapper.version_id_col is None or state.session is None:
        return
    journal = journal_of(state.session)
    if journal is None:
        return
    if context is not None:
        journal.note_loaded(state, attributes)
    elif journal.matched is not None:
        journal.matched.add(state)


def versioned_states(session: Session) -> Iterable[InstanceState[Any]]:
    for obj in session.identity_map.values():
        state: InstanceState[Any] = inspect(obj)
        if state.mapper.version_id_col is not None:
            yield state
