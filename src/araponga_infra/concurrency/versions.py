"""Row versions: which column counts the changes of a row, and what makes the mapper check it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload
from weakref import WeakValueDictionary

from sqlalchemy import Column, ColumnDefault, Integer, SmallInteger, Table, event, inspect
from sqlalchemy.orm import InstanceState, Mapped, Mapper

from araponga_infra.errors import InvalidArgumentError

__all__ = [
    "ROW_VERSION",
    "RowVersion",
    "entity_name",
    "guard_assignment",
    "loaded_version",
    "mapper_of_table",
    "owns_version",
    "refuse",
    "row_name",
    "row_version_column",
    "use_version",
    "version_column",
    "version_key",
    "versioned",
]

C = TypeVar("C", bound=type[Any])

ROW_VERSION = "row_version"

_mappers: WeakValueDictionary[object, Mapper[Any]] = WeakValueDictionary()
"""By table; the root of a hierarchy where several classes share one."""


class RowVersion:
    """Mixin: an integer column `row_version`, 1 at INSERT, one more with each UPDATE, checked by each flush.

    Bulk updates count it up as well, those of the ORM and of Core; only SQL written as text does not. The class's own
    `__mapper_args__`, joined and single-table inheritance and dataclass mappings work as without it; it belongs on the
    root of an inheritance hierarchy. It is not an argument of a dataclass's `__init__`.

    Raises:
        InvalidArgumentError: at mapping, when the version could not be kept (another `version_id_col`, a nullable or
            non-integer column, a subclass as the only versioned one).

    Examples:
        >>> from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
        >>> class Base(DeclarativeBase): ...
        >>> class Post(RowVersion, Base):
        ...     __tablename__ = "post"
        ...     id: Mapped[int] = mapped_column(primary_key=True)
        >>> Post.__mapper__.version_id_col.name
        'row_version'
    """

    if TYPE_CHECKING:  # at run time the column joins the table after mapping, as a dataclass mapping demands of mixins
        row_version: Mapped[int]


@overload
def versioned(cls: C, /) -> C: ...
@overload
def versioned(*, column: str = ROW_VERSION) -> Callable[[C], C]: ...
def versioned(cls: C | None = None, /, *, column: str = ROW_VERSION) -> C | Callable[[C], C]:
    """Class decorator: what `RowVersion` does, for a column that is there already and for imperative mappings.

    Use it above a declarative class, above or below `@registry.mapped`, or on a class that is mapped imperatively
    later. A declarative class without a `row_version` gets one; a column by another name must be there.

    Args:
        column: the mapped attribute that holds the version: an integer that is not nullable.

    Raises:
        InvalidArgumentError: no class, or no name of a column; at mapping, as `RowVersion`, or when the column that is
            named, or any in an imperative mapping, is not there.

    Examples:
        >>> from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
        >>> class Base(DeclarativeBase): ...
        >>> @versioned(column="version")
        ... class Post(Base):
        ...     __tablename__ = "post"
        ...     id: Mapped[int] = mapped_column(primary_key=True)
        ...     version: Mapped[int]
        >>> Post.__mapper__.version_id_col.name
        'version'
    """
    check_column_name(column)
    if cls is None:
        return lambda decorated: _decorate(decorated, column)
    return _decorate(cls, column)


def row_version_column(name: str = ROW_VERSION) -> Column[int]:
    """The column as a table has it; the default lets it join a table whose rows are there already."""
    return Column(name, Integer, nullable=False, server_default="1")


def version_column(mapper: Mapper[Any]) -> Column[Any]:
    """The column whose value each flush of this versioned mapper checks."""
    return cast("Column[Any]", mapper.version_id_col)


@lru_cache(maxsize=1024)
def version_key(mapper: Mapper[Any]) -> str:
    """The name of the attribute that holds the version of a versioned mapper."""
    return mapper.get_property_by_column(version_column(mapper)).key


def loaded_version(state: InstanceState[Any]) -> int | None:
    """The version that came with the row; None when it is expired or was left out of the query."""
    version: int | None = state.dict.get(version_key(state.mapper))
    return version


def mapper_of_table(table: object) -> Mapper[Any] | None:
    """The versioned class that a table belongs to, also the one of a joined subclass."""
    return _mappers.get(table)


def entity_name(mapper: Mapper[Any]) -> str:
    return mapper.class_.__name__


def row_name(state: InstanceState[Any]) -> str:
    """The row as a person names it, as `Post 7`."""
    if state.identity is None:
        return f"a new {entity_name(state.mapper)}"
    key = state.identity[0] if len(state.identity) == 1 else state.identity
    return f"{entity_name(state.mapper)} {key!r}"


def refuse(mapper: Mapper[Any], why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{entity_name(mapper)} cannot be versioned: {why}")


def owns_version(mapper: Mapper[Any]) -> bool:
    """Whether this mapper brings the version column of its hierarchy, rather than inheriting it.

    Raises:
        InvalidArgumentError: a subclass would be versioned and the class it extends not.
    """
    parent = mapper.inherits
    if parent is None or mapper.concrete:
        return True
    if parent.version_id_col is None:
        raise refuse(mapper, f"it extends {entity_name(parent)}, which is not: version {entity_name(parent)} instead")
    if mapper.version_id_col is not parent.version_id_col:
        raise refuse(mapper, "its __mapper_args__ name a version_id_col besides the inherited one: take that out")
    return False


def use_version(mapper: Mapper[Any], column: Column[Any], generator: Callable[[Any], Any] | bool) -> None:
    """Make `column` the one that flushes check, for the mapper and what already extends it."""
    declared = mapper.version_id_col
    if declared is not None and declared is not column and not mapper.concrete:
        raise refuse(
            mapper, f"its __mapper_args__ name {declared} as version_id_col: take that out or pass it to @versioned"
        )
    for heir in mapper.self_and_descendants:
        if heir is mapper or not heir.concrete:
            heir.version_id_col = column
            heir.version_id_generator = generator  # type: ignore[assignment]  # False is meant, True never comes


def guard_assignment(mapper: Mapper[Any], key: str) -> None:
    """Refuse `obj.row_version = ...` on a row that exists: it would overwrite others' changes unseen."""

    def refuse_other(state: InstanceState[Any], value: object, _old: object, _initiator: object) -> None:
        is_same = isinstance(value, int) and state.dict.get(key) == value
        if state.key is not None and not is_same:
            raise InvalidArgumentError(
                f"{key} of {row_name(state)} cannot be set to {value!r}: the database counts it. "
                f"To insist on the version that a client saw, call expect_version(obj, {value!r})"
            )

    event.listen(getattr(mapper.class_, key), "set", refuse_other, raw=True, propagate=True)


