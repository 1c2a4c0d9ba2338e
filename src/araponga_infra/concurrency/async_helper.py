"""The async helper: `ConcurrencyHelper` for `AsyncSession`; whatever is decided is decided by the same functions."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Concatenate, ParamSpec, Self, TypeAlias, TypeVar, cast, overload

from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session

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
    refuse_plain_result,
    refuse_sessionless,
    refuse_uncallable,
)
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.telemetry import Observer, reporter

__all__ = ["AsyncConcurrencyHelper"]

Owner = TypeVar("Owner")
P = ParamSpec("P")
T = TypeVar("T")
AsyncVerify: TypeAlias = Callable[[AsyncSession], Awaitable[Applied[Any] | None]]


class AsyncConcurrencyHelper:
    """`ConcurrencyHelper` for async code: the same arguments, the same promises.

    Cancelling `execute` ends its transaction and leaves none open, waits included; only a cancellation while COMMIT is
    in flight leaves the outcome open, as a lost connection would. One helper serves all tasks and event loops whose
    engine it shares; it holds no connection and needs no closing.

    Args:
        sessionmaker: the host's `async_sessionmaker`, with `sync_session_class=VersionedSession` or without.
        max_attempts: how often the work runs at most, the first time included.
        backoff: how long to wait before the work runs again; `Backoff()` by default.
        timeout: from the call of `execute`, after which no further attempt begins and no wait ends; None for no limit.
        lock_after: after so many conflicts the rows that conflicted are locked before the work runs again. None: never.
        clock: waits and measures; the machine's by default.
        observer: receives `AttemptFailed`, `UnitGaveUp` and `CommitInDoubt`.

    Examples:
        >>> async def like(session: AsyncSession, post_id: int) -> int:
        ...     post = await session.get_one(Post, post_id)
        ...     post.likes += 1
        ...     return post.likes
        >>> async def main() -> None:
        ...     engine = create_async_engine("sqlite+aiosqlite:///community.db")
        ...     print(await AsyncConcurrencyHelper(async_sessionmaker(engine)).execute(like, 1))
        ...     await engine.dispose()
        >>> asyncio.run(main())
        1
    """

    def __init__(
        self,
        sessionmaker: async_sessionmaker[Any],
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
        self._verify: AsyncVerify | None = None

    async def execute(
        self, work: Callable[Concatenate[AsyncSession, P], Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Await `work(session, *args, **kwargs)` and COMMIT; as `ConcurrencyHelper.execute` in every other respect."""
        refuse_uncallable(work, "execute")
        with OpenUnit():
            call = (work, args, kwargs)
            course = Course(call, self._policy, self._clock, self._report, self._hot_units)
            outcome = await self._attempt(call, course.lock_first)
            if isinstance(outcome, FailedAttempt):
                return cast(T, await self._persist(call, course, outcome))
            return cast(T, outcome)

    def options(
        self,
        *,
        max_attempts: int | None = None,
        timeout: Duration | None = None,
        verify: AsyncVerify | None = None,
    ) -> Self:
        """A helper like this one with some settings changed, as `ConcurrencyHelper.options`; `verify` is awaited."""
        if verify is not None and not callable(verify):
            raise InvalidArgumentError(f"verify={verify!r}: pass a function that takes a session")
        changed = copy.copy(self)
        changed._policy = self._policy.changed(max_attempts, timeout)
        changed._verify = verify if verify is not None else self._verify
        return changed

    @overload
    def unit_of_work(
        self, work: Callable[Concatenate[AsyncSession, P], Coroutine[Any, Any, T]], /
    ) -> UnitOfWork[AsyncSession, P, Coroutine[Any, Any, T]]: ...
    @overload
    def unit_of_work(
        self, work: Callable[Concatenate[Owner, AsyncSession, P], Coroutine[Any, Any, T]], /
    ) -> UnitOfWorkMethod[Owner, AsyncSession, P, Coroutine[Any, Any, T]]: ...
    def unit_of_work(self, work: Callable[..., Any], /) -> Any:
        """Decorator: the coroutine function without its session parameter, run by `execute`. Functions and methods."""
        refuse_sessionless(work, "unit_of_work")
        return UnitOfWork[AsyncSession, Any, Any](self.execute, work, (AsyncSession, async_scoped_session))

    async def _attempt(self, call: Call, plan: Plan | LockFirst | None) -> object:
        work, args, kwargs = call
        async with self._sessionmaker(expire_on_commit=False) as session:
            attempt = Attempt(session.sync_session, plan)
            try:
                async with session.begin():
                    with attempt:
                        if plan is not None:
                            await session.run_sync(plan.prepare)
                        result = work(session, *args, **kwargs)
                        refuse_plain_result(result, work)
                        result = await result
                        await session.flush()
                        if self._verify is not None:
                            attempt.server_process = await session.run_sync(server_process)
                        expired = expired_in(result)
                        if expired:
                            await session.run_sync(reload, expired)
                    attempt.is_committing = True
            except Exception as error:
                return attempt.failed(error)
            return result

    async def _persist(self, call: Call, course: Course, first: FailedAttempt) -> object:
        from tenacity import AsyncRetrying, retry_if_result  # imported here: most processes never need it at once

        async def attempt() -> object:
            outcome = first if course.plan is None else await self._attempt(call, course.plan)
            return await self._settle(course, outcome) if isinstance(outcome, FailedAttempt) else outcome

        retrying = AsyncRetrying(
            retry=retry_if_result(lambda outcome: isinstance(outcome, Plan)),
            wait=lambda _state: course.delay_seconds,
            sleep=self._wait,
        )
        result: object = await retrying(attempt)
        course.ended()
        return result

    async def _wait(self, seconds: float) -> None:
        if seconds:
            await self._clock.async_sleep(seconds)

    async def _settle(self, course: Course, failed: FailedAttempt) -> object:
        """A plan for the next attempt, or the result that `verify` found; otherwise the error."""
        if failed.failure is Failure.OUTCOME_UNKNOWN:
            applied = await self._look_for(course, failed)
            if applied is not None:
                return applied.result
            failed = failed.known_not_committed()
        step = course.after(failed)
        if isinstance(step, Retry):
            return course.plan
        if isinstance(step, GiveUp) and failed.is_conflict:
            raise await self._afresh(partial(conflict_error, failed=failed, attempts=course.progress.attempts))
        raise failed.error

    async def _look_for(self, course: Course, failed: FailedAttempt) -> Applied[Any] | None:
        attempts = course.progress.attempts + 1
        if self._verify is not None:
            for delay_seconds in LOOK_DELAYS_SECONDS:
                await self._wait(delay_seconds)
                try:
                    if failed.server_process is None or not await self._is_still_open(failed.server_process):
                        applied = await self._look()
                        course.doubt(applied is not None)
                        return applied
                except Exception as error:
                    if not is_unreachable(error):
                        raise CommitOutcomeUnknownError(attempts=attempts) from error
        course.doubt(None)
        raise CommitOutcomeUnknownError(attempts=attempts) from failed.error

    async def _is_still_open(self, process: int) -> bool:
        return await self._afresh(partial(is_still_open, process=process))

    async def _look(self) -> Applied[Any] | None:
        async with self._sessionmaker(expire_on_commit=False) as session:
            return await cast("AsyncVerify", self._verify)(session)

    async def _afresh(self, read: Callable[[Session], T]) -> T:
        async with self._sessionmaker(expire_on_commit=False) as session:
            outcome: T = await session.run_sync(read)
            return outcome


def _checked_sessionmaker(maker: async_sessionmaker[Any]) -> async_sessionmaker[Any]:
    if not isinstance(maker, async_sessionmaker):
        raise InvalidArgumentError(
            f"sessionmaker is a {type(maker).__name__}: pass sqlalchemy.ext.asyncio.async_sessionmaker(engine); "
            "each attempt needs a session of its own, so a session or a scoped one will not do"
        )
    return maker
