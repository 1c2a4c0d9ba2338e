"""Sessions for handlers: their work and the acknowledgement are one transaction, which the processor commits."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import event
from sqlalchemy.orm import Session

from araponga_infra.events.errors import GiveUp, HandlerCommitError, RetryLater

__all__ = ["forbid_commit", "is_refusal"]


def forbid_commit(session: Session) -> Callable[[], None]:
    """Make `session.commit()` an error until the function returned is called. Savepoints may be released."""

    def refuse(refused: Session) -> None:
        if refused.in_nested_transaction():
            return
        raise HandlerCommitError(
            "a handler committed the session it was given: leave that to the processor, "
            "which commits the work together with the acknowledgement"
        )

    event.listen(session, "before_commit", refuse)
    return lambda: event.remove(session, "before_commit", refuse)


def is_refusal(result: object) -> bool:
    """Whether a handler returned a wish that its work be rolled back."""
    return isinstance(result, (RetryLater, GiveUp))
