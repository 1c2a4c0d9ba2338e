"""What an HTTP client is told of an error: problem details (RFC 9457), without a word of what is inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType

from araponga_infra.concurrency import (
    CommitOutcomeUnknownError,
    ConcurrencyConflictError,
    PreconditionFailedError,
    PreconditionRequiredError,
)
from araponga_infra.errors import ArapongaInfraError

__all__ = ["MAPPED_ERRORS", "PROBLEM_MEDIA_TYPE", "BadIfMatchError", "Problem", "problem_of"]

PROBLEM_MEDIA_TYPE = "application/problem+json"


class BadIfMatchError(ArapongaInfraError, ValueError):
    """A client's If-Match header is no list of tags. HTTP 400."""


@dataclass(frozen=True)
class Problem:
    """An answer to an error.

    Attributes:
        status: the HTTP status.
        code: stable, for clients that branch on it.
        detail: what happened and what the client can do, in words that name no row, table or server.
        headers: sent besides the content type.
    """

    status: HTTPStatus
    code: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({"Cache-Control": "no-store"}))

    def body(self) -> bytes:
        document = {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": self.status.value,
            "detail": self.detail,
            "code": self.code,
        }
        return json.dumps(document).encode()


_PROBLEMS: Mapping[type[Exception], Problem] = {
    PreconditionFailedError: Problem(
        HTTPStatus.PRECONDITION_FAILED,
        "precondition_failed",
        "This was changed since you read it. Read it again before you change it.",
    ),
    ConcurrencyConflictError: Problem(
        HTTPStatus.CONFLICT,
        "conflict",
        "Somebody else changed this at the same moment; nothing was saved. Read it again and repeat the change.",
    ),
    PreconditionRequiredError: Problem(
        HTTPStatus.PRECONDITION_REQUIRED,
        "precondition_required",
        "Send If-Match with the ETag of the version that this change was made from.",
    ),
    BadIfMatchError: Problem(
        HTTPStatus.BAD_REQUEST,
        "invalid_if_match",
        'If-Match cannot be read. Send quoted tags, as in "3" or "3", "4", or *.',
    ),
    # No Retry-After: a client or proxy that simply repeats the request could apply it twice.
    CommitOutcomeUnknownError: Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "outcome_unknown",
        "The connection to the database was lost while saving: this was saved or not. Look before you repeat it.",
    ),
}
MAPPED_ERRORS: tuple[type[Exception], ...] = tuple(_PROBLEMS)


def problem_of(error: BaseException) -> Problem | None:
    """The answer to `error`, or None where it is none of ours to answer."""
    return next((_PROBLEMS[kind] for kind in type(error).__mro__ if kind in _PROBLEMS), None)
