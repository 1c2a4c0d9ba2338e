"""Watch what an engine is asked."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Generic, TypeVar

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from araponga_infra.clock import SYSTEM_CLOCK, Clock, Duration, to_seconds
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.queries.capture import capture, listen
from araponga_infra.queries.records import report_findings
from araponga_infra.queries.report import QueryReport
from araponga_infra.telemetry import Observer, reporter

__all__ = ["QueryInspector"]

AnyEngine = TypeVar("AnyEngine", Engine, AsyncEngine)


class QueryInspector(Generic[AnyEngine]):
    """Sees the statements of an engine: how many, how slow, which are an N+1, and from which line of your code.

    Args:
        engine: an `Engine` or `AsyncEngine`; it stays yours and is never closed.
        slow_after: from how long on a statement is slow, a `timedelta` or seconds.
        clock: measures the statements.
        observer: told of each N+1 and each slow statement when a capture ends.

    Nothing is recorded, and next to nothing is paid, while no capture is open. Thread-safe; one inspector serves
    every loop, thread and forked process.

    Raises:
        InvalidArgumentError: not an engine, or a negative `slow_after`.

    Example:
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
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._engine: AnyEngine = engine
        self._plain_engine = _plain(engine)
        self._slow_after_seconds = to_seconds(slow_after, "slow_after")
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


def _plain(engine: object) -> Engine:
    if isinstance(engine, AsyncEngine):
        return engine.sync_engine
    if isinstance(engine, Engine):
        return engine
    raise InvalidArgumentError(
        f"engine is a {type(engine).__name__}: pass what create_engine or create_async_engine returned"
    )