def check_column_name(column: str) -> None:
    """Refuse what cannot name a mapped attribute."""
    if not isinstance(column, str) or not column.isidentifier():
        raise InvalidArgumentError(f"column={column!r}: pass the name of an attribute, as in column='version'")


def _decorate(cls: C, column: str) -> C:
    given: object = cls
    if not isinstance(given, type) or given.__module__ == "builtins":
        raise InvalidArgumentError(f"@versioned got {given!r}: put it above a class that is mapped")
    mapper: Mapper[Any] | None = inspect(cls, raiseerr=False)
    if mapper is not None:
        _count_changes(column, mapper, cls)
    _on_mapping_of(cls, column)
    return cls


def _on_mapping_of(cls: type[Any], column: str) -> None:
    event.listen(cls, "after_mapper_constructed", partial(_count_changes, column), propagate=True)


def _count_changes(key: str, mapper: Mapper[Any], _mapped: type[Any]) -> None:
    table: object = mapper.local_table
    _mappers.setdefault(table, mapper)
    if not owns_version(mapper) or (mapper.version_id_generator is _next_version and not mapper.concrete):
        _spare_returning(mapper)
        return
    if mapper.version_id_generator is False or _default_generator(mapper)(1) != _next_version(1):
        raise refuse(mapper, "its __mapper_args__ name a version_id_generator: take that out, versions count up by one")
    column = _existing_column(mapper, key)
    if column is None:
        column = _add_column(mapper, key)
    _check_column(mapper, column)
    use_version(mapper, column, _next_version)
    _spare_returning(mapper)
    _bump_in_bulk(column)
    guard_assignment(mapper, key)


