"""DELETEs of versioned rows where the driver runs several as one batch, and tells no row counts of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sqlalchemy.orm import InstanceState, Mapper, Session
from sqlalchemy.orm.exc import StaleDataError

from araponga_infra.concurrency.journal import ExpectedRow, journal_of
from araponga_infra.concurrency.rows import changed_rows
from araponga_infra.concurrency.versions import loaded_version

__all__ = ["check_deletes"]


def check_deletes(session: Session, context: Any) -> None:
    """Listens to `after_flush`: SQLAlchemy takes a batch that it cannot count for done, so look what is still there.

    Raises:
        StaleDataError: a row that others have changed was not deleted.
    """
    if journal_of(session) is None or not any(is_deleted for is_deleted, _is_only_listed in context.states.values()):
        return
    for mapper, states in _deleted(context).items():
        connection = session.connection(bind_arguments={"mapper": mapper})
        if len(states) > 1 and not connection.dialect.supports_sane_multi_rowcount:
            left = [row for row in changed_rows(connection, _expected(states)) if row.actual is not None]
            if left:
                raise StaleDataError(f"DELETE of {left[0].entity} {left[0].identity!r} matched no row")


def _deleted(context: Any) -> dict[Mapper[Any], list[InstanceState[Any]]]:
    deleted: dict[Mapper[Any], list[InstanceState[Any]]] = defaultdict(list)
    for state, (is_deleted, is_only_listed) in context.states.items():
        if is_deleted and not is_only_listed and state.mapper.version_id_col is not None:
            deleted[state.mapper.base_mapper].append(state)
    return deleted


def _expected(states: Iterable[InstanceState[Any]]) -> Iterable[ExpectedRow]:
    for state in states:
        version = loaded_version(state)
        if version is not None and state.identity is not None:
            yield ExpectedRow(state.mapper, tuple(state.identity), version)
