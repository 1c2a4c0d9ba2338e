"""PostgreSQL's own row version: the system column `xmin`, which every write changes, also raw SQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, Connection, Dialect, FetchedValue, Table, event
from sqlalchemy.orm import Mapped, Mapper
from sqlalchemy.types import UserDefinedType

from araponga_infra.concurrency.versions import ROW_VERSION, guard_assignment, owns_version, refuse, use_version
from araponga_infra.errors import InvalidArgumentError

__all__ = ["Xid", "XminRowVersion"]


class Xid(UserDefinedType[int]):
    """PostgreSQL's `xid` as an integer; it is unsigned, so that no integer type of SQL holds it on every driver."""

    cache_ok: bool | None = True

    def get_col_spec(self, **_kw: Any) -> str:
        return "XID"

    def bind_processor(self, dialect: Dialect) -> Callable[[int | None], Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        _refuse_other_databases(dialect)
        return _integer if dialect.driver == "asyncpg" else _text

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], int | None]:  # pyright: ignore[reportIncompatibleMethodOverride] # noqa: ARG002
        _refuse_other_databases(dialect)
        return _integer


def _integer(value: Any) -> int | None:
    return None if value is None else int(value)


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)


class XminRowVersion:
    """Mixin: the row version is PostgreSQL's `xmin`, so the table needs no column and raw SQL is noticed as well.

    The attribute is `row_version`, as with `RowVersion`, but it does not count: it is the id of the transaction that
    wrote the row. It does not survive a dump and restore, so ETags made before one no longer match.

    Raises:
        InvalidArgumentError: at mapping, joined inheritance (an UPDATE of the other table leaves `xmin` as it is); when
            the table is created or queried on another database.

    Examples:
        >>> from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
        >>> class Base(DeclarativeBase): ...
        >>> class Place(XminRowVersion, Base):
        ...     __tablename__ = "place"
        ...     id: Mapped[int] = mapped_column(primary_key=True)
        >>> Place.__mapper__.version_id_col.name
        'xmin'
    """

    if TYPE_CHECKING:
        row_version: Mapped[int]


def _use_xmin(mapper: Mapper[Any], _mapped: type[Any]) -> None:
    if not owns_version(mapper):
        if mapper.local_table is not mapper.inherits.local_table:  # type: ignore[union-attr]
            raise refuse(mapper, "xmin does not work with joined inheritance: use RowVersion, an integer column")
        return
    table = mapper.local_table
    if not isinstance(table, Table):
        raise refuse(mapper, "xmin is a column of a table, and this class is mapped to something else")
    column: Column[int] = Column(
        "xmin", Xid(), system=True, server_default=FetchedValue(), server_onupdate=FetchedValue()
    )
    table.append_column(column)
    mapper.add_property(ROW_VERSION, column)
    use_version(mapper, column, generator=False)
    guard_assignment(mapper, ROW_VERSION)
    event.listen(table, "before_create", _refuse_to_create)


event.listen(XminRowVersion, "after_mapper_constructed", _use_xmin, propagate=True)


def _refuse_to_create(_table: object, connection: Connection, **_options: object) -> None:
    _refuse_other_databases(connection.dialect)


def _refuse_other_databases(dialect: Dialect) -> None:
    if dialect.name != "postgresql":
        raise InvalidArgumentError(
            f"XminRowVersion is for PostgreSQL and this engine speaks {dialect.name}: use RowVersion, an integer column"
        )
