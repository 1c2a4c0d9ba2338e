"""Why SQLAlchemy sent a statement: read off what it executes, decided by a pure function."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from araponga_infra.queries.values import Origin

__all__ = ["Facts", "classify", "facts_of"]

_LONG_LIST = 20
_KEYS_OF_MANY = "primary_keys"
"""The parameter that SQLAlchemy's select-in loads, of relationships and of subclasses, have in common."""

_TRANSACTION = re.compile(
    r"(BEGIN|START|COMMIT|END|ROLLBACK|SAVEPOINT|RELEASE|SET (SESSION |LOCAL )?TRANSACTION)\b", re.IGNORECASE
)
_READ = re.compile(r"\(*\s*(SELECT|WITH|VALUES|TABLE)\b", re.IGNORECASE)
_WRITE = re.compile(r"(INSERT|UPDATE|DELETE|MERGE|REPLACE|COPY)\b", re.IGNORECASE)
_CATALOG = re.compile(r"\b(pg_catalog|information_schema|sqlite_master|sqlite_schema)\b", re.IGNORECASE)
_LIST = re.compile(r"\bIN \((\?|\(\?[^()]*\)), \.\.\.\)|= ANY ?\(", re.IGNORECASE)
_ONE_VALUE = re.compile(r"(?<![<>!])= ?\?|\? ?=")
_OFFSET = re.compile(r"\bOFFSET\b", re.IGNORECASE)
_KEYSET = re.compile(r"[<>]=? ?\(?\?.*\b(LIMIT|FETCH FIRST)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Facts:
    """What can be known of an execution without its values."""

    shape: str
    parameters: int
    """How many values one set of parameters holds, those in lists counted."""

    is_write: bool = False
    is_lazy_load: bool = False
    is_refresh: bool = False
    is_eager_load: bool = False
    joins_related_rows: bool = False
    has_offset: bool | None = None
    """None: only the text can tell."""

    loads: str | None = None


def classify(facts: Facts) -> Origin:
    """The origin of a statement.

    Loads that SQLAlchemy starts are told by what it says of them. Of the rest, a read is a batch when it asks for many
    rows by design; calling that an N+1 would be a false alarm in every loop over chunks or pages.
    """
    if facts.is_write:
        return Origin.WRITE
    if facts.is_lazy_load:
        return Origin.LAZY
    if facts.is_refresh:
        return Origin.REFRESH
    if facts.is_eager_load:
        return Origin.SELECT_IN if " IN (" in facts.shape else Origin.SUBQUERY
    if _READ.match(facts.shape):
        return _read(facts)
    if _WRITE.match(facts.shape):
        return Origin.WRITE
    return Origin.TRANSACTION if _TRANSACTION.match(facts.shape) else Origin.OTHER


def _read(facts: Facts) -> Origin:
    if _CATALOG.search(facts.shape):
        return Origin.CATALOG
    if facts.joins_related_rows:
        return Origin.JOINED
    return Origin.BATCH if _is_batch(facts) else Origin.QUERY


def _is_batch(facts: Facts) -> bool:
    """SQLite's compiler writes an OFFSET next to every LIMIT, so the text alone is not asked where more is known."""
    has_offset = _OFFSET.search(facts.shape) is not None if facts.has_offset is None else facts.has_offset
    if has_offset or _KEYSET.search(facts.shape):
        return True
    is_for_list = _LIST.search(facts.shape) is not None
    return is_for_list and (facts.parameters >= _LONG_LIST or _ONE_VALUE.search(facts.shape) is None)


def facts_of(context: Any, shape: str, parameters: int) -> Facts:
    """Read the facts off SQLAlchemy's execution context.

    What the ORM is about is public only inside a `do_orm_execute` listener, which would cost every session of the
    process; it is read here from where that listener's argument reads it. Where a name is missing the statement
    counts as one that the code asked for.
    """
    compiled = getattr(context, "compiled", None)
    if context is None or compiled is None:
        return Facts(shape, parameters)
    statement = getattr(context, "invoked_statement", None)
    options = context.execution_options
    load = options.get("_sa_orm_load_options")
    compile_options = getattr(statement, "_compile_options", None)
    path = getattr(compile_options, "_current_path", None)
    is_lazy_load = getattr(load, "_lazy_loaded_from", None) is not None
    loads_many = "sa_top_level_orm_context" in options or _KEYS_OF_MANY in getattr(compiled, "binds", ())
    refreshed = getattr(load, "_refresh_state", None)
    return Facts(
        shape=shape,
        parameters=parameters,
        is_write=context.isinsert or context.isupdate or context.isdelete,
        is_lazy_load=is_lazy_load,
        is_refresh=refreshed is not None,
        is_eager_load=loads_many or (path is not None and not path.is_root),
        joins_related_rows=bool(getattr(getattr(compiled, "compile_state", None), "eager_joins", None)),
        has_offset=_has_offset(statement),
        loads=_relationship(path) if is_lazy_load else _attribute(refreshed, compile_options),
    )


def _has_offset(statement: Any) -> bool | None:
    missing = object()
    offset = getattr(statement, "_offset_clause", missing)
    return None if offset is missing else offset is not None


def _relationship(path: Any) -> str | None:
    prop = getattr(path, "prop", None)
    return None if prop is None else str(prop)


def _attribute(state: Any, compile_options: Any) -> str | None:
    if state is None:
        return None
    entity: str = state.class_.__name__
    only = getattr(compile_options, "_only_load_props", None)
    return f"{entity}.{next(iter(only))}" if only and len(only) == 1 else entity
