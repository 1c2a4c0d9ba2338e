"""A primary and its replicas: one place to write, several to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple

from sqlalchemy import URL, Engine
from sqlalchemy.orm import Session, sessionmaker

from araponga_infra.clock import SYSTEM_CLOCK, Clock, Duration
from araponga_infra.errors import ClosedError
from araponga_infra.sessions.checks import PrimaryLog, checks_of
from araponga_infra.sessions.health import Chooser, ReplicaStatus, least_loaded_of_two, limits_of
from araponga_infra.sessions.monitor import Monitor
from araponga_infra.sessions.replica import Replica
from araponga_infra.sessions.router import Reading, Router, is_worth_another_server
from araponga_infra.sessions.servers import check_choices, servers_of
from araponga_infra.sessions.session import ReadOnlySession
from araponga_infra.sessions.tokens import WriteToken
from araponga_infra.sessions.work import refuse_awaitable, refuse_uncallable
from araponga_infra.telemetry import Observer, reporter

__all__ = ["ReplicaSet"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class ReplicaSet:
    """Sessions that write on the primary, and read-only sessions on replicas that are fit to serve them.

    Args:
        primary: a URL or an engine. A URL makes two engines of our own, one that writes and one that cannot.
        replicas: URLs or engines of streaming standbys; none means that reads go to the primary, read-only.
        max_lag: replicas whose data is older serve no reads; a `timedelta` or seconds.
        max_wait: how long a read waits for a replica to see the caller's write before it goes to the primary.
        check_interval: how often each replica is asked how it is, and how soon one that has recovered serves again.
        check_timeout: a replica that does not answer for so long hangs: its sessions are broken off.
        pool_size: how many connections each engine made from a URL opens at most; None: 5 and 10 more under load.
        session_class: the class of the sessions that `write` makes.
        choose: the host's own choice among the replicas that may serve a read.
        clock: measures lag and waits; the machine's by default.
        observer: told when replicas go and come back, and of reads that went to the primary instead.

    Raises:
        InvalidArgumentError: a malformed URL, an engine of the wrong kind, a negative duration, or replicas of another
            kind of database than the primary.
        MissingExtraError: a driver is not installed.
        ClosedError: used after `close()`.

    Thread-safe. Opens no connection before it is used. Engines handed in are used, never closed.

    Examples:
        >>> from sqlalchemy import create_engine, text
        >>> with ReplicaSet(create_engine("sqlite://")) as replicas, replicas.read() as session:
        ...     session.scalar(text("SELECT 1"))
        1
    """

    def __init__(
        self,
        primary: str | URL | Engine,
        replicas: Sequence[str | URL | Engine] = (),
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
            primary, replicas, is_async=False, pool_size=pool_size, limits=limits, clock=clock, report=report
        )
        self._write = sessionmaker(self._servers.writer, class_=session_class, expire_on_commit=False)
        log = PrimaryLog(limits, clock)
        self._monitor = Monitor(*checks_of(self._servers, log, clock), limits, clock)
        self._router = Router(
            self._servers, make=ReadOnlySession, plain=lambda session: session, pause=clock.sleep,
            watch=self._monitor.start, confirm=self._monitor.confirm, log=log,
            choose=choose, limits=limits, clock=clock, report=report,
        )  # fmt: skip
        for replica in self._servers.replicas:
            replica.returned = self._router.returned

    @property
    def write(self) -> sessionmaker[Session]:
        """Makes ordinary sessions on the primary; objects stay usable after COMMIT."""
        self._refuse_closed()
        return self._write

    def read(
        self, *, after: WriteToken | str | None = None, fresh: bool = False
    ) -> AbstractContextManager[ReadOnlySession]:
        """A read-only session for a `with` block; the server is chosen inside and stays the same to its end.

        Args:
            after: what `write_token()` returned after the write that this read must see, or its text as a client sent
                it back. Text that is no token is ignored. None: any replica within `max_lag`.
            fresh: read the primary.
        """
        self._refuse_closed()
        return _Reading(lambda: self._open(after, fresh=fresh))

    def run(
        self,
        work: Callable[[ReadOnlySession, *Ts], T],
        *args: *Ts,
        after: WriteToken | str | None = None,
    ) -> T:
        """Run `work(session, *args)` read-only; again on another server when recovery on a replica cancels it.

        Args:
            work: reads and returns; it may be called more than once, each time with a fresh session.
            args: passed to `work` after the session.
            after: as for `read`.

        Raises:
            InvalidArgumentError: `work` is no function, or an async one, which nobody here would await.
            Exception: whatever `work` raises for another reason, or on the primary.
        """
        refuse_uncallable(work)
        self._refuse_closed()
        failed: list[Replica] = []
        while True:
            reading = _Reading(lambda: self._open(after, without=failed))
            try:
                with reading as session:
                    result = work(session, *args)
                    refuse_awaitable(result)
                    return result
            except Exception as error:
                if reading.replica is None or not is_worth_another_server(error):
                    raise
                failed.append(reading.replica)

    def write_token(self) -> WriteToken | None:
        """Where the primary's log is now; taken any moment after a COMMIT, it stands for that write. One round trip.

        Returns:
            None where there is no log to compare: SQLite, MySQL, MariaDB.
        """
        self._refuse_closed()
        return self._router.token()

    def status(self) -> tuple[ReplicaStatus, ...]:
        """What is known of each replica now; asks nobody."""
        return tuple(replica.status for replica in self._servers.replicas)

    def close(self) -> None:
        """Close the engines that were made here."""
        self._is_closed = True
        self._monitor.stop()
        for engine in self._servers.owned:
            engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _open(self, after: WriteToken | str | None, **choice: Any) -> Reading[ReadOnlySession]:
        self._refuse_closed()
        return self._router.open(after, **choice)

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise ClosedError("this ReplicaSet is closed: make a new one, or close it later")

    def __repr__(self) -> str:
        return f"ReplicaSet({len(self._servers.replicas)} replicas)"


class _Reading(AbstractContextManager[ReadOnlySession]):
    def __init__(self, open_session: Callable[[], Reading[ReadOnlySession]]) -> None:
        self._open = open_session
        self._reading: Reading[ReadOnlySession] | None = None

    @property
    def replica(self) -> Replica | None:
        return self._reading.replica if self._reading else None

    def __enter__(self) -> ReadOnlySession:
        self._reading = self._open()
        return self._reading.session

    def __exit__(
        self, type_: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._reading is not None  # noqa: S101 - entered before
        try:
            self._reading.session.__exit__(type_, value, traceback)
        finally:
            if self._reading.replica is not None:
                self._reading.replica.leave()
