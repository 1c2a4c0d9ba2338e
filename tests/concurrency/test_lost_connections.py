"""Connections that are lost: before COMMIT the work runs again, during COMMIT it is never applied twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.orm import Session, sessionmaker

from araponga_infra.clock import Duration
from araponga_infra.concurrency import Applied, CommitInDoubt, CommitOutcomeUnknownError, VersionedSession
from araponga_infra.telemetry import Record
from araponga_infra.testing.clock import FakeClock
from tests.servers.fixtures import StartTcpProxy
from tests.servers.postgres import PostgresDatabase
from tests.servers.processes import wait_until
from tests.servers.tcp_proxy import TcpProxy

from .blog import Post, Tag, like
from .databases import AsyncDatabase, Database, SyncDatabase

pytestmark = pytest.mark.usefixtures("postgres")

_COMMIT = re.compile(rb"COMMIT(?!TED)")
Moment = Literal["before_forward", "after_forward"]


def is_commit(chunk: bytes) -> bool:
    return _COMMIT.search(chunk) is not None


def is_update(chunk: bytes) -> bool:
    return b"UPDATE post" in chunk


class Notes:
    def __init__(self) -> None:
        self.records: list[Record] = []

    def observe(self, record: Record, /) -> None:
        self.records.append(record)


@pytest.fixture
def proxy(tcp_proxy: StartTcpProxy, emptied_database: PostgresDatabase) -> TcpProxy:
    return tcp_proxy(emptied_database.server.port)


@pytest.fixture(params=["psycopg", "psycopg2", "psycopg-async", "asyncpg"])
def through_proxy(
    request: pytest.FixtureRequest, proxy: TcpProxy, emptied_database: PostgresDatabase
) -> Iterator[Database]:
    url = emptied_database.url(request.param.removesuffix("-async"), port=proxy.port)
    is_async = request.param in ("psycopg-async", "asyncpg")
    database = AsyncDatabase(request.param, url) if is_async else SyncDatabase(request.param, url)
    with database.session(Session) as run:
        run(_add_post)
    try:
        yield database
    finally:
        database.close()


def _add_post(session: Session) -> None:
    session.add(Post(id=1))
    session.commit()


@pytest.fixture
def directly(emptied_database: PostgresDatabase) -> Iterator[Callable[[], int]]:
    """The likes as the server has them."""
    database = SyncDatabase("psycopg", emptied_database.url("psycopg"))

    def likes() -> int:
        with sessionmaker(database.engine)() as session:
            return session.get_one(Post, 1).likes

    yield likes
    database.close()


def test_lost_before_commit_the_work_runs_again(
    through_proxy: Database, proxy: TcpProxy, directly: Callable[[], int]
) -> None:
    cut = proxy.cut_when(is_update, "before_forward")
    assert through_proxy.helper()(like, 1) == 1
    assert cut.happened
    assert directly() == 1


def test_lost_before_commit_every_time_ends_with_the_drivers_error(
    through_proxy: Database, proxy: TcpProxy, directly: Callable[[], int]
) -> None:
    proxy.cut_when(is_update, "before_forward", times=3)
    with pytest.raises(Exception, match=r"(?i)connection") as lost:
        through_proxy.helper(clock=FakeClock())(like, 1)
    assert type(lost.value).__module__ == "sqlalchemy.exc"
    assert directly() == 0


@pytest.mark.parametrize("moment", ["before_forward", "after_forward"])
@pytest.mark.parametrize("session_class", [Session, VersionedSession])
def test_lost_during_commit_is_said_and_not_repeated(
    through_proxy: Database,
    proxy: TcpProxy,
    directly: Callable[[], int],
    moment: Moment,
    session_class: type[Session],
) -> None:
    cut = proxy.cut_when(is_commit, moment)
    notes = Notes()
    with pytest.raises(CommitOutcomeUnknownError, match="verify") as unknown:
        through_proxy.helper(session_class, observer=notes)(like, 1)
    assert cut.happened
    assert unknown.value.attempts == 1
    assert unknown.value.__cause__ is not None
    assert notes.records == [CommitInDoubt(1, None)]
    assert directly() == (1 if moment == "after_forward" else 0)


@pytest.mark.parametrize("moment", ["before_forward", "after_forward"])
def test_verify_decides(through_proxy: Database, proxy: TcpProxy, directly: Callable[[], int], moment: Moment) -> None:
    def like_once(session: Session) -> int:
        session.add(Tag(id=77, name="this very call"))
        return like(session, 1)

    def verify(session: Session) -> Applied[int] | None:
        return Applied(session.get_one(Post, 1).likes) if session.get(Tag, 77) is not None else None

    cut = proxy.cut_when(is_commit, moment)
    notes = Notes()
    assert through_proxy.helper(verify=verify, observer=notes)(like_once) == 1
    assert cut.happened
    assert notes.records[0] == CommitInDoubt(1, moment == "after_forward")
    assert directly() == 1


class ReleasingClock(FakeClock):
    """Lets the server finish its COMMIT at the third wait."""

    def __init__(self, release: Callable[[], object]) -> None:
        super().__init__()
        self._release = release
        self.waits = 0

    def advance(self, duration: Duration) -> None:
        super().advance(duration)
        self.waits += 1
        if self.waits == 3:
            self._release()


@pytest.fixture
def slow_commit(emptied_database: PostgresDatabase) -> Iterator[Connection]:
    """A connection that holds advisory lock 42, for which every COMMIT of a new tag waits."""
    emptied_database.execute(
        "CREATE FUNCTION wait_for_42() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END'"
    )
    emptied_database.execute(
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON tag DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION wait_for_42()"
    )
    database = SyncDatabase("psycopg", emptied_database.url("psycopg"))
    with database.engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(42)"))
        connection.commit()
        yield connection
    database.close()
    emptied_database.execute("DROP FUNCTION wait_for_42 CASCADE")


def test_nobody_looks_while_the_server_is_still_committing(
    through_proxy: Database,
    proxy: TcpProxy,
    emptied_database: PostgresDatabase,
    slow_commit: Connection,
    directly: Callable[[], int],
) -> None:
    """Else `verify` would find nothing, the work would run again, and the first COMMIT would still come."""

    def cut_while_committing() -> None:
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        wait_until(lambda: emptied_database.execute(waiting) == [(1,)], 10, "the COMMIT to wait for the lock")
        proxy.reset_connections()

    def like_once(session: Session) -> int:
        session.add(Tag(id=77, name="this very call"))
        return like(session, 1)

    def verify(session: Session) -> Applied[int] | None:
        return Applied(session.get_one(Post, 1).likes) if session.get(Tag, 77) is not None else None

    def release() -> None:
        slow_commit.execute(text("SELECT pg_advisory_unlock(42)"))
        slow_commit.commit()
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        wait_until(lambda: emptied_database.execute(locks) == [(0,)], 10, "the COMMIT to finish")

    clock = ReleasingClock(release)
    with ThreadPoolExecutor(1) as pool:
        cutting = pool.submit(cut_while_committing)
        assert through_proxy.helper(verify=verify, clock=clock)(like_once) == 1
        cutting.result()
    assert clock.waits >= 3
    assert directly() == 1


def test_a_verify_that_fails_leaves_the_outcome_unknown(through_proxy: Database, proxy: TcpProxy) -> None:
    def verify(session: Session) -> Applied[int] | None:
        session.execute(text("SELECT * FROM no_such_table"))
        return None

    proxy.cut_when(is_commit, "after_forward")
    with pytest.raises(CommitOutcomeUnknownError):
        through_proxy.helper(verify=verify)(like, 1)


def test_a_server_that_stays_away_leaves_the_outcome_unknown(through_proxy: Database, proxy: TcpProxy) -> None:
    looks: list[int] = []

    def work(session: Session) -> int:
        session.flush()
        proxy.cut_when(is_commit, "after_forward")
        return like(session, 1)

    def verify(session: Session) -> Applied[int] | None:
        looks.append(1)
        session.get_one(Post, 1)
        raise AssertionError("the server is away")

    def cut_off(chunk: bytes) -> bool:
        return is_commit(chunk) or bool(looks)

    clock = FakeClock()
    looking = proxy.cut_when(cut_off, "after_forward", times=100)
    with pytest.raises(CommitOutcomeUnknownError):
        through_proxy.helper(verify=verify, clock=clock)(work)
    assert looking.happened
    assert clock.monotonic() > 3, "it looked for as long as it promises"


def test_a_session_outside_of_execute_says_so_as_well(
    through_proxy: Database, proxy: TcpProxy, directly: Callable[[], int]
) -> None:
    def by_block(session: Session) -> None:
        with session.begin():
            like(session, 1)

    def by_commit(session: Session) -> None:
        like(session, 1)
        session.commit()

    for work in (by_block, by_commit):
        proxy.cut_when(is_commit, "after_forward")
        with through_proxy.session() as run, pytest.raises(CommitOutcomeUnknownError):
            run(work)
    assert directly() == 2
