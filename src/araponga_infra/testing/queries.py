"""Assert in a test how many queries a block of code sends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from types import TracebackType

from araponga_infra.errors import InvalidArgumentError
from araponga_infra.queries.capture import capture
from araponga_infra.queries.report import QueryReport

__all__ = ["assert_max_queries", "no_n_plus_one"]


class _Expectation(ABC):
    """A plain `with` that checks its report where the block ends by itself; an error in the block goes first."""

    def __init__(self, *, min_repeats: int = 0) -> None:
        self._min_repeats = min_repeats
        self._capture: AbstractContextManager[QueryReport] | None = None

    def __enter__(self) -> QueryReport:
        if self._capture is not None:
            raise InvalidArgumentError("this block is open already: call the function again for another one")
        self._capture = capture(min_repeats=self._min_repeats)
        self._report = self._capture.__enter__()
        return self._report

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._capture is not None:
            self._capture.__exit__(None, None, None)
            self._capture = None
        if kind is None:
            self._check(self._report)

    @abstractmethod
    def _check(self, report: QueryReport) -> None: ...


class assert_max_queries(_Expectation):  # noqa: N801 - reads as the function it is used as
    """Fail if the block sends more than `maximum` queries, on whatever engine.

    A plain `with`, also around awaits. Counted is what the block itself sends and what it starts: its asyncio tasks,
    its `asyncio.to_thread` calls, the application behind a Starlette or Flask test client. Other tasks and threads
    are not. BEGIN, COMMIT, savepoints and the questions of a driver at its first connection are not counted.

    Args:
        maximum: 0 or more.

    Raises:
        AssertionError: at the end of the block, with each statement's shape, origin and line.
        InvalidArgumentError: `maximum` is not a whole number of 0 or more.

    Examples:
        >>> with assert_max_queries(0) as report:
        ...     pass
        >>> len(report)
        0
    """

    def __init__(self, maximum: int) -> None:
        if not isinstance(maximum, int) or isinstance(maximum, bool) or maximum < 0:
            raise InvalidArgumentError(f"maximum={maximum!r} must be a whole number, 0 or more")
        super().__init__()
        self._maximum = maximum

    def _check(self, report: QueryReport) -> None:
        if len(report) > self._maximum:
            raise AssertionError(f"{len(report)} queries, at most {self._maximum} expected:\n{report}")


class no_n_plus_one(_Expectation):  # noqa: N801
    """Fail if the block sends the same read again and again from one line within one transaction.

    Lazy loads and refreshes fail from their second time, queries in a loop from their third. Eager loads in chunks,
    reads by a list of keys, pages and writes never do.

    Args:
        min_repeats: let anything pass that repeats less often.

    Raises:
        AssertionError: at the end of the block; it names the statement, the line and what to load it with.
        InvalidArgumentError: `min_repeats` is below 2.

    Examples:
        >>> with no_n_plus_one():
        ...     pass
    """

    def __init__(self, *, min_repeats: int = 2) -> None:
        if not isinstance(min_repeats, int) or min_repeats < 2:
            raise InvalidArgumentError(f"min_repeats={min_repeats!r} must be 2 or more: once is no repetition")
        super().__init__(min_repeats=min_repeats)

    def _check(self, report: QueryReport) -> None:
        found = report.n_plus_one
        if found:
            listed = "\n".join(f"  {each}\n    {each.place.source if each.place else ''}".rstrip() for each in found)
            raise AssertionError(f"{len(found)} N+1 in this block:\n{listed}")
