"""What can go wrong with events, and the two signals a handler gives on purpose."""

from __future__ import annotations

from araponga_infra.clock import Duration, to_seconds
from araponga_infra.errors import ArapongaInfraError, InvalidArgumentError

__all__ = [
    "DeadLetterNotFoundError",
    "DeliveryFailedError",
    "DuplicateHandlerError",
    "GiveUp",
    "HandlerCommitError",
    "HandlerSignatureError",
    "HandlerTimeoutError",
    "LeaseLostError",
    "PayloadError",
    "ProcessorStateError",
    "QueueFullError",
    "RetryLater",
    "SessionMismatchError",
    "UnknownEventError",
    "UnsupportedByStoreError",
    "time_to_come",
]


_LONGEST_SECONDS = 100 * 366 * 86_400.0


def time_to_come(duration: Duration, argument: str) -> float:
    """Seconds that databases can add to a time of theirs.

    Raises:
        InvalidArgumentError: not a duration, negative, or more than a century.
    """
    seconds = to_seconds(duration, argument)
    if seconds > _LONGEST_SECONDS:
        raise InvalidArgumentError(f"{argument}={duration!r} is more than a century: pass what will be lived to see")
    return seconds


class UnknownEventError(InvalidArgumentError):
    """The object is not an event: its class carries no `@event(name, version=...)`."""


class PayloadError(InvalidArgumentError):
    """The event cannot be written as typed JSON, or would not be read back as its own class."""


class HandlerSignatureError(InvalidArgumentError):
    """A handler asks for something that no processor can give; names the handler and the parameter."""


class DuplicateHandlerError(InvalidArgumentError):
    """Two handlers share a name, or two classes share an event name."""


class SessionMismatchError(InvalidArgumentError):
    """A handler asks for a session that the processor's store cannot give."""


class UnsupportedByStoreError(InvalidArgumentError):
    """The store cannot keep a promise that was asked of it, and says so instead of breaking it."""


class ProcessorStateError(ArapongaInfraError, RuntimeError):
    """The call does not fit the processor's state: publishing after stop, changing handlers after start."""


class QueueFullError(ArapongaInfraError):
    """A bounded queue has no room; nothing was published. Publish later, or configure `when_full="wait"`.

    Args:
        message: how full it is.
        needed: how many deliveries there has to be room for: one for each event and handler.
    """

    needed: int

    def __init__(self, message: str, needed: int = 1) -> None:
        self.needed = needed
        super().__init__(message)


class DeadLetterNotFoundError(ArapongaInfraError, LookupError):
    """No dead letter has that id: it was redriven, discarded or purged, perhaps by somebody else."""


class DeliveryFailedError(ArapongaInfraError, RuntimeError):
    """A delivery ended as a dead letter without an exception of the handler's own; says why."""


class HandlerTimeoutError(ArapongaInfraError, TimeoutError):
    """A handler ran longer than its timeout."""


class HandlerCommitError(ArapongaInfraError, RuntimeError):
    """A handler committed or closed the session it was given; the processor does, together with the acknowledgement."""


class LeaseLostError(ArapongaInfraError):
    """The delivery was taken over by another worker while its handler ran; what the handler did was rolled back."""


class RetryLater(ArapongaInfraError):  # noqa: N818 - a signal, named for what it asks
    """Raised or returned by a handler: run me again after `delay`. Counts as an attempt.

    Args:
        delay: a `timedelta` or seconds.

    Raises:
        InvalidArgumentError: a negative delay, or one of more than a century.
    """

    delay_seconds: float

    def __init__(self, delay: Duration) -> None:
        self.delay_seconds = time_to_come(delay, "delay")
        super().__init__(f"asked to be run again in {self.delay_seconds:g} s")


class GiveUp(ArapongaInfraError):  # noqa: N818 - a signal, named for what it asks
    """Raised or returned by a handler: further attempts are useless, make this a dead letter now.

    Args:
        reason: why, in words for whoever reads the dead letter.

    Raises:
        InvalidArgumentError: no reason.
    """

    reason: str

    def __init__(self, reason: str) -> None:
        if not isinstance(reason, str) or not reason.strip():
            raise InvalidArgumentError(f"reason={reason!r} says nothing: pass why further attempts are useless")
        self.reason = reason
        super().__init__(self.reason)
