"""Watch what an engine is asked."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, overload

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from araponga_infra.clock import SYSTEM_CLOCK, Clock, Duration, to_seconds
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.queries.capture import capture, listen, unseen
from araponga_infra.queries.explain import Explainable, explain_on, missing_indexes_on
from araponga_infra.queries.plans import IndexAdvice, Plan
from araponga_infra.queries.records import report_findings
from araponga_infra.queries.report import QueryReport
from araponga_infra.telemetry import Observer, reporter

__all__ = ["QueryInspector"]

AnyEngine = TypeVar("AnyEngine", Engine, AsyncEngine)
T = TypeVar("T")


class QueryInspector(Generic[AnyEngine]):
    """Sees the statements of an engine: how many, how slow, which are an N+1, and from which line of your code.

    Args:
        engine: an `Engine` or `AsyncEngine`; it stays yours and is never closed.
        slow_after: from how long on a statement is slow, a `timedelta` or seconds.
        large_table_rows: from how many rows on reading a whole table is worth pointing out.
        clock: measures the statements.
        observer: told of each N+1 and each slow statement when a capture ends.

    Nothing is recorded, and next to nothing is paid, while no capture is open. Thread-safe; one inspector serves
    every loop, thread and forked process.

    Raises:
        InvalidArgumentError: not an engine, or a negative `slow_after`.

    Examples:
        >>> from sqlalchemy import create_engine, text
        >>> engine = create_engine("sqlite://")
        >>> with QueryInspector(engine).capture() as report, engine.connect() as connection:
        ...     _ = connection.execute(text("SELECT 'secret'"))
        >>> [statement.shape for statement in report.statements]
        ['SELECT ?']
    """

    def __init__(
        self,
        engine: AnyEngine,
        *,
        slow_after: Duration = 0.1,
        large_table_rows: int = 10_000,
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._engine: AnyEngine = engine
        self._plain_engine = _plain(engine)
        self._slow_after_seconds = to_seconds(slow_after, "slow_after")
        if large_table_rows < 1:
            raise InvalidArgumentError(f"large_table_rows={large_table_rows!r} must be 1 or more")
        self._large_table_rows = large_table_rows
        self._clock = clock or SYSTEM_CLOCK
        self._report = reporter(observer)
        listen()

    @contextmanager
    def capture(self) -> Generator[QueryReport]:
        """Record what the `with` block sends.

        A plain `with`, in sync and in async code. What other threads and tasks send meanwhile is not recorded; what
        the block itself starts is: asyncio tasks, `asyncio.to_thread`, the thread pools of Starlette and anyio.
        """
        seen: QueryReport | None = None
        try:
            with capture(
                engine=self._plain_engine, clock=self._clock, slow_after_seconds=self._slow_after_seconds
            ) as seen:
                yield seen
        finally:
            if self._report is not None and seen is not None:
                report_findings(seen, self._report)

    @overload
    def explain(
        self: QueryInspector[Engine], statement: Explainable, parameters: Mapping[str, Any] | None = None
    ) -> Plan: ...

    @overload
    def explain(
        self: QueryInspector[AsyncEngine], statement: Explainable, parameters: Mapping[str, Any] | None = None
    ) -> Coroutine[Any, Any, Plan]: ...

    def explain(
        self, statement: Explainable, parameters: Mapping[str, Any] | None = None
    ) -> Plan | Coroutine[Any, Any, Plan]:
        """Ask the database how it would execute a statement; awaited with an AsyncEngine. Nothing is executed.

        PostgreSQL answers by EXPLAIN, SQLite by EXPLAIN QUERY PLAN, on a connection of its own from the pool.

        Args:
            statement: a `select()` or other construct, a text with `:name` parameters, or a statement out of a
                report. The latter has no values; PostgreSQL plans it as a prepared statement for whatever values.
            parameters: values for the parameters of a text or of `bindparam`.

        Returns:
            The plan; `scans` of large tables, and in `advice` the CREATE INDEX that would spare them.

        Raises:
            InvalidArgumentError: not a statement, one that has no plan, or neither PostgreSQL nor SQLite.
            sqlalchemy.exc.DBAPIError: the database refuses the statement.
        """
        return self._ask(lambda on: explain_on(on, statement, parameters, large_table_rows=self._large_table_rows))

    @overload
    def missing_indexes(self: QueryInspector[Engine], *, schema: str | None = None) -> tuple[IndexAdvice, ...]: ...

    @overload
    def missing_indexes(
        self: QueryInspector[AsyncEngine], *, schema: str | None = None
    ) -> Coroutine[Any, Any, tuple[IndexAdvice, ...]]: ...

    def missing_indexes(
        self, *, schema: str | None = None
    ) -> tuple[IndexAdvice, ...] | Coroutine[Any, Any, tuple[IndexAdvice, ...]]:
        """Foreign keys that no index begins with, each with its CREATE INDEX; awaited with an AsyncEngine.

        Args:
            schema: the schema to look at; the connection's default one unless named.
        """
        return self._ask(lambda on: missing_indexes_on(on, schema=schema))

    def _ask(self, ask: Callable[[Connection], T]) -> T | Coroutine[Any, Any, T]:
        def unseen_ask(connection: Connection) -> T:
            with unseen():
                return ask(connection)

        if isinstance(self._engine, AsyncEngine):
            return _ask_async(self._engine, unseen_ask)
        with self._plain_engine.connect() as connection:
            return unseen_ask(connection)


async def _ask_async(engine: AsyncEngine, ask: Callable[[Connection], T]) -> T:
    async with engine.connect() as connection:
        return await connection.run_sync(ask)


def _plain(engine: object) -> Engine:
    if isinstance(engine, AsyncEngine):
        return engine.sync_engine
    if isinstance(engine, Engine):
        return engine
    raise InvalidArgumentError(
        f"engine is a {type(engine).__name__}: pass what create_engine or create_async_engine returned"
    )
