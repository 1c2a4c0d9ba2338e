"""The tables of the event store and the inbox, as what a migration calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from sqlalchemy import MetaData, Table
from sqlalchemy.schema import CreateIndex, CreateTable, DropTable

from araponga_infra.errors import InvalidArgumentError
from araponga_infra.events.stores.sqlalchemy.schema import checked_schema
from araponga_infra.events.stores.sqlalchemy.tables import AS_A_QUEUE, EventTables, inbox_table

__all__ = ["Executing", "create_event_tables", "drop_event_tables"]


class Executing(Protocol):
    """What is used of `alembic.op`."""

    def execute(self, sqltext: Any) -> None: ...

    def get_context(self) -> Any: ...


def create_event_tables(op: Executing, *, schema: str | None = None, inbox_only: bool = False) -> None:
    """Create the tables of `SqlAlchemyEventStore` and `Inbox` in a migration, online or as SQL (`--sql`).

    Args:
        op: `alembic.op`.
        schema: the schema they live in, which exists; the connection's default when None.
        inbox_only: create nothing but the inbox's, in a database that holds no events.

    Raises:
        InvalidArgumentError: `op` is not `alembic.op`, or the schema is no name.
        Exception: whatever Alembic and the database raise, untouched, such as a table that is there already. The
            migration's transaction decides what is left.

    Example:
        >>> def upgrade() -> None:
        ...     create_event_tables(op)
        >>> def downgrade() -> None:
        ...     drop_event_tables(op)
    """
    tables = _tables(schema, inbox_only)
    dialect = _checked(op).get_context().dialect
    for table in tables:
        op.execute(CreateTable(table))
        for index in sorted(table.indexes, key=lambda each: str(each.name)):
            op.execute(CreateIndex(index))
        if table.name == "araponga_deliveries" and dialect.name == "postgresql":
            op.execute(f"ALTER TABLE {dialect.identifier_preparer.format_table(table)} {AS_A_QUEUE}")


def drop_event_tables(op: Executing, *, schema: str | None = None, inbox_only: bool = False) -> None:
    """Drop what `create_event_tables` made, with every event that waits in it.

    Raises:
        InvalidArgumentError: `op` is not `alembic.op`, or the schema is no name.
        Exception: whatever Alembic and the database raise, untouched.
    """
    for table in reversed(_tables(schema, inbox_only)):
        _checked(op).execute(DropTable(table))


def _tables(schema: str | None, inbox_only: bool) -> Sequence[Table]:
    if inbox_only:
        return [inbox_table(MetaData(schema=checked_schema(schema)))]
    return EventTables(checked_schema(schema)).metadata.sorted_tables


def _checked(op: Executing) -> Executing:
    if not (hasattr(op, "execute") and hasattr(op, "get_context")):
        raise InvalidArgumentError(f"op is a {type(op).__name__}: pass `op` as in `from alembic import op`")
    return op
