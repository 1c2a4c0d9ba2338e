"""Do something once a session's transaction has really been committed.

SQLAlchemy's own `after_commit` fires at the release of a savepoint, and in a session that joined an outer transaction
which may still roll back. What is registered here runs once, after the outermost COMMIT, and never otherwise.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, cast

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_session
from sqlalchemy.orm import Session, SessionTransaction, scoped_session
from sqlalchemy.pool import ConnectionPoolEntry, Pool
from sqlalchemy.util import await_only

from araponga_infra.errors import InvalidArgumentError

__all__ = ["AfterCommit", "AnySession", "after_commit", "is_async_session", "sync_session"]

AnySession: TypeAlias = "Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any]"
AfterCommit: TypeAlias = Callable[[], Awaitable[object] | None]

_PENDING = "araponga_infra.after_commit"
_OUTER = "araponga_infra.after_outer_commit"
_logger = logging.getLogger("araponga_infra.transactions")
_install_lock = threading.Lock()
_is_installed = False
_is_outer_installed = False


def sync_session(session: AnySession) -> Session:
    """The plain `Session` behind any of SQLAlchemy's session forms.

    Raises:
        InvalidArgumentError: not a session.
    """
    if isinstance(session, (scoped_session, async_scoped_session)):
        session = session()
    if isinstance(session, AsyncSession):
        return session.sync_session
    if isinstance(session, Session):
        return session
    raise InvalidArgumentError(
        f"session is a {type(session).__name__}: pass a SQLAlchemy Session or AsyncSession, whose COMMIT will decide"
    )


def is_async_session(session: AnySession) -> bool:
    """Whether what follows the COMMIT of a session may be awaited.

    True also for the plain `Session` inside an AsyncSession, as `run_sync` hands it over.
    """
    if isinstance(session, (AsyncSession, async_scoped_session)):
        return True
    return async_session(sync_session(session)) is not None


def after_commit(session: AnySession, callback: AfterCommit) -> None:
    """Run `callback` once, after the COMMIT of the outermost transaction that `session` is in.

    A rollback, a close without commit, or a rollback of the savepoint it was registered in drops it. In a session that
    is bound to a connection with a transaction of its own, the COMMIT of that outer transaction decides; the callback
    then runs when the connection is next used or given back.

    Args:
        session: a `Session` or `AsyncSession`, or a scoped form. A session that has not begun yet begins now.
        callback: takes nothing. It runs after the connection went back to its pool. With an `AsyncSession` it may
            return an awaitable, which is awaited before `commit()` returns. What it raises is logged, never raised:
            the COMMIT has happened.
    """
    _install()
    plain = sync_session(session)
    if not plain.in_transaction():
        plain.begin()
    within = plain.get_nested_transaction() or plain.get_transaction()
    pending: list[_Pending] = plain.info.setdefault(_PENDING, [])
    pending.append(_Pending(cast(SessionTransaction, within), callback))


class _Pending:
    __slots__ = ("callback", "is_committed", "within")

    def __init__(self, within: SessionTransaction, callback: AfterCommit) -> None:
        self.within = within
        self.callback = callback
        self.is_committed = False


def _install() -> None:
    """Listen on the class, once: a listener per session costs more than the work of most transactions."""
    global _is_installed
    if _is_installed:
        return
    with _install_lock:
        if not _is_installed:
            event.listen(Session, "after_commit", _on_commit)
            event.listen(Session, "after_transaction_end", _on_end)
            _is_installed = True


def _on_commit(session: Session) -> None:
    """Commit moves a registration up; whatever has not moved when its transaction ends is dropped."""
    pending: list[_Pending] | None = session.info.get(_PENDING)
    if not pending:
        return
    savepoint = session.get_nested_transaction()
    for item in pending:
        if savepoint is None:
            item.is_committed = True
        elif item.within is savepoint:
            item.within = _enclosing(savepoint)


def _enclosing(savepoint: SessionTransaction) -> SessionTransaction:
    outer = savepoint.parent
    while outer is not None and outer.parent is not None and not outer.nested:
        outer = outer.parent
    return cast(SessionTransaction, outer)


def _on_end(session: Session, transaction: SessionTransaction) -> None:
    pending: list[_Pending] | None = session.info.get(_PENDING)
    if not pending:
        return
    ended = [item for item in pending if item.within is transaction]
    if not ended:
        return
    session.info[_PENDING] = [item for item in pending if item.within is not transaction]
    committed = [item.callback for item in ended if item.is_committed]
    if not committed:
        return
    outer = session.bind
    if isinstance(outer, Connection) and not outer.closed and outer.in_transaction():
        _wait_for_outer(outer, committed)
    else:
        _run(committed)


def _run(callbacks: list[AfterCommit]) -> None:
    for callback in callbacks:
        try:
            outcome = callback()
            if inspect.isawaitable(outcome):
                await_only(outcome)
        except Exception as error:
            _logger.exception("what was to follow a COMMIT raised %s; the COMMIT stands", type(error).__name__)


class _OuterTransaction:
    """Waits for the transaction of a connection that a session had joined, in that connection's `info`.

    SQLAlchemy announces that COMMIT before it is sent, so the callbacks wait for what can only come after it: the
    connection begins again or is given back to its pool.
    """

    def __init__(self) -> None:
        self.callbacks: list[AfterCommit] = []
        self.is_committing = False


def _wait_for_outer(connection: Connection, callbacks: list[AfterCommit]) -> None:
    _install_outer()
    connection.info.setdefault(_OUTER, _OuterTransaction()).callbacks.extend(callbacks)


def _install_outer() -> None:
    """Listen only in processes that join sessions to connections; most never do."""
    global _is_outer_installed
    with _install_lock:
        if not _is_outer_installed:
            event.listen(Engine, "commit", _on_outer_commit)
            event.listen(Engine, "begin", _on_outer_begin)
            event.listen(Engine, "handle_error", _on_outer_error)
            event.listen(Pool, "checkin", _on_checkin)
            _is_outer_installed = True


def _on_outer_commit(connection: Connection) -> None:
    if outer := connection.info.get(_OUTER):
        outer.is_committing = True


def _on_outer_error(context: ExceptionContext) -> None:
    connection = context.connection
    if connection is None or connection.closed or connection.invalidated:
        return
    outer: _OuterTransaction | None = connection.info.get(_OUTER)
    if outer is not None and outer.is_committing:
        del connection.info[_OUTER]


def _on_outer_begin(connection: Connection) -> None:
    _settle(connection.info.pop(_OUTER, None))


def _on_checkin(_dbapi_connection: object, record: ConnectionPoolEntry) -> None:
    _settle(record.info.pop(_OUTER, None))


def _settle(outer: _OuterTransaction | None) -> None:
    if outer is not None and outer.is_committing:
        _run(outer.callbacks)
