"""Which server a read-only session is opened on: written once, for sync code and for async code in a greenlet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import TextClause, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from araponga_infra.clock import Clock
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.sessions.checks import POSITION, STANDBY, PrimaryLog
from araponga_infra.sessions.engines import ReadOnlyEngine
from araponga_infra.sessions.fallback import FallbackEngine
from araponga_infra.sessions.health import Answer, Chooser, Limits, ReplicaStatus, is_candidate, needs_confirmation
from araponga_infra.sessions.records import FallbackToPrimary, TokenIgnored
from araponga_infra.sessions.replica import Replica, ReplicaUnavailableError
from araponga_infra.sessions.server import sqlstate_of
from araponga_infra.sessions.servers import Servers
from araponga_infra.sessions.session import ReadOnlySession
from araponga_infra.sessions.tokens import WriteToken, position_of, reachable
from araponga_infra.telemetry import Report

__all__ = ["Reading", "Router", "is_worth_another_server"]

S = TypeVar("S")

_CONTACT = text(STANDBY)
_POSITION = text(POSITION)
_TOKEN = text(
    "SELECT CASE WHEN current_setting('synchronous_commit') = 'off' "
    "THEN pg_current_wal_insert_lsn() ELSE pg_current_wal_flush_lsn() END::text"
)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.02
_CONFLICT_STATES = frozenset(("40001", "40P01", "57P01", "57P02", "57P03", "57P04"))


@dataclass(frozen=True)
class Reading(Generic[S]):
    """An open session and the replica it stays on; None is the primary."""

    session: S
    replica: Replica | None


def is_worth_another_server(error: BaseException) -> bool:
    """Whether a read-only unit that failed so on a replica may succeed on another server.

    Recovery cancels queries that stand in its way (40001, 40P01) or ends their connections (57P01 and on); a lost
    connection may find another server up.
    """
    if not isinstance(error, DBAPIError):
        return isinstance(error, OSError)
    return error.connection_invalidated or sqlstate_of(error.orig or error) in _CONFLICT_STATES


class Router(Generic[S]):
    """Chooses a server for each session.

    Args:
        servers: the primary, for writing and read-only, and the replicas.
        make: a session on an engine, as the shell hands it out.
        plain: the plain session behind it.
        pause: wait so many seconds, in the shell's way.
        watch: start the checks of the servers, if they do not run yet.
        confirm: have a replica asked now, and wait at most so many seconds for its answer.
    """

    def __init__(
        self,
        servers: Servers,
        *,
        make: Callable[[ReadOnlyEngine], S],
        plain: Callable[[S], ReadOnlySession],
        pause: Callable[[float], None],
        watch: Callable[[], None],
        confirm: Callable[[Replica, float], None],
        log: PrimaryLog,
        choose: Chooser,
        limits: Limits,
        clock: Clock,
        report: Report | None,
    ) -> None:
        self._primary = servers.primary
        self._asked_for_tokens = servers.writer.execution_options(isolation_level="AUTOCOMMIT")
        self._has_tokens = servers.writer.dialect.name == "postgresql"
        self._replicas = {replica.status.replica: replica for replica in servers.replicas}
        self._make = make
        self._plain = plain
        self._pause = pause
        self._watch = watch
        self._confirm = confirm
        self._log = log
        self._choose = choose
        self._limits = limits
        self._clock = clock
        self._report = report
        self._has_fallen_back = self._should_recycle = False

    # Tokens

    def token(self) -> WriteToken | None:
        return WriteToken(self._ask_primary(_TOKEN)) if self._has_tokens else None

    def _ask_primary(self, question: TextClause) -> int:
        with self._asked_for_tokens.connect() as connection:
            position = reachable(position_of(str(connection.scalar(question))))
        self._log.seen(position)
        return position

    def _wanted(self, after: WriteToken | str | None) -> int:
        """The position a read wants to see; what a client made up or garbled wants nothing."""
        if after is None or not self._has_tokens:
            return 0
        if isinstance(after, WriteToken):
            return after.position
        if not isinstance(after, str):
            raise InvalidArgumentError(
                f"after is a {type(after).__name__}: pass what write_token() returned, its text, or None"
            )
        try:
            return position_of(after)
        except ValueError:
            self._ignore_token("malformed")
            return 0

    def _ignore_token(self, reason: str) -> None:
        if self._report is not None:
            self._report(TokenIgnored(reason))

    # Sessions

    def open(
        self, after: WriteToken | str | None = None, *, fresh: bool = False, without: Sequence[Replica] = ()
    ) -> Reading[S]:
        """A session on a server that has seen `after`; the primary when no replica can serve it in time."""
        if fresh or not self._replicas:
            return Reading(self._make(self._primary), None)
        self._watch()
        if self._should_recycle:
            self._recycle()
        started = self._clock.monotonic()
        wanted = self._wanted(after)
        deadline = started + self._limits.max_wait_seconds
        tried = {replica.status.replica for replica in without}
        while candidates := self._candidates(tried, wanted):
            replica = self._replicas[self._choose(candidates).replica]
            tried.add(replica.status.replica)
            if self._is_confirmed(replica, deadline):
                session = self._open_on(replica, wanted, deadline)
                if session is not None:
                    return Reading(session, replica)
        return self._fall_back(wanted, started)

    def _fall_back(self, wanted: int, started: float) -> Reading[S]:
        self._has_fallen_back = True
        if self._report is not None:
            reason = "no replica has seen the write in time" if wanted else "no replica is available"
            self._report(FallbackToPrimary(reason, self._clock.monotonic() - started))
        return Reading(self._make(self._primary), None)

    def returned(self) -> None:
        """A replica is back: what was opened on the primary in its place is closed with the next read."""
        self._should_recycle, self._has_fallen_back = self._has_fallen_back, False

    def _recycle(self) -> None:
        self._should_recycle = False
        if isinstance(self._primary, FallbackEngine):
            self._primary.recycle()

    def _candidates(self, tried: set[str], wanted: int) -> list[ReplicaStatus]:
        """Those that may serve; preferably those that have seen the write, and of these those just heard of."""
        left = [replica.status for name, replica in self._replicas.items() if name not in tried]
        left = [status for status in left if is_candidate(status)]
        left = [status for status in left if status.position >= wanted] or left
        now = self._clock.monotonic()
        return [status for status in left if not needs_confirmation(status, now)] or left

    def _is_confirmed(self, replica: Replica, deadline: float) -> bool:
        now = self._clock.monotonic()
        if needs_confirmation(replica.status, now):
            self._confirm(replica, deadline - now)
        status = replica.status
        return status.is_available and not needs_confirmation(status, self._clock.monotonic())

    def _open_on(self, replica: Replica, wanted: int, deadline: float) -> S | None:
        session = self._make(replica.engine)
        plain = self._plain(session)
        replica.enter()
        is_open = False
        try:
            plain.connection()
            is_open = self._has_reached(plain, replica, wanted, deadline)
        except (ReplicaUnavailableError, PoolTimeoutError):
            pass  # taken out meanwhile, or full
        except Exception as error:
            replica.failed(f"unreachable: {type(error).__name__}")
            replica.wake()
        finally:
            if not is_open:
                replica.leave()
                plain.close()
        return session if is_open else None

    def _has_reached(self, session: ReadOnlySession, replica: Replica, wanted: int, deadline: float) -> bool:
        if replica.status.position >= wanted:
            return True
        pause = _FIRST_PAUSE
        is_plausible = False
        while True:
            answer = self._contact(session)
            replica.answered(answer)
            if not answer.is_standby:
                return False
            if answer.position >= wanted or not (is_plausible or self._is_plausible(wanted)):
                return True
            is_plausible = True
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return False
            self._pause(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _contact(self, session: ReadOnlySession) -> Answer:
        is_standby, position, isolation = session.execute(_CONTACT).one()
        if isolation != "read committed":
            # Its snapshot was taken by the question, and may be older than the answer.
            cast(Any, session.connection()).pooled.rollback()
        return Answer(is_standby, position_of(position) if position else 0)

    def _is_plausible(self, wanted: int) -> bool:
        """What the primary has not reached either is forged, or from before a restore: nobody waits for it."""
        if wanted <= self._log.history.newest or wanted <= self._ask_primary(_POSITION):
            return True
        self._ignore_token("ahead of the primary")
        return False
