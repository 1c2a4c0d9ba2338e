"""Events that are written by the COMMIT of a host's session.

They are collected on the session and written right before COMMIT, in one batch, by listeners on the session class: so
`publish_in` is a plain call on an `AsyncSession` as well, and locks of ordering keys are held as briefly as possible.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session, SessionTransaction

from araponga_infra.events.values import Appended, Message
from araponga_infra.transactions import AnySession, after_commit, sync_session

__all__ = ["AfterWrite", "Note", "Write", "append_in", "engine_of", "install_outbox"]

Write = Callable[[Connection, Sequence[Message]], Appended]
Note = Callable[[int, Appended], None]
AfterWrite = Callable[[Session], object]

_PENDING = "araponga_infra.events.outbox"
_COMMITTING = "araponga_infra.events.outbox.committing"
_install_lock = threading.Lock()
_is_installed = False


class _Pending:
    __slots__ = ("message", "note", "within", "write")

    def __init__(self, within: SessionTransaction | None, message: Message, write: Write, note: Note | None) -> None:
        self.within = within
        self.message = message
        self.write = write
        self.note = note


def append_in(
    session: AnySession, message: Message, write: Write, on_commit: AfterWrite, note: Note | None = None
) -> None:
    """Write `message` when `session` commits.

    Args:
        session: any of SQLAlchemy's session forms.
        write: called with the session's connection and all messages of the transaction.
        on_commit: called once per transaction, with the plain session, after its COMMIT.
        note: told after the COMMIT how many messages were written, and what became of them.
    """
    plain = sync_session(session)
    if not plain.in_transaction():
        plain.begin()
    pending: list[_Pending] = plain.info.setdefault(_PENDING, [])
    within = plain.get_nested_transaction() or plain.get_transaction()
    pending.append(_Pending(within, message, write, note))
    if within is plain.info.get(_COMMITTING):
        _write(plain)
    after_commit(session, _callback(on_commit, plain))


def _callback(on_commit: AfterWrite, session: Session) -> Callable[[], None]:
    def call() -> None:
        on_commit(session)

    return call


def install_outbox() -> None:
    """Listen on the session class, once; before the first session commits that may publish."""
    global _is_installed
    if _is_installed:
        return
    with _install_lock:
        if not _is_installed:
            event.listen(Session, "before_commit", _on_commit)
            event.listen(Session, "after_transaction_end", _on_end)
            _is_installed = True


def _on_commit(session: Session) -> None:
    """Announced for a savepoint as well: what was published within it is written within it. What a listener of the
    host's publishes from now on, while COMMIT flushes, is written at once."""
    session.info[_COMMITTING] = session.get_nested_transaction() or session.get_transaction()
    if session.info.get(_PENDING):
        _write(session)


def _write(session: Session) -> None:
    within = session.get_nested_transaction() or session.get_transaction()
    pending: list[_Pending] = session.info[_PENDING]
    session.info[_PENDING] = [each for each in pending if each.within is not within]
    batches: dict[tuple[Write, Note | None], list[Message]] = {}
    for each in pending:
        if each.within is within:
            batches.setdefault((each.write, each.note), []).append(each.message)
    if not batches:
        return
    connection = session.connection()
    for (write, note), messages in batches.items():
        appended = write(connection, messages)
        if note is not None:
            after_commit(session, partial(note, len(messages), appended))


def _on_end(session: Session, transaction: SessionTransaction) -> None:
    """What was not written by now was published in a transaction that was rolled back."""
    pending: list[_Pending] | None = session.info.get(_PENDING)
    if pending:
        session.info[_PENDING] = [each for each in pending if each.within is not transaction]
    if session.info.get(_COMMITTING) is transaction:
        del session.info[_COMMITTING]


def engine_of(session: Session) -> Engine:
    """The engine behind a session, also one that is bound to a connection."""
    return session.get_bind().engine
