"""Sessions for handlers: their work and the acknowledgement are one transaction, which the processor commits."""

from __future__ import annotations

import re

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session, SessionTransaction

from araponga_infra.events.errors import GiveUp, HandlerCommitError, RetryLater

__all__ = ["Seal", "is_refusal", "level_for_handlers"]

_AUTOCOMMIT = "AUTOCOMMIT"
_ENDS_TRANSACTION = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(commit|end|abort|prepare\s+transaction|rollback(?!\s+(?:work\s+|transaction\s+)?to\b))\b",
    re.IGNORECASE | re.DOTALL,
)


class Seal:
    """Makes it an error to commit `session`, or its connection, until broken. Savepoints may be released.

    Args:
        session: one that is closed for good by its first close.
    """

    def __init__(self, session: Session) -> None:
        self._is_broken = False
        self._is_undone = False
        event.listen(session, "before_commit", self._refuse_sessions)
        event.listen(session, "after_begin", self._watch)

    def break_open(self) -> None:
        self._is_broken = True

    def connection(self, session: Session) -> Connection:
        """What the work was done on, for its acknowledgement.

        Raises:
            HandlerCommitError: the handler has ended the transaction, so that its work is undone.
        """
        if self._is_undone:
            raise _refusal()
        try:
            return session.connection()
        except InvalidRequestError:
            if session.in_transaction():
                raise
        raise HandlerCommitError(
            "a handler closed the session it was given, perhaps by `with session:`, so that its work is undone: "
            "leave that to the processor, which closes the session after its commit"
        )

    def _watch(self, _session: Session, _transaction: SessionTransaction, connection: Connection) -> None:
        event.listen(connection, "commit", self._refuse_connections)
        event.listen(connection, "before_cursor_execute", self._refuse_statement)

    def _refuse_sessions(self, session: Session) -> None:
        if not self._is_broken and not session.in_nested_transaction():
            raise _refusal()

    def _refuse_connections(self, connection: Connection) -> None:
        """SQLAlchemy takes the transaction for ended whatever this raises, so end it."""
        if self._is_broken:
            return
        self._is_undone = True
        connection.dialect.do_rollback(connection.connection)
        raise _refusal()

    def _refuse_statement(self, _connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if _ENDS_TRANSACTION.match(statement):
            raise _refusal()


def _refusal() -> HandlerCommitError:
    return HandlerCommitError(
        "a handler committed the session it was given: leave that to the processor, "
        "which commits the work together with the acknowledgement"
    )


def level_for_handlers(engine: Engine) -> str | None:
    """An isolation level that has transactions, where the host's has none; None where the host's will do."""
    configured = getattr(engine.dialect, "_on_connect_isolation_level", None)
    level = engine.get_execution_options().get("isolation_level", configured)
    if str(level).upper() != _AUTOCOMMIT:
        return None
    return "READ COMMITTED" if engine.dialect.name == "postgresql" else "SERIALIZABLE"


def is_refusal(result: object) -> bool:
    """Whether a handler returned a wish that its work be rolled back."""
    return isinstance(result, (RetryLater, GiveUp))
