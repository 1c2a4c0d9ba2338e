"""Rows by their keys: read their versions now, lock them first where the next attempt must not lose again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, bindparam, select, tuple_
from sqlalchemy.orm import Mapper, Session

from araponga_infra.concurrency.errors import RowConflict
from araponga_infra.concurrency.journal import ExpectedRow
from araponga_infra.concurrency.versions import entity_name, version_column

__all__ = ["begin_immediate", "changed_rows", "key_columns"]

_KEYS_PER_STATEMENT = 500


def changed_rows(
    source: Session | Connection, rows: Iterable[ExpectedRow], *, lock: bool = False
) -> tuple[RowConflict, ...]:
    """Which of `rows` are not at the version they were read at.

    With `lock` the rows are held until the end of the transaction. They are locked in the order of table and key, so
    that two sessions which lock overlapping sets wait for each other instead of deadlocking.
    """
    conflicts: list[RowConflict] = []
    for _table, in_table in groupby(sorted(rows, key=_table_name), key=_table_name):
        expected = list(in_table)
        if len(expected) > _KEYS_PER_STATEMENT:
            expected.sort(key=lambda row: row.identity)
        for first in range(0, len(expected), _KEYS_PER_STATEMENT):
            conflicts.extend(_changed(source, expected[first : first + _KEYS_PER_STATEMENT], lock=lock))
    return tuple(conflicts)


def _table_name(row: ExpectedRow) -> str:
    return version_column(row.mapper).table.fullname


def _changed(source: Session | Connection, rows: Sequence[ExpectedRow], *, lock: bool) -> Iterator[RowConflict]:
    mapper = rows[0].mapper
    connection = source if isinstance(source, Connection) else source.connection(bind_arguments={"mapper": mapper})
    found = connection.execute(*_lookup(mapper, rows, lock)).all()
    actual = {tuple(values): version for version, *values in found}
    for row in rows:
        version = actual.get(row.identity)
        if version != row.version:
            yield RowConflict(entity_name(row.mapper), row.identity, row.version, version)


def _lookup(mapper: Mapper[Any], rows: Sequence[ExpectedRow], lock: bool) -> tuple[Select[Any], dict[str, Any]]:
    if len(rows) == 1:
        return _version_of_one(mapper, lock), {f"key{at}": value for at, value in enumerate(rows[0].identity)}
    is_composite = len(mapper.primary_key) > 1
    return _versions_by_key(mapper, lock), {"keys": [row.identity if is_composite else row.identity[0] for row in rows]}


@lru_cache(maxsize=256)
def _version_of_one(mapper: Mapper[Any], lock: bool) -> Select[Any]:
    """Of the one row that most conflicts are about; without a list to expand it costs half as much."""
    keys = key_columns(mapper)
    statement = select(version_column(mapper), *keys)
    statement = statement.where(*(key == bindparam(f"key{at}") for at, key in enumerate(keys)))
    return statement.with_for_update(key_share=True) if lock else statement


@lru_cache(maxsize=256)
def _versions_by_key(mapper: Mapper[Any], lock: bool) -> Select[Any]:
    keys = key_columns(mapper)
    wanted = tuple_(*keys) if len(keys) > 1 else keys[0]
    statement = select(version_column(mapper), *keys).where(wanted.in_(bindparam("keys", expanding=True)))
    statement = statement.order_by(*keys)
    return statement.with_for_update(key_share=True) if lock else statement


def key_columns(mapper: Mapper[Any]) -> list[ColumnElement[Any]]:
    """The primary key as the table of the version column has it, in the order of identities."""
    table = version_column(mapper).table
    return [_column_in(table, mapper, column) for column in mapper.primary_key]


def _column_in(table: Table, mapper: Mapper[Any], key: ColumnElement[Any]) -> ColumnElement[Any]:
    columns: list[Any] = mapper.get_property_by_column(key).columns
    return next((column for column in columns if getattr(column, "table", None) is table), key)


def begin_immediate(session: Session) -> None:
    """Take SQLite's write lock now, before anything is read.

    Python's sqlite3 begins no transaction before a SELECT unless the host made it so (events that emit BEGIN, the
    `autocommit` attribute). Nothing has been done in this one yet, so it can be begun again as IMMEDIATE.
    """
    connection = session.connection()
    if connection.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
        connection.exec_driver_sql("ROLLBACK")
    connection.exec_driver_sql("BEGIN IMMEDIATE")
