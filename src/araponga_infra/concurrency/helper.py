"""The sync helper: runs a unit of work to its COMMIT, again where somebody else was faster."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Concatenate, ParamSpec, Self, TypeAlias, TypeVar, cast, overload

from sqlalchemy.orm import Session, scoped_session, sessionmaker

from araponga_infra.backoff import Backoff
from araponga_infra.clock import SYSTEM_CLOCK, Clock, Duration
from araponga_infra.concurrency.attempts import (
    Applied,
    Attempt,
    Course,
    FailedAttempt,
    Plan,
    conflict_error,
    expired_in,
    reload,
)
from araponga_infra.concurrency.classification import Failure, is_unreachable
from araponga_infra.concurrency.decisions import GiveUp, Retry, RetryPolicy
from araponga_infra.concurrency.errors import CommitOutcomeUnknownError
from araponga_infra.concurrency.hot_units import Call, HotUnits, LockFirst
from araponga_infra.concurrency.in_doubt import LOOK_DELAYS_SECONDS, is_still_open, server_process
from araponga_infra.concurrency.nesting import OpenUnit
from araponga_infra.concurrency.units import (
    UnitOfWork,
    UnitOfWorkMethod,
    refuse_async_work,
    refuse_awaitable,
    refuse_sessionless,
    refuse_uncallable,
)
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.telemetry import Observer, reporter

__all__ = ["ConcurrencyHelper"]

Owner = TypeVar("Owner")
P = ParamSpec("P")
T = TypeVar("T")
Verify: TypeAlias = Callable[[Session], Applied[Any] | None]


class ConcurrencyHelper:
    """Runs units of work: a fresh session, the work, COMMIT, and all of it again after a conflict.

    Args:
        sessionmaker: the host's, of plain `Session` or of `VersionedSession`. Used, never changed.
        max_attempts: how often the work runs at most, the first time included.
        backoff: how long to wait before the work runs again; `Backoff()` by default.
        timeout: from the call of `execute`, after which no further attempt begins and no wait ends; None for no limit.
            An attempt under way is not interrupted.
        lock_after: after so many conflicts the rows that conflicted are locked before the work runs again, so that it
            cannot lose to them once more; on SQLite the transaction begins IMMEDIATE. The same work on the same
            arguments begins so at once within the second that follows. None: never.
        clock: waits and measures; the machine's by default.
        observer: receives `AttemptFailed`, `UnitGaveUp` and `CommitInDoubt`.

    One helper serves all threads; it holds no connection and needs no closing.

    Raises:
        InvalidArgumentError: an argument out of range, or something other than a sessionmaker.

    Examples:
        >>> helper = ConcurrencyHelper(sessionmaker(engine))
        >>> helper.execute(like, 1)
        1
    """

    def __init__(
        self,
        sessionmaker: sessionmaker[Any],
        *,
        max_attempts: int = 3,
        backoff: Backoff | None = None,
        timeout: Duration | None = None,
        lock_after: int | None = 1,
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._sessionmaker = _checked_sessionmaker(sessionmaker)
        self._policy = RetryPolicy.checked(max_attempts, backoff, timeout, lock_after)
        self._clock = clock or SYSTEM_CLOCK
        self._report = reporter(observer)
        self._hot_units = HotUnits(self._clock)
        self._verify: Verify | None = None

    def execute(self, work: Callable[Concatenate[Session, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(session, *args, **kwargs)` and COMMIT; after a conflict again, from the start, in a new session.

        All that `work` does besides its session - a mail, a publish, a counter - is repeated with each attempt: leave
        it for after `execute`, or register it to follow the COMMIT. Rows must be read inside `work`; rows from outside
        belong to another session and an older version. `work` neither commits nor rolls back.

        Args:
            work: takes a session first. A `Session` with `expire_on_commit` off, so that the rows it returns stay
                readable, relationships that were not loaded excepted.
            args: passed on to `work`.
            kwargs: likewise.

        Returns:
            What `work` returned in the attempt that was committed.

        Raises:
            ConcurrencyConflictError: attempts or time used up; it names the rows.
            PreconditionFailedError: `expect_version` said no; at once.
            CommitOutcomeUnknownError: the connection was lost during COMMIT, and no `verify` could tell.
            NestedUnitOfWorkError: called inside a unit of work.
            Exception: whatever else `work` or the database raises, untouched, from the attempt that raised it.
        """
        refuse_uncallable(work, "execute")
        with OpenUnit():
            call = (work, args, kwargs)
            course = Course(call, self._policy, self._clock, self._report, self._hot_units)
            outcome = self._attempt(call, course.lock_first)
            if isinstance(outcome, FailedAttempt):
                return cast(T, self._persist(call, course, outcome))
            return cast(T, outcome)

    def options(
        self,
        *,
        max_attempts: int | None = None,
        timeout: Duration | None = None,
        verify: Verify | None = None,
    ) -> Self:
        """A helper like this one with some settings changed; what is None stays as it is.

        Args:
            max_attempts: as for the class.
            timeout: as for the class.
            verify: called with a fresh session when the connection was lost during COMMIT. It looks whether the work
                was committed, and returns `Applied(result)` if it was, else None: then the work runs again. Have it
                look for something that only this very call writes, such as an id made before `execute`.

        Examples:
            >>> helper = ConcurrencyHelper(sessionmaker(engine))
            >>> helper.options(max_attempts=5).execute(like, 1)
            1
        """
        if verify is not None and not callable(verify):
            raise InvalidArgumentError(f"verify={verify!r}: pass a function that takes a session")
        refuse_async_work(verify, "options(verify=...)")
        changed = copy.copy(self)
        changed._policy = self._policy.changed(max_attempts, timeout)
        changed._verify = verify if verify is not None else self._verify
        return changed

    @overload
    def unit_of_work(self, work: Callable[Concatenate[Session, P], T], /) -> UnitOfWork[Session, P, T]: ...
    @overload
    def unit_of_work(
        self, work: Callable[Concatenate[Owner, Session, P], T], /
    ) -> UnitOfWorkMethod[Owner, Session, P, T]: ...
    def unit_of_work(self, work: Callable[..., Any], /) -> Any:
        """Decorator: the function without its session parameter, run by `execute`. Functions and methods.

        `decorated.within(session, ...)` runs it as part of a unit that is open already.

        Examples:
            >>> helper = ConcurrencyHelper(sessionmaker(engine))
            >>> @helper.unit_of_work
            ... def rename(session: Session, post_id: int, title: str) -> Post:
            ...     post = session.get_one(Post, post_id)
            ...     post.title = title
            ...     return post
            >>> rename(1, "Feira de trocas").row_version
            2
        """
        refuse_sessionless(work, "unit_of_work")
        refuse_async_work(work, "unit_of_work")
        return UnitOfWork[Session, Any, Any](self.execute, work, (Session, scoped_session))

    def _attempt(self, call: Call, plan: Plan | LockFirst | None) -> object:
        work, args, kwargs = call
        with self._sessionmaker(expire_on_commit=False) as session:
            attempt = Attempt(session, plan)
            try:
                with session.begin():
                    with attempt:
                        if plan is not None:
                            plan.prepare(session)
                        result = work(session, *args, **kwargs)
                        refuse_awaitable(result, work)
                        session.flush()
                        if self._verify is not None:
                            attempt.server_process = server_process(session)
                        reload(session, expired_in(result))
                    attempt.is_committing = True
            except Exception as error:
                return attempt.failed(error)
            return result

    def _persist(self, call: Call, course: Course, first: FailedAttempt) -> object:
        from tenacity import Retrying, retry_if_result  # imported here: most processes never need it at once

        def attempt() -> object:
            outcome = first if course.plan is None else self._attempt(call, course.plan)
            return self._settle(course, outcome) if isinstance(outcome, FailedAttempt) else outcome

        retrying = Retrying(
            retry=retry_if_result(lambda outcome: isinstance(outcome, Plan)),
            wait=lambda _state: course.delay_seconds,
            sleep=self._wait,
        )
        result = retrying(attempt)
        course.ended()
        return result

    def _wait(self, seconds: float) -> None:
        if seconds:  # a sleep of 0 would still hand the interpreter to another thread
            self._clock.sleep(seconds)

    def _settle(self, course: Course, failed: FailedAttempt) -> object:
        """A plan for the next attempt, or the result that `verify` found; otherwise the error."""
        if failed.failure is Failure.OUTCOME_UNKNOWN:
            applied = self._look_for(course, failed)
            if applied is not None:
                return applied.result
            failed = failed.known_not_committed()
        step = course.after(failed)
        if isinstance(step, Retry):
            return course.plan
        if isinstance(step, GiveUp) and failed.is_conflict:
            raise self._afresh(partial(conflict_error, failed=failed, attempts=course.progress.attempts))
        raise failed.error

    def _look_for(self, course: Course, failed: FailedAttempt) -> Applied[Any] | None:
        attempts = course.progress.attempts + 1
        if self._verify is not None:
            for delay_seconds in LOOK_DELAYS_SECONDS:
                self._wait(delay_seconds)
                try:
                    if failed.server_process is None or not self._is_still_open(failed.server_process):
                        applied = self._look()
                        course.doubt(applied is not None)
                        return applied
                except Exception as error:
                    if not is_unreachable(error):
                        raise CommitOutcomeUnknownError(attempts=attempts) from error
        course.doubt(None)
        raise CommitOutcomeUnknownError(attempts=attempts) from failed.error

    def _is_still_open(self, process: int) -> bool:
        return self._afresh(partial(is_still_open, process=process))

    def _look(self) -> Applied[Any] | None:
        return self._afresh(cast("Verify", self._verify))

    def _afresh(self, read: Callable[[Session], T]) -> T:
        with self._sessionmaker(expire_on_commit=False) as session:
            return read(session)


def _checked_sessionmaker(maker: sessionmaker[Any]) -> sessionmaker[Any]:
    if not isinstance(maker, sessionmaker):
        raise InvalidArgumentError(
            f"sessionmaker is a {type(maker).__name__}: pass sqlalchemy.orm.sessionmaker(engine); each attempt needs a "
            "session of its own, so a session or a scoped one will not do"
        )
    return maker
