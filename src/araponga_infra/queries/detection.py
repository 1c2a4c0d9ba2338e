"""Which of the statements are an N+1: a pure function of what was seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from araponga_infra.queries.values import NPlusOne, Origin, Statement

__all__ = ["find_n_plus_one"]

_FEWEST_LOADS = 2
_FEWEST_QUERIES = 3
_FEWEST = {
    Origin.LAZY: _FEWEST_LOADS,
    Origin.REFRESH: _FEWEST_LOADS,
    Origin.QUERY: _FEWEST_QUERIES,
    Origin.JOINED: _FEWEST_QUERIES,
}
"""Other origins are never an N+1, however often they repeat: eager loads come in chunks, writes in batches."""


def find_n_plus_one(statements: Iterable[Statement], *, min_repeats: int = 0) -> tuple[NPlusOne, ...]:
    """Find reads that repeat within one unit of work along the same path of calls, in the order of their first.

    A load that the ORM started counts from its second time. A query that the code asked for counts from its third:
    two of the same shape are often two different rows by intent.

    Args:
        statements: in the order they were sent.
        min_repeats: report nothing below this number of times.
    """
    groups: dict[tuple[object, ...], list[Statement]] = defaultdict(list)
    for statement in statements:
        if statement.origin in _FEWEST:
            key = (statement.unit, statement.shape, statement.origin, statement.place, statement.call_path)
            groups[key].append(statement)
    return tuple(
        _summary(group)
        for group in groups.values()
        if len(group) >= max(_FEWEST[group[0].origin], min_repeats)
    )  # fmt: skip


def _summary(group: list[Statement]) -> NPlusOne:
    first = group[0]
    return NPlusOne(
        shape=first.shape,
        times=len(group),
        origin=first.origin,
        place=first.place,
        seconds=sum(statement.seconds or 0.0 for statement in group),
        loads=first.loads,
    )
