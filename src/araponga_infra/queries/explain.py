"""Ask a database for its plans and its indexes, over a plain connection."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Connection, Executable, Index, MetaData, Table, TextClause, inspect, text
from sqlalchemy.engine import Inspector
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateIndex
from sqlalchemy.sql import ClauseElement
from sqlalchemy.types import NullType

from araponga_infra.errors import InvalidArgumentError
from araponga_infra.queries.plans import (
    IndexAdvice,
    Plan,
    Scan,
    TableScan,
    index_columns,
    is_covered,
    postgresql_scans,
    sqlite_scans,
)
from araponga_infra.queries.shapes import numbered_placeholders, statement_shape
from araponga_infra.queries.values import Origin, Statement

__all__ = ["Explainable", "explain_on", "missing_indexes_on"]

Explainable = Executable | Statement | str

_PREPARED = "araponga_infra_plan"
_LONGEST_NAME = 60
_POSTGRESQL = "EXPLAIN (FORMAT JSON, VERBOSE) "
_POSTGRESQL_TEXT = "EXPLAIN "
_SQLITE = "EXPLAIN QUERY PLAN "


class _Explain(Executable, ClauseElement):
    """EXPLAIN in front of a statement, which keeps its parameters and their types."""

    inherit_cache = False

    def __init__(self, prefix: str, statement: Executable) -> None:
        self.prefix = prefix
        self.statement = statement


@compiles(_Explain)
def _compile_explain(element: _Explain, compiler: Any, **options: Any) -> str:
    sql = compiler.process(element.statement, **options)
    compiler.isinsert = compiler.isupdate = compiler.isdelete = False
    return f"{element.prefix}{sql}"


def explain_on(
    connection: Connection, statement: Explainable, parameters: Mapping[str, Any] | None, *, large_table_rows: int
) -> Plan:
    """The plan of a statement, with what an index would spare. Nothing of the statement is executed."""
    match connection.dialect.name:
        case "postgresql":
            plan, lines = _ask_postgresql(connection, statement, parameters)
            scans = list(postgresql_scans(plan))
        case "sqlite":
            lines = _ask_sqlite(connection, statement, parameters)
            scans = list(sqlite_scans([line.strip() for line in lines], _shape(connection, statement)))
        case other:
            raise InvalidArgumentError(f"explain knows PostgreSQL and SQLite, and this engine's database is {other}")
    judged = [_judge(connection, scan, large_table_rows) for scan in scans]
    return Plan(
        scans=tuple(dict.fromkeys(scan for scan, _ in judged if scan is not None)),
        advice=tuple(dict.fromkeys(advice for _, advice in judged if advice is not None)),
        text="\n".join(lines),
    )


def _ask_postgresql(
    connection: Connection, statement: Explainable, parameters: Mapping[str, Any] | None
) -> tuple[dict[str, Any], list[str]]:
    if isinstance(statement, Statement):
        return _ask_for_generic_plan(connection, statement)
    [[plan]] = _answer(connection, _POSTGRESQL, statement, parameters)
    lines = _answer(connection, _POSTGRESQL_TEXT, statement, parameters)
    return _root(plan), [str(line) for [line] in lines]


def _answer(
    connection: Connection, prefix: str, statement: Executable | str, parameters: Mapping[str, Any] | None
) -> list[Sequence[Any]]:
    """Rows as the driver has them: the statement's own columns, and their types, are not those of its plan."""
    with connection.execute(_explained(prefix, statement), parameters) as result:
        return list(result.cursor.fetchall()) if result.cursor is not None else []


def _ask_for_generic_plan(connection: Connection, statement: Statement) -> tuple[dict[str, Any], list[str]]:
    """A recorded statement has no values: it is planned as the server plans a prepared one for whatever values."""
    sql, count = numbered_placeholders(_explainable(statement).sql, style=connection.dialect.paramstyle, prefix="$")
    call = f"EXECUTE {_PREPARED}({', '.join(['NULL'] * count)})" if count else f"EXECUTE {_PREPARED}"
    connection = connection.execution_options(isolation_level="READ COMMITTED", no_parameters=True)
    connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
    connection.exec_driver_sql(f"PREPARE {_PREPARED} AS {sql}")
    try:
        rows = connection.exec_driver_sql(f"{_POSTGRESQL}{call}").scalar_one()
        lines = connection.exec_driver_sql(f"{_POSTGRESQL_TEXT}{call}").scalars().all()
    finally:
        connection.rollback()
        _forget_prepared(connection)
    return _root(rows), [str(line) for line in lines]


def _forget_prepared(connection: Connection) -> None:
    """A rollback leaves prepared statements alone, but at a rollback psycopg may send DEALLOCATE ALL by itself."""
    is_left = f"SELECT 1 FROM pg_catalog.pg_prepared_statements WHERE name = '{_PREPARED}'"  # noqa: S608
    if connection.exec_driver_sql(is_left).scalar() is not None:
        connection.exec_driver_sql(f"DEALLOCATE {_PREPARED}")


def _root(answer: Any) -> dict[str, Any]:
    plans = json.loads(answer) if isinstance(answer, str) else answer
    root: dict[str, Any] = plans[0]["Plan"]
    return root


