"""One attempt at a unit of work: what its session expects, what it failed of, and how the next one is prepared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError, UnboundExecutionError
from sqlalchemy.orm import InstanceState, Session

from araponga_infra.clock import Clock
from araponga_infra.concurrency.classification import Failure, classify, driver_code, is_unreachable
from araponga_infra.concurrency.decisions import GiveUp, Progress, Retry, RetryPolicy, Step, next_step
from araponga_infra.concurrency.errors import ConcurrencyConflictError, RowConflict
from araponga_infra.concurrency.hot_units import Call, HotUnits, LockFirst
from araponga_infra.concurrency.journal import ExpectedRow
from araponga_infra.concurrency.records import AttemptFailed, CommitInDoubt, UnitGaveUp
from araponga_infra.concurrency.rows import begin_immediate, changed_rows
from araponga_infra.concurrency.versions import entity_name
from araponga_infra.concurrency.watching import watch
from araponga_infra.telemetry import Report

__all__ = ["Applied", "Attempt", "Course", "FailedAttempt", "Plan", "conflict_error", "expired_in", "reload"]

T = TypeVar("T")

_MAPPINGS: tuple[type[Any], ...] = (dict,)
_COLLECTIONS: tuple[type[Any], ...] = (list, tuple, set, frozenset)


@dataclass(frozen=True)
class Applied(Generic[T]):
    """What `verify` returns when it finds that the work was committed.

    Attributes:
        result: what `execute` then gives.
    """

    result: T


@dataclass(frozen=True)
class FailedAttempt:
    """Why an attempt failed, and which rows it may be about."""

    error: Exception
    failure: Failure
    suspects: tuple[ExpectedRow, ...] = ()
    is_sqlite: bool = False
    server_process: int | None = None

    @property
    def can_lock(self) -> bool:
        return self.is_sqlite or bool(self.suspects)

    @property
    def entities(self) -> tuple[str, ...]:
        return tuple(sorted({entity_name(row.mapper) for row in self.suspects}))

    @property
    def is_conflict(self) -> bool:
        return self.failure in (Failure.STALE, Failure.CONFLICT)

    def known_not_committed(self) -> FailedAttempt:
        return replace(self, failure=Failure.CONNECTION_LOST)


@dataclass
class Plan:
    """How the next attempt begins, and which rows it then finds changed by others."""

    step: Retry
    failed: FailedAttempt
    changed: tuple[ExpectedRow, ...] = field(default=(), init=False)

    def prepare(self, session: Session) -> None:
        """Lock what conflicted, and make sure that it did: else the failure had another cause and is raised again."""
        if self.step.lock and self.failed.is_sqlite:
            begin_immediate(session)
        if not self.failed.suspects or not (self.step.lock or self.failed.failure is Failure.STALE):
            return
        conflicts = changed_rows(session, self.failed.suspects, lock=self.step.lock)
        if self.failed.failure is Failure.STALE and not conflicts:
            raise self.failed.error
        names = {(conflict.entity, conflict.identity) for conflict in conflicts}
        self.changed = tuple(row for row in self.failed.suspects if (entity_name(row.mapper), row.identity) in names)


class Attempt:
    """One run of the work, on a session of its own."""

    __slots__ = ("_journal", "_previous", "_session", "_suspects", "is_committing", "server_process")

    def __init__(self, session: Session, plan: Plan | LockFirst | None) -> None:
        self._session = session
        self._journal = watch(session)
        self._journal.is_supervised = True
        self._previous = plan.failed if isinstance(plan, Plan) else None
        self._suspects: tuple[ExpectedRow, ...] = ()
        self.is_committing: bool = False
        self.server_process: int | None = None

    def __enter__(self) -> None:
        """Around the work: what the session holds when it fails is gone after the rollback that follows."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._suspects = self._journal.suspects(self._session)

    def failed(self, error: Exception) -> FailedAttempt:
        """Classify what came out of the session."""
        failure = self._classify(error)
        if failure is Failure.OTHER:
            return FailedAttempt(error, failure)
        suspects = self._suspects or self._journal.suspects(self._session)
        if not suspects and failure is Failure.STALE:
            return FailedAttempt(error, Failure.OTHER)
        if not suspects and self._previous is not None:
            suspects = self._previous.suspects
        return FailedAttempt(error, failure, suspects, _is_sqlite(self._session, suspects), self.server_process)

    def _classify(self, error: Exception) -> Failure:
        failure = classify(error, is_committing=self.is_committing)
        if self._previous is None:
            return failure
        if error is self._previous.error:
            return Failure.OTHER
        is_same_outage = self._previous.failure is Failure.CONNECTION_LOST and is_unreachable(error)
        return Failure.CONNECTION_LOST if is_same_outage and failure is Failure.OTHER else failure


