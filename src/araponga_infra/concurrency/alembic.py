"""Row versions for tables that exist: what a migration calls."""

from __future__ import annotations

from typing import Any, Protocol

from araponga_infra.concurrency.versions import ROW_VERSION, row_version_column

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

    Example:
        >>> def upgrade() -> None:
        ...     add_row_version(op, "post")
        >>> def downgrade() -> None:
        ...     drop_row_version(op, "post")
    """
    op.add_column(table, row_version_column(column), schema=schema)


def drop_row_version(op: Operations, table: str, *, column: str = ROW_VERSION, schema: str | None = None) -> None:
    """Take the column of `add_row_version` away again."""
    op.drop_column(table, column, schema=schema)