def _ask_sqlite(connection: Connection, statement: Explainable, parameters: Mapping[str, Any] | None) -> list[str]:
    if isinstance(statement, Statement):
        sql = _explainable(statement).sql
        _, count = numbered_placeholders(sql, style=connection.dialect.paramstyle, prefix="?")
        rows = list[Sequence[Any]](connection.exec_driver_sql(f"{_SQLITE}{sql}", (None,) * count))
    else:
        rows = _answer(connection, _SQLITE, statement, parameters)
    depth = {0: -1}
    for row in rows:
        depth[row[0]] = depth.get(row[1], -1) + 1
    return [f"{'  ' * depth[row[0]]}{row[3]}" for row in rows]


def _explained(prefix: str, statement: Executable | str) -> Executable:
    return text(f"{prefix}{statement}") if isinstance(statement, str) else _Explain(prefix, _checked(statement))


def _checked(statement: Executable) -> Executable:
    if not isinstance(statement, Executable):
        raise InvalidArgumentError(
            f"statement is a {type(statement).__name__}: pass a select() or other construct, a text, or a statement "
            "from a report"
        )
    return statement


def _explainable(statement: Statement) -> Statement:
    if statement.origin in {Origin.TRANSACTION, Origin.OTHER}:
        raise InvalidArgumentError(f"statement has no plan, it is no read or write: {statement.shape}")
    return statement


def _shape(connection: Connection, statement: Explainable) -> str:
    if isinstance(statement, Statement):
        return statement.shape
    if isinstance(statement, (str, TextClause)):
        return statement_shape(str(statement), dialect=connection.dialect.name)
    compiled = _Explain("", statement).compile(dialect=connection.dialect)
    return statement_shape(str(compiled), dialect=connection.dialect.name, is_by_hand=False)


def _judge(
    connection: Connection, scan: Scan, large_table_rows: int
) -> tuple[TableScan, IndexAdvice | None] | tuple[None, None]:
    schema = None if scan.schema == connection.dialect.default_schema_name else scan.schema
    try:
        known = [column["name"] for column in inspect(connection).get_columns(scan.name, schema=schema)]
    except NoSuchTableError:
        return None, None
    rows = _rows(connection, scan.name, schema, large_table_rows)
    if rows < large_table_rows:
        return None, None
    indexes = _indexes(inspect(connection), scan.name, schema)
    columns = index_columns(scan, rows=rows, known=known, indexes=indexes)
    compared = tuple(column for column in scan.columns if column in known)
    reason = f"{scan.name} is read from end to end ({rows} rows or more) to compare {', '.join(columns)}"
    advice = _advice(connection, scan.name, schema, columns, reason) if columns else None
    return TableScan(scan.name, schema, rows, compared), advice


def _rows(connection: Connection, table: str, schema: str | None, at_most: int) -> int:
    quote = connection.dialect.identifier_preparer.quote
    name = quote(table) if schema is None else f"{quote(schema)}.{quote(table)}"
    counting = f"SELECT count(*) FROM (SELECT 1 AS one FROM {name} LIMIT :at_most) AS rows_of_it"  # noqa: S608
    counted = connection.execute(text(counting), {"at_most": at_most}).scalar_one()
    if connection.dialect.name != "postgresql":
        return int(counted)
    estimate = text("SELECT reltuples FROM pg_catalog.pg_class WHERE oid = CAST(:name AS regclass)")
    return max(int(counted), int(connection.execute(estimate, {"name": name}).scalar_one()))


def _indexes(inspector: Inspector, table: str, schema: str | None) -> list[list[str]]:
    """The columns of every index on whole rows, primary key and unique constraints included."""
    primary = inspector.get_pk_constraint(table, schema=schema)["constrained_columns"]
    unique = [constraint["column_names"] for constraint in inspector.get_unique_constraints(table, schema=schema)]
    plain: list[list[str]] = []
    for index in inspector.get_indexes(table, schema=schema):
        is_partial = any(name.endswith("_where") for name in index.get("dialect_options", {}))
        columns = [column for column in index["column_names"] if column is not None]
        if not is_partial and len(columns) == len(index["column_names"]):
            plain.append(columns)
    return [primary, *unique, *plain]


def missing_indexes_on(connection: Connection, *, schema: str | None) -> tuple[IndexAdvice, ...]:
    """Foreign keys without an index: deleting a parent, or loading its children, reads the whole table."""
    inspector = inspect(connection)
    missing: list[IndexAdvice] = []
    for table in sorted(inspector.get_table_names(schema=schema)):
        indexes = _indexes(inspector, table, schema)
        for key in inspector.get_foreign_keys(table, schema=schema):
            columns = key["constrained_columns"]
            if not is_covered(columns, indexes):
                reason = f"foreign key to {key['referred_table']} without an index"
                missing.append(_advice(connection, table, schema, columns, reason))
    return tuple(dict.fromkeys(missing))


def _advice(connection: Connection, table: str, schema: str | None, columns: Sequence[str], reason: str) -> IndexAdvice:
    described = Table(table, MetaData(), *(Column(column, NullType()) for column in columns), schema=schema)
    index = Index(f"ix_{table}_{'_'.join(columns)}"[:_LONGEST_NAME], *described.columns)
    sql = str(CreateIndex(index).compile(dialect=connection.dialect))
    return IndexAdvice(table, schema, tuple(columns), reason, sql)
