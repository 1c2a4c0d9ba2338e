"""Where reads go: to a replica that has seen the write, else to the primary, always read-only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from araponga_infra import InvalidArgumentError
from araponga_infra.sessions import (
    AsyncReplicaSet,
    FallbackToPrimary,
    ReadOnlySession,
    ReadOnlyViolationError,
    ReplicaSet,
    ReplicaStatus,
    TokenIgnored,
    WriteToken,
)  # fmt: skip
from araponga_infra.telemetry import Record
from tests.servers.fixtures import ReplicatedDatabase
from tests.servers.postgres_cluster import PostgresCluster
from tests.sessions import rigs
from tests.sessions.rigs import Post

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class Seen:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def observe(self, record: Record, /) -> None:
        self.records.append(record)

    def of(self, kind: type[T]) -> list[T]:
        return [record for record in self.records if isinstance(record, kind)]


class Replicas(Protocol):
    """Both replica sets behind one face, so that each promise is tested on both."""

    async def write(self, work: Callable[[Session], T]) -> T: ...
    async def read(self, work: Callable[[Session], T], **options: Any) -> T: ...
    async def run(self, work: Callable[..., T], *args: Any, **options: Any) -> T: ...
    async def token(self) -> WriteToken | None: ...
    async def close(self) -> None: ...


class SyncReplicas:
    def __init__(self, primary: Any, replicas: Any, **options: Any) -> None:
        self.set = ReplicaSet(primary, replicas, **options)

    async def write(self, work: Callable[[Session], T]) -> T:
        with self.set.write.begin() as session:
            return work(session)

    async def read(self, work: Callable[[Session], T], **options: Any) -> T:
        with self.set.read(**options) as session:
            return work(session)

    async def run(self, work: Callable[..., T], *args: Any, **options: Any) -> T:
        return self.set.run(work, *args, **options)

    async def token(self) -> WriteToken | None:
        return self.set.write_token()

    async def close(self) -> None:
        self.set.close()


class AsyncReplicas:
    def __init__(self, primary: Any, replicas: Any, **options: Any) -> None:
        self.set = AsyncReplicaSet(primary, replicas, **options)

    async def write(self, work: Callable[[Session], T]) -> T:
        async with self.set.write.begin() as session:
            return await session.run_sync(work)

    async def read(self, work: Callable[[Session], T], **options: Any) -> T:
        async with self.set.read(**options) as session:
            return await session.run_sync(work)

    async def run(self, work: Callable[..., T], *args: Any, **options: Any) -> T:
        async def unit(session: Any, *given: Any) -> T:
            result: T = await session.run_sync(work, *given)
            return result

        return await self.set.run(unit, *args, **options)

    async def token(self) -> WriteToken | None:
        return await self.set.write_token()

    async def close(self) -> None:
        await self.set.aclose()


KINDS: dict[str, tuple[Any, str]] = {
    "psycopg": (SyncReplicas, "psycopg"),
    "async psycopg": (AsyncReplicas, "psycopg"),
    "asyncpg": (AsyncReplicas, "asyncpg"),
}
Make = Callable[..., Any]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[Any, str]:
    return KINDS[request.param]


@pytest.fixture
async def make(replicated_database: ReplicatedDatabase, kind: Any) -> AsyncIterator[Make]:
    """Makes replica sets on the pair, with a table of posts on it."""
    face, driver = kind
    made: list[Replicas] = []

    def make(**options: Any) -> Replicas:
        primary = options.pop("primary", replicated_database.primary.url(driver))
        standby = options.pop("replicas", [replicated_database.standby.url(driver)])
        made.append(face(primary, standby, **options))
        return made[-1]

    replicated_database.primary.execute("CREATE TABLE post (id int PRIMARY KEY, title text)")
    replicated_database.primary.execute("INSERT INTO post VALUES (1, '0')")
    yield make
    for replicas in made:
        await replicas.close()


def is_standby(session: Session) -> bool:
    return bool(session.scalar(text("SELECT pg_is_in_recovery()")))


def title(session: Session) -> str:
    return session.scalars(select(Post.title).where(Post.id == 1)).one()


def retitle(new: str) -> Callable[[Session], None]:
    def work(session: Session) -> None:
        session.execute(text("UPDATE post SET title = :new WHERE id = 1"), {"new": new})

    return work


def add_post(new: str) -> Callable[[Session], None]:
    def work(session: Session) -> None:
        session.add(Post(id=1, title=new))

    return work


async def test_a_read_with_a_token_sees_the_write_on_the_standby(make: Make) -> None:
    replicas = make(max_wait=10)
    for number in range(30):
        await replicas.write(retitle(str(number)))
        token = await replicas.token()
        assert await replicas.read(lambda s: (title(s), is_standby(s)), after=str(token)) == (str(number), True)


async def test_reads_on_every_server_are_read_only(make: Make) -> None:
    replicas = make()
    for options in ({}, {"fresh": True}):
        with pytest.raises(ReadOnlyViolationError):
            await replicas.read(retitle("stray"), **options)
    assert await replicas.read(title, fresh=True) == "0"


async def test_fresh_reads_the_primary(make: Make) -> None:
    replicas = make()
    assert await replicas.read(is_standby)
    assert not await replicas.read(is_standby, fresh=True)


async def test_a_standby_that_does_not_catch_up_in_time_is_passed_over(
    make: Make, postgres_pair: PostgresCluster
) -> None:
    seen = Seen()
    replicas = make(max_wait=0.1, observer=seen)
    postgres_pair.standby.pause_replay()
    await replicas.write(retitle("now"))
    token = await replicas.token()
    assert await replicas.read(lambda s: (title(s), is_standby(s)), after=token) == ("now", False)
    assert [record.waited_seconds >= 0.1 for record in seen.of(FallbackToPrimary)] == [True]


@pytest.mark.parametrize("forged", ["", "x", "1/2/3", "1/2' OR 1=1", "0/" + "F" * 40, "\0", "FFFFFFFF/FFFFFFFF"])
async def test_a_token_that_is_none_is_ignored_and_observed(make: Make, forged: str) -> None:
    seen = Seen()
    replicas = make(max_wait=30, observer=seen)
    assert await replicas.read(is_standby, after=forged)
    assert len(seen.of(TokenIgnored)) == 1


async def test_the_primary_serves_while_the_standby_is_down(
    make: Make, replicated_database: ReplicatedDatabase
) -> None:
    replicas = make()
    assert await replicas.read(is_standby)
    replicated_database.standby.server.stop()
    with suppress(DBAPIError):  # the session whose connection notices
        await replicas.read(is_standby)
    for _ in range(5):
        assert not await replicas.read(is_standby)
        with pytest.raises(ReadOnlyViolationError):
            await replicas.read(retitle("stray"))


async def test_a_ping_that_hangs_is_broken_off_as_well(
    kind: Any, replicated_database: ReplicatedDatabase, postgres_pair: PostgresCluster
) -> None:
    face, driver = kind
    is_sync = face is SyncReplicas
    new_engine: Any = create_engine if is_sync else create_async_engine
    patience = {"timeout" if driver == "asyncpg" else "connect_timeout": 2}
    engine = new_engine(replicated_database.standby.url(driver), pool_pre_ping=True, connect_args=patience)
    replicas = face(replicated_database.primary.url(driver), [engine], max_wait=5)
    assert await replicas.read(is_standby)
    postgres_pair.standby.pause()

    async def read() -> bool:
        return bool(await (asyncio.to_thread(replicas.set.run, is_standby) if is_sync else replicas.run(is_standby)))

    reading = asyncio.ensure_future(read())
    done, _ = await asyncio.wait({reading}, timeout=15)
    postgres_pair.standby.resume()
    assert done
    assert not await reading
    await replicas.close()
    if is_sync:
        engine.dispose()
    else:
        await engine.dispose()


async def test_run_moves_to_another_server_when_recovery_cancels_the_read(
    make: Make, replicated_database: ReplicatedDatabase
) -> None:
    replicas = make()
    attempts = []

    def conflict(session: Session, argument: str) -> str:
        attempts.append(is_standby(session))
        if attempts[-1]:
            replicated_database.standby.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid()"
            )
            session.execute(text("SELECT 1"))
        return argument

    assert await replicas.run(conflict, "argument") == "argument"
    assert attempts == [True, False]


def host_list(database: ReplicatedDatabase, driver: str, *, attributes: str) -> str:
    """Both servers in one URL, the standby first."""
    url, port = database.primary.url(driver), database.primary.server.port
    several = f"127.0.0.1:{database.standby.server.port},127.0.0.1:{port}"
    address = url.split("@")[1].split("/")[0]
    return f"{url.replace(address, several)}?target_session_attrs={attributes}"


async def test_a_url_of_several_hosts_is_several_replicas(
    make: Make, kind: Any, replicated_database: ReplicatedDatabase
) -> None:
    driver = kind[1]
    replicas = make(
        primary=host_list(replicated_database, driver, attributes="read-write"),
        replicas=[host_list(replicated_database, driver, attributes="prefer-standby")],
        max_wait=5,
    )
    assert len(replicas.set.status()) == 2
    await replicas.write(retitle("new"))
    token = await replicas.token()
    assert await replicas.read(lambda s: (title(s), is_standby(s)), after=token) == ("new", True)
    assert await replicas.read(lambda s: (title(s), is_standby(s)), fresh=True) == ("new", False)
    reasons = [status.reason for status in replicas.set.status() if not status.is_available]
    assert all("promoted" in reason or "not asked" in reason for reason in reasons)


async def test_recovery_that_cancels_a_read_moves_the_unit_to_another_server(
    make: Make, replicated_database: ReplicatedDatabase, postgres_pair: PostgresCluster
) -> None:
    replicas = make(max_wait=5)
    standby = postgres_pair.standby
    standby.execute("ALTER SYSTEM SET max_standby_streaming_delay = '10ms'")
    standby.execute("SELECT pg_reload_conf()")
    where: list[bool] = []

    def work(session: Session) -> str:
        where.append(is_standby(session))
        if where[-1]:
            session.execute(text("DECLARE slow CURSOR FOR SELECT * FROM post"))
            session.execute(text("FETCH 1 FROM slow"))
            replicated_database.primary.execute("TRUNCATE post")
            replicated_database.primary.execute("INSERT INTO post VALUES (1, 'after')")
            session.execute(text("SELECT pg_sleep(20)"))
        return title(session)

    assert await replicas.run(work) == "after"
    assert where == [True, False]


async def test_a_promoted_replica_serves_no_reads(make: Make, postgres_pair: PostgresCluster) -> None:
    replicas = make(check_interval=0.2, max_wait=5)
    assert await replicas.read(is_standby)
    postgres_pair.promote()
    await until(lambda: "promoted" in replicas.set.status()[0].reason)
    for _ in range(5):
        assert not await replicas.read(is_standby)


async def test_a_lagging_replica_is_out_until_it_has_caught_up(make: Make, postgres_pair: PostgresCluster) -> None:
    replicas = make(check_interval=0.1, max_lag=0.3, max_wait=5)
    assert await replicas.read(is_standby)
    postgres_pair.standby.pause_replay()
    await replicas.write(retitle("unseen"))
    await until(lambda: replicas.set.status()[0].reason == "lagging")
    assert not await replicas.read(is_standby)
    postgres_pair.standby.resume_replay()
    await until(lambda: replicas.set.status()[0].is_available)
    assert await replicas.read(is_standby)


async def test_an_idle_pair_does_not_lag(make: Make) -> None:
    replicas = make(check_interval=0.05, max_lag=1, max_wait=5)
    assert await replicas.read(is_standby)
    for _ in range(30):
        await asyncio.sleep(0.05)
        assert await replicas.read(is_standby)


async def test_connections_to_the_primary_are_let_go_when_the_replica_is_back(
    make: Make, replicated_database: ReplicatedDatabase, postgres_pair: PostgresCluster
) -> None:
    replicas = make(check_interval=0.1, max_wait=5)
    postgres_pair.standby.stop()
    assert not await replicas.read(is_standby)
    await until(lambda: connections(replicated_database) == 2)  # the read's, and that of the checks
    postgres_pair.standby.start()
    await until(lambda: replicas.set.status()[0].is_available)
    assert await replicas.read(is_standby)
    while connections(replicated_database) > 1:  # closed by the first read after the news, which may be the next one
        assert await replicas.read(is_standby)


def connections(database: ReplicatedDatabase) -> int:
    (row,) = database.primary.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    return int(row[0])


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen in 30 seconds")


async def test_the_hosts_own_choice_is_asked(make: Make, replicated_database: ReplicatedDatabase, kind: Any) -> None:
    standby = replicated_database.standby.url(kind[1])
    asked: list[list[str]] = []

    def choose(candidates: Sequence[ReplicaStatus]) -> ReplicaStatus:
        asked.append([candidate.replica for candidate in candidates])
        return candidates[-1]

    replicas = make(replicas=[standby, standby], choose=choose, max_wait=5, check_interval=0.05)
    for _ in range(100):
        assert await replicas.read(is_standby)
        if len(asked[-1]) == 2:
            return
    raise AssertionError("it was never asked to choose between two")


async def test_run_leaves_other_errors_alone(make: Make) -> None:
    replicas = make()

    def work(session: Session) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await replicas.run(work)


async def test_without_replicas_the_primary_is_read(make: Make) -> None:
    replicas = make(replicas=())
    assert not await replicas.read(is_standby)
    with pytest.raises(ReadOnlyViolationError):
        await replicas.read(retitle("stray"))


@pytest.mark.parametrize("face", [SyncReplicas, AsyncReplicas])
async def test_embedded_on_one_sqlite_file(face: Any, tmp_path: Path) -> None:
    replicas = face(f"sqlite:///{tmp_path / 'one.db'}", ())
    await replicas.write(lambda s: rigs.Base.metadata.create_all(s.connection()))
    await replicas.write(add_post("new"))
    token = await replicas.token()
    assert token is None
    assert await replicas.read(title, after=token) == "new"
    with pytest.raises(ReadOnlyViolationError):
        await replicas.read(retitle("stray"))
    await replicas.close()


@pytest.mark.parametrize("face", [SyncReplicas, AsyncReplicas])
async def test_a_second_sqlite_file_serves_the_reads(face: Any, tmp_path: Path) -> None:
    for name, content in (("one", "written"), ("two", "copied")):
        single = SyncReplicas(f"sqlite:///{tmp_path / name}", ())
        await single.write(lambda s: rigs.Base.metadata.create_all(s.connection()))
        await single.write(add_post(content))
        await single.close()
    replicas = face(f"sqlite:///{tmp_path / 'one'}", [f"sqlite:///{tmp_path / 'two'}"])
    assert await replicas.read(title) == "copied"
    assert await replicas.read(title, fresh=True) == "written"
    await replicas.close()


async def test_engines_of_the_host_are_used_and_left_open(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'one.db'}")
    with ReplicaSet(engine, [engine]) as replicas:
        rigs.Base.metadata.create_all(engine)
        with replicas.write.begin() as session:
            session.add(Post(id=1, title="new"))
        with replicas.read() as reading:
            assert isinstance(reading, ReadOnlySession)
            assert title(reading) == "new"
    with Session(engine) as session:
        assert title(session) == "new"
    assert engine.pool.checkedin() == 1  # type: ignore[attr-defined]
    engine.dispose()


async def test_the_session_class_of_write_is_the_hosts_choice(tmp_path: Path) -> None:
    class Own(Session): ...

    with ReplicaSet("sqlite://", session_class=Own) as replicas, replicas.write() as session:
        assert isinstance(session, Own)
    async with AsyncReplicaSet("sqlite://", session_class=Own) as others, others.write() as asynchronous:
        assert isinstance(asynchronous.sync_session, Own)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"primary": "no url"}, "primary"),
        ({"primary": 7}, "primary"),
        ({"primary": "sqlite://", "replicas": "sqlite://"}, "replicas"),
        ({"primary": "sqlite://", "replicas": ["postgresql://localhost/x"]}, r"replicas\[0\]"),
        ({"primary": "sqlite://", "replicas": ["sqlite://"]}, r"replicas\[0\]"),
        ({"primary": "sqlite://", "max_wait": -1}, "max_wait"),
        ({"primary": "sqlite://", "replicas": None}, "replicas"),
        ({"primary": "sqlite://", "session_class": 3}, "session_class"),
        ({"primary": "sqlite://", "session_class": int}, "session_class"),
        ({"primary": "sqlite://", "choose": 3}, "choose"),
        ({"primary": "sqlite://", "max_lag": "1"}, "max_lag"),
        ({"primary": "sqlite://", "check_interval": 0}, "check_interval"),
    ],
)
@pytest.mark.parametrize("kind_of_set", [ReplicaSet, AsyncReplicaSet])
def test_bad_arguments_are_named(kind_of_set: Any, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgumentError, match=named):
        kind_of_set(**arguments)


def test_engines_of_the_other_kind_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="AsyncReplicaSet"):
        AsyncReplicaSet(create_engine("sqlite://"))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="ReplicaSet"):
        ReplicaSet(create_async_engine("sqlite+aiosqlite://"))  # type: ignore[arg-type]


def test_no_password_is_shown() -> None:
    replicas = ReplicaSet("postgresql://u:secret@primary/x", ["postgresql://u:secret@replica:5433/x"])
    assert "secret" not in f"{replicas!r} {replicas.status()!r}"
    assert replicas.status()[0].replica == "replica 1 (replica:5433)"