def _is_sqlite(session: Session, suspects: tuple[ExpectedRow, ...]) -> bool:
    try:
        bind = session.get_bind(suspects[0].mapper) if suspects else session.get_bind()
    except UnboundExecutionError:
        return False
    return bind.dialect.name == "sqlite"


class Course:
    """Where one `execute` stands: attempts made, and how the next one begins."""

    def __init__(
        self, call: Call, policy: RetryPolicy, clock: Clock, report: Report | None, hot_units: HotUnits
    ) -> None:
        self._call = call
        self._policy = policy
        self._clock = clock
        self._report = report
        self._hot_units = hot_units
        self._started = clock.monotonic()
        self.lock_first: LockFirst | None = hot_units.lock_for(call) if policy.lock_after is not None else None
        self.progress: Progress = Progress()
        self.plan: Plan | None = None

    def after(self, failed: FailedAttempt) -> Step:
        """Decide what follows, with this failure counted."""
        if self.lock_first is not None and self.plan is None and failed.failure is Failure.CONFLICT:
            self._hot_units.avoid(self._call)
        self.progress = self.progress.after(failed.failure, self._clock.monotonic() - self._started)
        step = next_step(self._policy, self.progress, failed.failure, can_lock=failed.can_lock)
        self.plan = Plan(step, failed) if isinstance(step, Retry) else None
        if self._report is not None:
            self._report_step(self._report, failed, step)
        return step

    def ended(self) -> None:
        """The work is committed. What it had to lock on the way, its next run locks first."""
        if self.plan is not None and self.plan.step.lock:
            self._hot_units.remember(self._call, self.plan.changed, is_sqlite=self.plan.failed.is_sqlite)

    @property
    def delay_seconds(self) -> float:
        return self.plan.step.delay_seconds if self.plan is not None else 0.0

    def _report_step(self, report: Report, failed: FailedAttempt, step: Step) -> None:
        attempts = self.progress.attempts
        if isinstance(step, Retry):
            report(AttemptFailed(failed.failure.name, failed.entities, attempts, step.delay_seconds, step.lock))
        elif isinstance(step, GiveUp):
            report(UnitGaveUp(failed.failure.name, failed.entities, attempts))

    def doubt(self, is_applied: bool | None) -> None:
        """Tell the observer how a COMMIT in doubt was settled."""
        if self._report is not None:
            self._report(CommitInDoubt(self.progress.attempts + 1, is_applied))


def conflict_error(source: Session | Connection | None, failed: FailedAttempt, attempts: int) -> Exception:
    """The error that tells of the conflict, with the rows' versions as a fresh session reads them now."""
    conflicts = _conflicts_now(source, failed)
    if failed.failure is Failure.STALE and not conflicts:
        return failed.error
    error = ConcurrencyConflictError(conflicts, attempts=attempts, reason=_reason(failed.error))
    error.__cause__ = failed.error
    return error


def _conflicts_now(source: Session | Connection | None, failed: FailedAttempt) -> tuple[RowConflict, ...]:
    try:
        conflicts = changed_rows(source, failed.suspects) if source is not None else ()
    except DBAPIError:
        conflicts = ()
    if not conflicts and isinstance(failed.error, ConcurrencyConflictError):
        return failed.error.conflicts
    return conflicts


def _reason(error: Exception) -> str | None:
    if isinstance(error, ConcurrencyConflictError):
        return error.reason
    if not isinstance(error, DBAPIError):
        return None
    code = driver_code(error.orig)
    if code.sqlstate is not None:
        return f"the database refused a concurrent change (SQLSTATE {code.sqlstate})"
    if code.sqlite is not None:
        return f"the database is busy with another writer (SQLite code {code.sqlite})"
    return f"the database refused a concurrent change (code {code.mysql})"


def expired_in(result: object) -> list[InstanceState[Any]]:
    """Rows in what the work returns that would have to be read again: their session is about to close."""
    if result is None or isinstance(result, (str, int)):
        return []
    return [state for state in map(_state_of, _items(result)) if state is not None and state.expired_attributes]


def _items(result: Any) -> Iterable[Any]:
    items = list(result.values()) if isinstance(result, _MAPPINGS) else result
    return items if isinstance(items, _COLLECTIONS) else (items,)


def _state_of(item: object) -> InstanceState[Any] | None:
    state: InstanceState[Any] | None = inspect(item, raiseerr=False)
    return state if hasattr(state, "expired_attributes") else None


def reload(session: Session, states: Iterable[InstanceState[Any]]) -> None:
    """Read the expired attributes, inside the transaction that wrote them."""
    for state in states:
        if state.session is session:
            session.refresh(state.obj(), sorted(state.expired_attributes))