def _spare_returning(mapper: Mapper[Any]) -> None:
    """Tell the flush that no UPDATE has its version from the server.

    SQLAlchemy takes the column's default, which is for rows inserted by others, for a sign that the server counts, and
    builds each UPDATE as if it had to ask for the version. The name is a private one, for want of a setting. Were it
    unknown, only that work would be back.
    """
    for heir in mapper.self_and_descendants:
        if heir.version_id_generator is _next_version:
            vars(heir)["_version_id_has_server_side_value"] = False


def _next_version(version: int | None) -> int:
    return (version or 0) + 1


def _default_generator(mapper: Mapper[Any]) -> Callable[[Any], Any]:
    return cast("Callable[[Any], Any]", mapper.version_id_generator)


def _existing_column(mapper: Mapper[Any], key: str) -> Column[Any] | None:
    if not mapper.has_property(key):
        return None
    column = mapper.columns.get(key)
    if mapper.concrete and (column is None or column.table is not mapper.local_table):
        return None  # the attribute stands for the parent's, whose table has nothing to do with this one
    if not isinstance(column, Column):
        raise refuse(mapper, f"its attribute {key!r} is no column of a table")
    return column


def _add_column(mapper: Mapper[Any], key: str) -> Column[int]:
    table = mapper.local_table
    if not isinstance(table, Table) or not hasattr(mapper.class_, "__tablename__"):
        raise refuse(
            mapper,
            f"its table {table.description!r} has no column mapped as {key!r}: "
            f'add Column("{key}", Integer, nullable=False, server_default="1") or name the column there is',
        )
    if key != ROW_VERSION and not mapper.concrete:
        raise refuse(mapper, f"it has no attribute {key!r}: give it that column, or name the one that is there")
    column = row_version_column(key)
    table.append_column(column)
    mapper.add_property(key, column)
    return column


def _check_column(mapper: Mapper[Any], column: Column[Any]) -> None:
    if not isinstance(column.type, Integer) or isinstance(column.type, SmallInteger):
        raise refuse(mapper, f"column {column} is of type {column.type!r}: it must be an Integer or BigInteger")
    if column.nullable:
        raise refuse(mapper, f"column {column} is nullable, and a row without a version is not checked: nullable=False")
    if column.primary_key:
        raise refuse(mapper, f"column {column} is part of the primary key")
    if column.onupdate is not None or column.server_onupdate is not None:
        raise refuse(mapper, f"column {column} has an onupdate of its own: take that out, updates count it up")
    if column.default is None and column.server_default is None:
        column.default = _default_of(column, 1)


def _bump_in_bulk(column: Column[Any]) -> None:
    """`onupdate` reaches every UPDATE of ORM and Core that does not set the column, whatever else it sets."""

    def bump(attached: Column[Any], _table: object) -> None:
        attached.onupdate = _default_of(attached, attached + 1, for_update=True)

    bump(column, column.table)
    event.listen(column, "after_parent_attach", bump, propagate=True)  # Table.to_metadata copies the column


def _default_of(column: Column[Any], value: Any, *, for_update: bool = False) -> ColumnDefault:
    make_default: Any = ColumnDefault  # its constructor makes one of several subclasses, and is typed for none
    default: ColumnDefault = make_default(value, for_update=for_update)
    default.column = column
    return default


_on_mapping_of(RowVersion, ROW_VERSION)
