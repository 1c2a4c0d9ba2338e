"""Optimistic concurrency: row versions, and units of work that are tried again when somebody else was faster."""

from araponga_infra.concurrency.alembic import add_row_version, drop_row_version
from araponga_infra.concurrency.async_helper import AsyncConcurrencyHelper
from araponga_infra.concurrency.attempts import Applied
from araponga_infra.concurrency.errors import (
    CommitOutcomeUnknownError,
    ConcurrencyConflictError,
    NestedUnitOfWorkError,
    PreconditionFailedError,
    PreconditionRequiredError,
    RowConflict,
)
from araponga_infra.concurrency.etags import IfMatch, etag, expect_version, parse_if_match, touch
from araponga_infra.concurrency.helper import ConcurrencyHelper
from araponga_infra.concurrency.records import AttemptFailed, CommitInDoubt, UnitGaveUp
from araponga_infra.concurrency.sessions import VersionedSession
from araponga_infra.concurrency.units import UnitOfWork, UnitOfWorkMethod
from araponga_infra.concurrency.versions import RowVersion, versioned
from araponga_infra.concurrency.xmin import XminRowVersion

__all__ = [
    "Applied",
    "AsyncConcurrencyHelper",
    "AttemptFailed",
    "CommitInDoubt",
    "CommitOutcomeUnknownError",
    "ConcurrencyConflictError",
    "ConcurrencyHelper",
    "IfMatch",
    "NestedUnitOfWorkError",
    "PreconditionFailedError",
    "PreconditionRequiredError",
    "RowConflict",
    "RowVersion",
    "UnitGaveUp",
    "UnitOfWork",
    "UnitOfWorkMethod",
    "VersionedSession",
    "XminRowVersion",
    "add_row_version",
    "drop_row_version",
    "etag",
    "expect_version",
    "parse_if_match",
    "touch",
    "versioned",
]
