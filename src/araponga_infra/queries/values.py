"""What is known of a statement that was sent: its shape, who sent it and from which line; never a value."""

from __future__ import annotations

import linecache
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

__all__ = ["CallSite", "NPlusOne", "Origin", "Statement"]


class Origin(Enum):
    """Why a statement was sent."""

    QUERY = "query"
    """The code asked for it; a loop around such a line is an N+1."""

    JOINED = "joined load"
    """The code asked for it, and it brings related rows along in the same statement."""

    LAZY = "lazy load"
    """A relationship was touched that had not been loaded."""

    REFRESH = "refresh"
    """An attribute was touched that was deferred or had expired, or `refresh` was called."""

    SELECT_IN = "select-in load"
    """An eager load that takes many parents at once (also of subclasses' columns), in chunks of its own."""

    SUBQUERY = "subquery load"
    """An eager load that repeats the parents' query as a subquery."""

    BATCH = "batch"
    """The code asked for many rows by design: a list of keys, or one page of several."""

    WRITE = "write"
    """INSERT, UPDATE, DELETE or MERGE, flushed or executed."""

    TRANSACTION = "transaction control"
    """SAVEPOINT, SET TRANSACTION and their like."""

    CATALOG = "catalog"
    """A question about the schema, such as `create_all` asks per table."""

    OTHER = "other"
    """DDL, PRAGMA, SET, EXPLAIN and the rest."""


@dataclass(frozen=True)
class CallSite:
    """A line of the host's own code."""

    file: str
    line: int
    function: str

    @property
    def source(self) -> str:
        """The text of the line, empty when its file cannot be read."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        return f"{_from_working_directory(self.file)}:{self.line}"


def _from_working_directory(file: str) -> str:
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return file


@dataclass(frozen=True)
class Statement:
    """One statement as it went to the driver."""

    shape: str
    """The SQL with `?` in the place of every literal and parameter."""

    parameters: tuple[str, ...]
    """A type for each parameter, with the length of lists, as in `("int", "str", "list[3]")`."""

    parameter_sets: int
    """How many sets of parameters were sent with it: 1, or the rows of an `executemany`."""

    origin: Origin
    place: CallSite | None
    """The innermost line of the host's own code on the way here; None when there is none on the stack."""

    unit: int
    """Statements of one transaction share this number: of a session's transaction, without one of the connection's."""

    seconds: float | None
    """Until the driver had executed it, rows not fetched; None while it runs."""

    failed: bool = False
    loads: str | None = None
    """What an ORM load was for, as in `Post.author`."""

    call_path: int = field(default=0, repr=False, compare=False)
    """A hash of the host's calls on the stack: two statements of one loop have the same."""

    sql: str = field(default="", repr=False, compare=False)
    """The text as sent, for a plan afterwards. It holds whatever literals the code wrote into it."""


@dataclass(frozen=True)
class NPlusOne:
    """The same statement, again and again, in one unit of work from one place."""

    shape: str
    times: int
    origin: Origin
    place: CallSite | None
    seconds: float
    loads: str | None = None

    @property
    def advice(self) -> str:
        """What would send one statement instead."""
        match self.origin:
            case Origin.LAZY:
                return f"load it with the parents: .options(selectinload({self.loads or '...'}))"
            case Origin.REFRESH:
                return (
                    f"{self.loads or 'the attribute'} was deferred or had expired: load it with the query "
                    "(undefer), use a sessionmaker with expire_on_commit=False, or select the rows again at once"
                )
            case _:
                return "ask once for all of them before the loop: .where(column.in_(values))"

    def __str__(self) -> str:
        where = "an unknown line" if self.place is None else f"{self.place} in {self.place.function}"
        return f"{self.times} times {self.shape} ({self.origin.value}) from {where}: {self.advice}"
