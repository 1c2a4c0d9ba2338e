"""UPDATE, DELETE and INSERT statements on versioned rows: what keeps a session's own rows in step, what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from sqlalchemy import inspect
from sqlalchemy.engine import Result
from sqlalchemy.orm import FromStatement, InstanceState, Mapper, ORMExecuteState, Session
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.sql import visitors
from sqlalchemy.sql.dml import Insert, UpdateBase

from araponga_infra.concurrency.journal import Journal, journal_of, versioned_states
from araponga_infra.concurrency.versions import (
    entity_name,
    loaded_version,
    mapper_of_table,
    row_name,
    version_column,
    version_key,
)
from araponga_infra.errors import InvalidArgumentError

__all__ = [
    "expect_objects",
    "expect_versions",
    "keep_in_step",
    "refuse_bulk_mappings",
    "refuse_unsafe",
    "run_bulk_update",
]

_UPSERTS = frozenset({"on_conflict_do_update", "on_duplicate_key_update"})


def run_bulk_update(execution: ORMExecuteState) -> Result[Any] | None:
    """Run an ORM bulk update so that the rows the session holds stay at the version they were read at, plus one.

    SQLAlchemy would expire their version and read it back at the next flush, together with what others had committed in
    between: their changes would then be overwritten unseen. (Before 2.0.36 or so it leaves the version as it was, and
    the unit would conflict with itself.)
    """
    mapper = execution.bind_mapper
    journal = journal_of(execution.session)
    if journal is None or mapper is None or not execution.is_update or mapper.version_id_col is None:
        return None
    if isinstance(execution.parameters, list):
        expect_versions(journal, execution.session, mapper, execution.parameters)
    held = {
        state: version
        for state in versioned_states(execution.session)
        if state.mapper.version_id_col is mapper.version_id_col and (version := loaded_version(state)) is not None
    }
    journal.matched = set()
    try:
        result = execution.invoke_statement()
        keep_in_step(journal, {state: held[state] for state in journal.matched.intersection(held)})
    finally:
        journal.matched = None
    return result


def expect_versions(journal: Journal, session: Session, mapper: Mapper[Any], mappings: Any) -> None:
    """Take down what an update by a list of keys expects, so that a conflict can be told."""
    keys = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    version = version_key(mapper)
    for mapping in mappings:
        if mapping.get(version) is not None and all(key in mapping for key in keys):
            journal.expect(mapper, tuple(mapping[key] for key in keys), mapping[version])
    journal.connection = session.connection(bind_arguments={"mapper": mapper})


def expect_objects(journal: Journal, session: Session, objects: Iterable[object]) -> dict[InstanceState[Any], int]:
    """The same for objects that are written without a flush: the version that each of them expects.

    Raises:
        InvalidArgumentError: one of them cannot be checked.
    """
    expected: dict[InstanceState[Any], int] = {}
    for obj in objects:
        state: InstanceState[Any] = inspect(obj)
        if state.identity is not None and state.mapper.version_id_col is not None:
            expected[state] = version = _version_to_save(journal, state)
            journal.expect(state.mapper, state.identity, version)
            journal.connection = session.connection(bind_arguments={"mapper": state.mapper})
    return expected


def _version_to_save(journal: Journal, state: InstanceState[Any]) -> int:
    version = loaded_version(state)
    if version is None:
        raise InvalidArgumentError(
            f"{row_name(state)} is saved in bulk without its {version_key(state.mapper)}: refresh it before it is "
            "changed, or change a row that was read as a whole"
        )
    journal.check(state, version)
    return version


def keep_in_step(journal: Journal, written: Mapping[InstanceState[Any], int]) -> None:
    """Rows that were at these versions are one further now: their next change expects what this session wrote."""
    for state, version in written.items():
        counts = state.mapper.version_id_generator is not False
        set_committed_value(state.obj(), version_key(state.mapper), version + 1 if counts else version)
        if counts:
            journal.note(state, version)
        else:
            journal.note_overtaken(state, version)


def refuse_unsafe(execution: ORMExecuteState) -> None:
    """Refuse statements that would change versioned rows without their versions taking part.

    Raises:
        InvalidArgumentError: naming what to do instead.
    """
    if not (execution.is_update or execution.is_delete or execution.is_insert):
        return
    statement = _written_statement(execution)
    mapper = execution.bind_mapper
    if mapper is None:
        _refuse_on_table(execution, statement)
        return
    if mapper.version_id_col is None:
        return
    if execution.is_insert:
        _refuse_upsert(mapper, cast(Insert, statement))
        return
    _refuse_replace(mapper, statement)
    if execution.execution_options.get("synchronize_session") is False:
        raise InvalidArgumentError(
            f"synchronize_session=False on {entity_name(mapper)} would leave rows of this session at an old version: "
            'leave it out, or pass synchronize_session="fetch"'
        )
    if execution.is_update:
        _refuse_update(execution, mapper, statement)


def _written_statement(execution: ORMExecuteState) -> UpdateBase:
    """What is run, also where it comes wrapped: `select(Post).from_statement(insert(Post).returning(Post))`."""
    statement = execution.statement
    return cast(UpdateBase, statement.element if isinstance(statement, FromStatement) else statement)


def _refuse_on_table(execution: ORMExecuteState, statement: UpdateBase) -> None:
    """Core statements count the version up as those of the ORM do, except where they cannot reach it."""
    mapper = mapper_of_table(statement.table)
    if mapper is None:
        return
    if execution.is_insert:
        _refuse_upsert(mapper, cast(Insert, statement))
    elif execution.is_update:
        _refuse_replace(mapper, statement)
        _refuse_joined_table(mapper)


def _refuse_joined_table(mapper: Mapper[Any]) -> None:
    column, table = version_column(mapper), mapper.local_table
    if table is not column.table:
        raise InvalidArgumentError(
            f"update({entity_name(mapper)}) changes {table.description} and leaves the version in "
            f"{column.table.description} as it is: read the objects and change them one by one"
        )


def _refuse_update(execution: ORMExecuteState, mapper: Mapper[Any], statement: UpdateBase) -> None:
    name, key = entity_name(mapper), version_key(mapper)
    if isinstance(execution.parameters, list):
        refuse_bulk_mappings(mapper, execution.parameters)
        return
    _refuse_joined_table(mapper)
    column = version_column(mapper)
    bind = execution.session.get_bind(mapper)
    if column.key in statement.compile(dialect=bind.dialect).params:
        raise InvalidArgumentError(f"update({name}) sets {key}: leave it out, every update counts it up")


def refuse_bulk_mappings(mapper: Mapper[Any], mappings: Any) -> None:
    """Refuse updates by key that do not say which version they were made from.

    Raises:
        InvalidArgumentError: a mapping without the version attribute.
    """
    key = version_key(mapper)
    if any(mapping.get(key) is None for mapping in mappings):
        raise InvalidArgumentError(
            f"an update of {entity_name(mapper)} by a list of keys needs {key} in each item, as it was read: "
            "add it, or use update().where(...), or change the objects"
        )


def _refuse_upsert(mapper: Mapper[Any], statement: Insert) -> None:
    column = version_column(mapper)
    if _replaces(statement):
        raise InvalidArgumentError(
            f"INSERT OR REPLACE deletes the row of {entity_name(mapper)} that is there and begins again at version 1: "
            f'use on_conflict_do_update with "{column.key}": {entity_name(mapper)}.{version_key(mapper)} + 1, '
            "or read the row and change it"
        )
    for element in visitors.iterate(statement):
        if element.__visit_name__ in _UPSERTS and column.key not in _written_by(element):
            name, key = entity_name(mapper), version_key(mapper)
            raise InvalidArgumentError(
                f"this upsert changes existing rows of {name} without counting {key} up: "
                f'add "{column.key}": {name}.{key} + 1 to what it sets, or read the row and change it'
            )


def _refuse_replace(mapper: Mapper[Any], statement: UpdateBase) -> None:
    if _replaces(statement):
        raise InvalidArgumentError(
            f"UPDATE OR REPLACE deletes rows of {entity_name(mapper)} that are in the way, whatever their versions: "
            "read the row that is there and delete or change it first"
        )


def _replaces(statement: Any) -> bool:
    # private, as prefixes are told by nothing else but the compiled text, and compiling each INSERT would cost too much
    return any("REPLACE" in str(prefix).upper() for prefix, _dialect in statement._prefixes)


def _written_by(upsert: Any) -> set[str]:
    assigned: Any = getattr(upsert, "update_values_to_set", None) or getattr(upsert, "update", {})
    pairs: Iterable[tuple[Any, Any]] = assigned.items() if hasattr(assigned, "items") else assigned
    return {str(getattr(target, "key", target)) for target, _value in pairs}
