"""Row versions for tables that exist: what a migration calls."""

from __future__ import annotations

from typing import Any, Protocol

from araponga_infra.concurrency.versions import ROW_VERSION, row_version_column
from araponga_infra.errors import InvalidArgumentError

__all__ = ["Operations", "add_row_version", "drop_row_version"]


class Operations(Protocol):
    """What is used of `alembic.op`."""

    def add_column(self, table_name: str, column: Any, *, schema: str | None = None) -> None: ...

    def drop_column(self, table_name: str, column_name: str, *, schema: str | None = None) -> None: ...


def add_row_version(op: Operations, table: str, *, column: str = ROW_VERSION, schema: str | None = None) -> None:
    """Give an existing table the column of `RowVersion`; its rows begin at version 1.

    On PostgreSQL 11+, MySQL 8+ and SQLite this changes the catalogue alone and rewrites no row. It needs the table's
    exclusive lock for that moment: set a `lock_timeout` in the migration, so that it does not queue behind a long
    transaction with everybody else queueing behind it.

    Args:
        op: `alembic.op`.
        table: the table's name.
        column: the column's name, if it is not `row_version`.
        schema: the table's schema.

    Raises:
        InvalidArgumentError: `op` is not `alembic.op`, or a name is empty.
        Exception: whatever Alembic and the database raise, untouched: no such table, a column that is there already, a
            lock that was not had in time. The migration's transaction decides what is left.

    Examples:
        >>> def upgrade() -> None:
        ...     add_row_version(op, "post")
        >>> def downgrade() -> None:
        ...     drop_row_version(op, "post")
    """
    _check(op, table, column)
    op.add_column(table, row_version_column(column), schema=schema)


def drop_row_version(op: Operations, table: str, *, column: str = ROW_VERSION, schema: str | None = None) -> None:
    """Take the column of `add_row_version` away again; the versions that clients hold are lost with it.

    Instances whose classes are still versioned fail from then on: roll them back first.

    Args:
        op: `alembic.op`.
        table: the table's name.
        column: the column's name, if it is not `row_version`.
        schema: the table's schema.

    Raises:
        InvalidArgumentError: `op` is not `alembic.op`, or a name is empty.
        Exception: whatever Alembic and the database raise, untouched, such as no such table or column. SQLite before
            3.35 drops no columns: use `op.batch_alter_table` there.
    """
    _check(op, table, column)
    op.drop_column(table, column, schema=schema)


def _check(op: object, table: object, column: object) -> None:
    if not (hasattr(op, "add_column") and hasattr(op, "drop_column")):
        raise InvalidArgumentError(f"op is a {type(op).__name__}: pass `op` as in `from alembic import op`")
    for argument, name in (("table", table), ("column", column)):
        if not isinstance(name, str) or not name:
            raise InvalidArgumentError(f"{argument}={name!r}: pass its name")
