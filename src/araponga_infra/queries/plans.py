"""What a database says it would do for a statement, and which index would spare it work: values and decisions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["IndexAdvice", "Plan", "TableScan", "index_columns", "is_covered", "postgresql_scans", "sqlite_scans"]

_RARE = 0.2
"""Above this part of a table's rows, reading all of it is cheaper than an index."""


@dataclass(frozen=True)
class TableScan:
    """A table that is read from its first row to its last."""

    table: str
    schema: str | None
    rows: int
    """How many it has: the database's own estimate, else counted as far as the inspector's `large_table_rows`."""

    columns: tuple[str, ...] = ()
    """Those the statement compares with a value, equalities first: what an index could be on."""


@dataclass(frozen=True)
class IndexAdvice:
    """An index that is missing."""

    table: str
    schema: str | None
    columns: tuple[str, ...]
    reason: str
    sql: str
    """The CREATE INDEX. On a PostgreSQL table in use, run it as CREATE INDEX CONCURRENTLY."""


@dataclass(frozen=True)
class Plan:
    """What the database would do for a statement."""

    scans: tuple[TableScan, ...]
    """Large tables that are read from end to end."""

    advice: tuple[IndexAdvice, ...]
    text: str = field(repr=False)
    """The plan as the database prints it; it may show values of the statement."""


@dataclass(frozen=True)
class Scan:
    """A scan as a plan shows it, before anything is known of the table."""

    name: str
    """The table, or what the statement calls it."""

    schema: str | None
    columns: tuple[str, ...]
    rows_kept: int | None = None
    """The database's estimate of the rows that pass its filter."""


def postgresql_scans(plan: Mapping[str, Any]) -> Iterator[Scan]:
    """The filtered sequential scans in a plan of EXPLAIN (FORMAT JSON, VERBOSE)."""
    if plan["Node Type"] == "Seq Scan" and "Filter" in plan:
        columns = _filter_columns(plan["Filter"], plan["Alias"])
        yield Scan(plan["Relation Name"], plan.get("Schema"), columns, int(plan["Plan Rows"]))
    for child in plan.get("Plans", ()):
        yield from postgresql_scans(child)


def _filter_columns(condition: str, alias: str) -> tuple[str, ...]:
    """Columns that the filter compares with a value. Under an OR, no index on all of them would help."""
    if " OR " in condition:
        return ()
    column = rf'(?:"{re.escape(alias)}"|{re.escape(alias)})\.("[^"]+"|\w+)'
    comparison = rf"\((?:\({column}\)::[\w ]+|{column}) (=|<=?|>=?) (?!\(?\w+\.)"
    found = re.findall(comparison, condition)
    return _equalities_first((plain or cast, operator) for cast, plain, operator in found)


def _equalities_first(comparisons: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """An index serves its equalities and then one range."""
    seen = [(column.strip('"`'), operator) for column, operator in comparisons]
    equal = [column for column, operator in seen if operator in {"=", "IN"}]
    ranges = [column for column, operator in seen if operator not in {"=", "IN"} and column not in equal]
    return tuple(dict.fromkeys([*equal, *ranges[:1]]))


_SQLITE_SCAN = re.compile(r"^SCAN (?:TABLE (\w+) AS )?(?:TABLE )?(\w+)$")
_SQLITE_AUTOMATIC = re.compile(r"^SEARCH (?:TABLE \w+ AS |TABLE )?(\w+) USING AUTOMATIC .*INDEX \((.*)\)")


def sqlite_scans(details: Sequence[str], shape: str) -> Iterator[Scan]:
    """The scans in the lines of EXPLAIN QUERY PLAN, and the indexes that SQLite builds anew for each run."""
    for detail in details:
        if scan := _SQLITE_SCAN.match(detail):
            name = scan[2]
            yield Scan(scan[1] or _table_named(name, shape), None, _compared_columns(name, shape))
        elif automatic := _SQLITE_AUTOMATIC.match(detail):
            columns = re.findall(r"(\w+)[=<>]", automatic[2])
            yield Scan(_table_named(automatic[1], shape), None, tuple(columns))


def _table_named(name: str, shape: str) -> str:
    """The table behind an alias, from `FROM table AS alias`."""
    match = re.search(rf'(?:FROM|JOIN|,) "?(\w+)"?(?: AS)? "?{re.escape(name)}"?(?=\W|$)', shape, re.IGNORECASE)
    return match[1] if match else name


def _compared_columns(name: str, shape: str) -> tuple[str, ...]:
    _, _, conditions = re.sub(r"\b(ON|WHERE)\b", "WHERE", shape, flags=re.IGNORECASE).partition("WHERE")
    if re.search(r"\bOR\b", conditions, re.IGNORECASE):
        return ()
    column = rf'(?<![\w.])(?:"?{re.escape(name)}"?\.)?("[^"]+"|\w+)'
    forward = re.findall(rf"{column} ?(=|<=?|>=?|IN\b) ?\(?\?", conditions, re.IGNORECASE)
    backward = re.findall(rf"\? ?(=) ?{column}", conditions)
    return _equalities_first([(found, operator.upper()) for found, operator in forward] + [(c, o) for o, c in backward])


def index_columns(scan: Scan, *, rows: int, known: Iterable[str], indexes: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Which columns an index would have to be on to spare this scan; none if an index would not help.

    It would not where the statement wants a large part of the table, or where an index begins with one of the columns
    already: then the database has seen it and chosen otherwise.

    Args:
        scan: what the plan shows.
        rows: how many rows the table has.
        known: the table's columns.
        indexes: the columns of each index it has.
    """
    if scan.rows_kept is not None and scan.rows_kept > rows * _RARE:
        return ()
    names = set(known)
    columns = tuple(column for column in scan.columns if column in names)
    is_served = any(index and index[0] in columns for index in indexes)
    return () if is_served else columns


def is_covered(columns: Sequence[str], indexes: Iterable[Sequence[str]]) -> bool:
    """Whether some index begins with these columns, in whatever order."""
    return any(set(index[: len(columns)]) == set(columns) for index in indexes)
