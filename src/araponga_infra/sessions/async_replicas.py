"""The replica set for async code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only, greenlet_spawn

from araponga_infra.clock import SYSTEM_CLOCK, Clock, Duration
from araponga_infra.errors import ClosedError
from araponga_infra.sessions.async_monitor import AsyncMonitor
from araponga_infra.sessions.checks import PrimaryLog, checks_of
from araponga_infra.sessions.engines import ReadOnlyEngine
from araponga_infra.sessions.health import Chooser, ReplicaStatus, least_loaded_of_two, limits_of
from araponga_infra.sessions.replica import Replica
from araponga_infra.sessions.router import Reading, Router, is_worth_another_server
from araponga_infra.sessions.servers import check_choices, servers_of
from araponga_infra.sessions.session import AsyncReadOnlySession
from araponga_infra.sessions.tokens import WriteToken
from araponga_infra.sessions.work import refuse_plain_result, refuse_uncallable
from araponga_infra.telemetry import Observer, reporter

__all__ = ["AsyncReplicaSet"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class AsyncReplicaSet:
    """`ReplicaSet` for async code: the same names, with `await` and `async with`.

    Args:
        primary: a URL or an `AsyncEngine`.
        replicas: URLs or `AsyncEngine`s.
        max_lag: replicas whose data is older serve no reads; a `timedelta` or seconds.
        max_wait: how long a read waits for a replica to see the caller's write before it goes to the primary.
        check_interval: how often each replica is asked how it is, and how soon one that has recovered serves again.
        check_timeout: a replica that does not answer for so long hangs: its sessions are broken off.
        session_class: the class of the plain session behind each `AsyncSession` that `write` makes.
        choose: the host's own choice among the replicas that may serve a read.
        clock: measures lag and waits; the machine's by default.
        observer: told when replicas go and come back, and of reads that went to the primary instead.

    Raises:
        InvalidArgumentError: as `ReplicaSet`.
        MissingExtraError: a driver is not installed.

    For one event loop at a time. Opens no connection before it is used; engines handed in are used, never closed.

    Examples:
        >>> import asyncio
        >>> from sqlalchemy import text
        >>> from sqlalchemy.ext.asyncio import create_async_engine
        >>> async def main() -> None:
        ...     engine = create_async_engine("sqlite+aiosqlite://")
        ...     async with AsyncReplicaSet(engine) as replicas, replicas.read() as session:
        ...         print(await session.scalar(text("SELECT 1")))
        ...     await engine.dispose()
        >>> asyncio.run(main())
        1
    """

    def __init__(
        self,
        primary: str | URL | AsyncEngine,
        replicas: Sequence[str | URL | AsyncEngine] = (),
        *,
        max_lag: Duration = 10,
        max_wait: Duration = 0.25,
        check_interval: Duration = 1.0,
        check_timeout: Duration = 1.0,
        pool_size: int | None = None,
        session_class: type[Session] = Session,
        choose: Chooser = least_loaded_of_two,
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        clock, report = clock or SYSTEM_CLOCK, reporter(observer)
        check_choices(session_class, choose)
        limits = limits_of(max_lag, max_wait, check_interval, check_timeout)
        self._is_closed = False
        self._servers = servers_of(
            primary, replicas, is_async=True, pool_size=pool_size, limits=limits, clock=clock, report=report
        )
        writer = primary if isinstance(primary, AsyncEngine) else AsyncEngine(self._servers.writer)
        self._write = async_sessionmaker(writer, sync_session_class=session_class, expire_on_commit=False)
        log = PrimaryLog(limits, clock)
        self._monitor = AsyncMonitor(*checks_of(self._servers, log, clock), limits, clock)
        self._router = Router(
            self._servers, make=_session_on, plain=lambda session: session.sync_session, pause=_pause_with(clock),
            watch=self._monitor.start, confirm=self._confirm, log=log,
            choose=choose, limits=limits, clock=clock, report=report,
        )  # fmt: skip
        for replica in self._servers.replicas:
            replica.returned = self._router.returned

    @property
    def write(self) -> async_sessionmaker[AsyncSession]:
        """Makes ordinary sessions on the primary; objects stay usable after COMMIT."""
        self._refuse_closed()
        return self._write

    def read(
        self, *, after: WriteToken | str | None = None, fresh: bool = False
    ) -> AbstractAsyncContextManager[AsyncReadOnlySession]:
        """A read-only session for an `async with` block; the server is chosen inside and stays the same to its end.

        Args:
            after: what `write_token()` returned after the write that this read must see, or its text as a client sent
                it back. Text that is no token is ignored. None: any replica within `max_lag`.
            fresh: read the primary.
        """
        self._refuse_closed()
        return _Reading(lambda: self._open(after, fresh=fresh))

    async def run(
        self,
        work: Callable[[AsyncReadOnlySession, *Ts], Awaitable[T]],
        *args: *Ts,
        after: WriteToken | str | None = None,
    ) -> T:
        """Run `await work(session, *args)` read-only; again on another server when recovery on a replica cancels it.

        Args:
            work: reads and returns; it may be called more than once, each time with a fresh session.
            args: passed to `work` after the session.
            after: as for `read`.

        Raises:
            InvalidArgumentError: `work` is no function, or a plain one.
            Exception: whatever `work` raises for another reason, or on the primary.
        """
        refuse_uncallable(work)
        self._refuse_closed()
        failed: list[Replica] = []
        while True:
            reading = _Reading(lambda: self._open(after, without=failed))
            try:
                async with reading as session:
                    result = work(session, *args)
                    refuse_plain_result(result)
                    return await result
            except Exception as error:
                if reading.replica is None or not is_worth_another_server(error):
                    raise
                failed.append(reading.replica)

    async def write_token(self) -> WriteToken | None:
        """Where the primary's log is now, as `ReplicaSet.write_token`."""
        self._refuse_closed()
        return await greenlet_spawn(self._router.token)

    def status(self) -> tuple[ReplicaStatus, ...]:
        """What is known of each replica now; asks nobody."""
        return tuple(replica.status for replica in self._servers.replicas)

    def _confirm(self, replica: Replica, timeout_seconds: float) -> None:
        await_only(self._monitor.confirm(replica, timeout_seconds))

    async def aclose(self) -> None:
        """Close the engines that were made here."""
        self._is_closed = True
        await self._monitor.stop()
        for engine in self._servers.owned:
            await AsyncEngine(engine).dispose()

    close = aclose

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.aclose()

    def _open(self, after: WriteToken | str | None, **choice: Any) -> Reading[AsyncReadOnlySession]:
        self._refuse_closed()
        return self._router.open(after, **choice)

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise ClosedError("this AsyncReplicaSet is closed: make a new one, or close it later")

    def __repr__(self) -> str:
        return f"AsyncReplicaSet({len(self._servers.replicas)} replicas)"


class _Reading(AbstractAsyncContextManager[AsyncReadOnlySession]):
    def __init__(self, open_session: Callable[[], Reading[AsyncReadOnlySession]]) -> None:
        self._open = open_session
        self._reading: Reading[AsyncReadOnlySession] | None = None

    @property
    def replica(self) -> Replica | None:
        return self._reading.replica if self._reading else None

    async def __aenter__(self) -> AsyncReadOnlySession:
        self._reading = await greenlet_spawn(self._open)
        return self._reading.session

    async def __aexit__(
        self, type_: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._reading is not None  # noqa: S101 - entered before
        try:
            await self._reading.session.__aexit__(type_, value, traceback)
        finally:
            if self._reading.replica is not None:
                self._reading.replica.leave()


def _session_on(engine: ReadOnlyEngine) -> AsyncReadOnlySession:
    return AsyncReadOnlySession(AsyncEngine(engine))


def _pause_with(clock: Clock) -> Callable[[float], None]:
    def pause(seconds: float) -> None:
        await_only(clock.async_sleep(seconds))

    return pause
