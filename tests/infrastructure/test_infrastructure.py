"""The wiring: what opens when, what closes, what a fork inherits, what is refused."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from araponga_infra import (
    AsyncInfrastructure,
    ClosedError,
    EventRouter,
    InfraSettings,
    Infrastructure,
    InvalidArgumentError,
    NotConfiguredError,
    PartState,
    ReadOnlyViolationError,
    SessionMismatchError,
)
from araponga_infra.events.processor import Phase
from tests.infrastructure.blog import (
    Base,
    Note,
    Post,
    Published,
    async_note_router,
    async_publish,
    note_router,
    publish,
    settings_for,
)
from tests.servers import PostgresDatabase, PostgresServer, RedisServer, wait_until
from tests.servers.fixtures import ReplicatedDatabase, StartRedis, StartTcpProxy


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    database: PostgresDatabase = request.getfixturevalue("postgres_database")
    return database.url()


@pytest.fixture
def infra(database_url: str, redis_url: str) -> Iterator[Infrastructure]:
    settings = settings_for(database_url, redis_url=redis_url)
    with Infrastructure(settings, routers=[note_router()], consume=False) as infra:
        Base.metadata.create_all(infra.engine)
        yield infra


def test_the_four_parts_work_together(infra: Infrastructure) -> None:
    post = publish(infra, "Feira")

    def rename(session: Session) -> Post:
        renamed = session.get_one(Post, post.id)
        renamed.title = "Feira de trocas"
        return renamed

    assert infra.concurrency.execute(rename).row_version == 2
    assert infra.events.run_until_idle().completed == 1
    with infra.read() as session:
        assert session.scalar(select(func.count(Note.id))) == 1
        session.add(Note(post_id=1))
        with pytest.raises(ReadOnlyViolationError):
            session.commit()
    assert infra.cache.get_or_set("answer", lambda: 42) == 42
    assert infra.cache.exists("answer")


@pytest.mark.anyio
async def test_the_four_parts_work_together_async(database_url: str, redis_url: str) -> None:
    settings = settings_for(database_url, redis_url=redis_url)
    async with AsyncInfrastructure(settings, routers=[async_note_router()], consume=False) as infra:
        async with infra.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        post = await async_publish(infra, "Feira")

        async def rename(session: AsyncSession) -> Post:
            renamed = await session.get_one(Post, post.id)
            renamed.title = "Feira de trocas"
            return renamed

        assert (await infra.concurrency.execute(rename)).row_version == 2
        assert (await infra.events.run_until_idle()).completed == 1
        async with infra.read() as session:
            assert await session.scalar(select(func.count(Note.id))) == 1
            session.add(Note(post_id=1))
            with pytest.raises(ReadOnlyViolationError):
                await session.commit()

        async def answer() -> int:
            return 42

        assert await infra.cache.get_or_set("answer", answer) == 42
        assert await infra.cache.exists("answer")


def test_a_rollback_publishes_nothing(infra: Infrastructure) -> None:
    with suppress(ZeroDivisionError), infra.write() as session:
        infra.events.publish_in(session, Published(1))
        raise ZeroDivisionError
    assert infra.events.run_until_idle().completed == 0


def test_a_consuming_process_handles_in_the_background(database_url: str) -> None:
    handled, threads = threading.Event(), threading.active_count()
    router = note_router()

    @router.subscribe(Published)
    def tell(published: Published) -> None:
        handled.set()

    with Infrastructure(settings_for(database_url), routers=[router]) as infra:
        Base.metadata.create_all(infra.engine)
        publish(infra, "Feira")
        assert handled.wait(30)
    wait_until(lambda: threading.active_count() == threads, 10, "the processor's threads to end")


def test_a_handler_that_runs_while_it_closes_still_has_every_part(database_url: str) -> None:
    begun, used = threading.Event(), list[object]()
    router = EventRouter()

    @router.subscribe(Published)
    def use(published: Published) -> None:
        begun.set()
        wait_until(lambda: processor._phase is Phase.STOPPING, 30, "the close")
        with infra.read(fresh=True) as session:
            used.append(session.get_one(Post, published.post_id).title)
        infra.cache.set("title", "Feira")
        used.append(infra.cache.get("title"))

    with Infrastructure(settings_for(database_url), routers=[router]) as infra:
        Base.metadata.create_all(infra.engine)
        processor = infra.events
        infra.cache.clear()
        publish(infra, "Feira")
        assert begun.wait(30)
    assert used == ["Feira", "Feira"]
    with pytest.raises(ClosedError):
        _ = infra.cache


@pytest.mark.anyio
async def test_a_handler_that_runs_while_it_closes_still_has_every_part_async(database_url: str) -> None:
    begun, used = asyncio.Event(), list[object]()
    router = EventRouter()

    @router.subscribe(Published)
    async def use(published: Published) -> None:
        begun.set()
        await asyncio.to_thread(wait_until, lambda: processor._phase is Phase.STOPPING, 30, "the close")
        async with infra.read(fresh=True) as session:
            used.append((await session.get_one(Post, published.post_id)).title)
        await infra.cache.set("title", "Feira")
        used.append(await infra.cache.get("title"))

    async with AsyncInfrastructure(settings_for(database_url), routers=[router]) as infra:
        async with infra.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        processor = infra.events
        await infra.cache.clear()
        await async_publish(infra, "Feira")
        async with asyncio.timeout(30):
            await begun.wait()
    assert used == ["Feira", "Feira"]
    with pytest.raises(ClosedError):
        _ = infra.cache


def test_embedded_is_said_once_and_gone_at_close(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "araponga_infra.infrastructure"):
        with Infrastructure(InfraSettings.embedded()) as infra:
            assert caplog.messages == []
            folder = Path(str(infra.engine.url.database)).parent
            with infra.write() as session:
                session.execute(text("CREATE TABLE t (id INTEGER)"))
            assert folder.exists()
        [message] = caplog.messages
    assert str(folder) in message
    assert not folder.exists()


@pytest.mark.anyio
async def test_embedded_is_gone_at_close_async() -> None:
    async with AsyncInfrastructure(InfraSettings.embedded()) as infra:
        folder = Path(str(infra.engine.url.database)).parent
        assert folder.exists()
    assert not folder.exists()


def test_without_a_database_the_cache_works_and_the_rest_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARAPONGA_DATABASE_URL", raising=False)
    with Infrastructure.from_env() as infra:
        infra.cache.set("key", 1)
        assert infra.cache.get("key") == 1
        with pytest.raises(NotConfiguredError, match="ARAPONGA_DATABASE_URL"):
            _ = infra.engine
        with pytest.raises(NotConfiguredError, match="ARAPONGA_DATABASE_URL"):
            _ = infra.events
        with pytest.raises(NotConfiguredError, match="ARAPONGA_DATABASE_URL"):
            infra.write()
        assert infra.health().ready
    with pytest.raises(NotConfiguredError), Infrastructure(InfraSettings(), routers=[note_router()]):
        raise AssertionError("entered without a database")


@pytest.mark.anyio
async def test_without_a_database_async() -> None:
    async with AsyncInfrastructure(InfraSettings()) as infra:
        await infra.cache.set("key", 1)
        assert await infra.cache.get("key") == 1
        with pytest.raises(NotConfiguredError, match="ARAPONGA_DATABASE_URL"):
            _ = infra.events
        with pytest.raises(NotConfiguredError, match="ARAPONGA_DATABASE_URL"):
            infra.read()


def test_a_process_that_names_nothing_opens_nothing(tmp_path: Path) -> None:
    file = tmp_path / "never.db"
    with Infrastructure(InfraSettings(f"sqlite:///{file}")):
        pass
    assert not file.exists()


def test_what_is_closed_says_so() -> None:
    infra = Infrastructure(InfraSettings.embedded())
    infra.close()
    infra.close()
    with pytest.raises(ClosedError, match="make a new one"):
        _ = infra.cache


@pytest.mark.anyio
async def test_outside_async_with_it_says_so() -> None:
    infra = AsyncInfrastructure(InfraSettings.embedded())
    with pytest.raises(ClosedError, match="async with"):
        _ = infra.cache
    async with infra:
        with pytest.raises(ClosedError, match="open already"):
            await infra.__aenter__()


def test_a_part_that_fails_to_open_closes_those_before_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    threads = threading.active_count()
    (tmp_path / "taken").mkdir()
    with (
        pytest.raises(OperationalError),
        Infrastructure(InfraSettings(f"sqlite:///{tmp_path / 'taken'}"), routers=[note_router()]),
    ):
        raise AssertionError("entered")
    assert threading.active_count() == threads


@pytest.mark.anyio
async def test_a_part_that_fails_to_open_closes_those_before_it_async(tmp_path: Path) -> None:
    threads = threading.active_count()
    infra = AsyncInfrastructure(InfraSettings(f"sqlite:///{tmp_path / 'test.db'}"), routers=[note_router()])
    with pytest.raises(SessionMismatchError):
        await infra.__aenter__()
    wait_until(lambda: threading.active_count() == threads, 10, "the driver's thread to end")
    with pytest.raises(ClosedError):
        _ = infra.engine


def test_a_malformed_url_is_refused_before_anything_opens() -> None:
    with pytest.raises(InvalidArgumentError, match="database_url"):
        Infrastructure(InfraSettings("hunter2"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"settings": "postgresql://u:hunter2@h/d"}, "settings is a str"),
        ({"routers": note_router()}, "routers is EventRouter"),
        ({"routers": None}, "routers is None"),
        ({"routers": [3]}, "routers is \\[3\\]"),
        ({"max_concurrency": 0}, "max_concurrency=0"),
        ({"max_concurrency": "x"}, "max_concurrency='x'"),
    ],
)
@pytest.mark.parametrize("kind", [Infrastructure, AsyncInfrastructure])
def test_bad_arguments_are_refused_at_the_call(
    kind: type[Infrastructure | AsyncInfrastructure], arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=said) as raised:
        kind(**({"settings": InfraSettings.embedded()} | arguments))
    assert "hunter2" not in str(raised.value)


def test_the_repr_hides_passwords() -> None:
    infra = Infrastructure(InfraSettings("postgresql://u:hunter2@h/x", (), "redis://:hunter2@h"))
    assert "hunter2" not in repr(infra)


def in_a_fork(work: Callable[[], None]) -> int:
    """Run `work` in a forked child; its exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_worker_has_its_own_connections_and_leaves_the_parents_alone(infra: Infrastructure) -> None:
    publish(infra, "parent")
    infra.cache.set("parent", 1)
    engine, events = infra.engine, infra.events

    def work() -> None:
        publish(infra, "child")
        assert infra.engine is not engine
        assert infra.events is not events
        wait_until(lambda: infra.cache.get("parent") == 1, 30, "Redis to answer within its budget")
        with infra.read() as session:
            assert session.scalar(select(func.count(Post.id))) == 2
        infra.close()

    assert in_a_fork(work) == 0
    with infra.read() as session:
        assert set(session.scalars(select(Post.title))) == {"parent", "child"}
    publish(infra, "parent again")
    wait_until(lambda: infra.cache.get("parent") == 1, 30, "Redis to answer within its budget")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_worker_shares_the_embedded_file_and_leaves_it() -> None:
    with Infrastructure(InfraSettings.embedded()) as infra:
        Base.metadata.create_all(infra.engine)

        def work() -> None:
            publish(infra, "child")
            infra.close()

        assert in_a_fork(work) == 0
        assert Path(str(infra.engine.url.database)).exists()
        with infra.read() as session:
            assert session.scalars(select(Post.title)).all() == ["child"]


def test_a_sqlite_file_lets_readers_beside_a_writer_and_checks_foreign_keys(tmp_path: Path) -> None:
    with (
        Infrastructure(InfraSettings(f"sqlite:///{tmp_path / 'test.db'}")) as infra,
        infra.engine.connect() as connection,
    ):
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1


def test_reads_go_to_the_standby_and_see_the_write(replicated_database: ReplicatedDatabase) -> None:
    settings = settings_for(replicated_database.primary.url(), replica_url=replicated_database.standby.url())
    with Infrastructure(settings, routers=[note_router()], consume=False) as infra:
        Base.metadata.create_all(infra.engine)
        publish(infra, "Feira")
        token = infra.replicas.write_token()
        with infra.read(after=token) as session:
            assert session.scalars(select(Post.title)).all() == ["Feira"]
        with infra.read(fresh=True) as session:
            assert session.scalar(text("SELECT pg_is_in_recovery()")) is False


def test_a_connection_whose_other_side_is_gone_is_given_up_in_seconds(postgres_database: PostgresDatabase) -> None:
    url = postgres_database.url()
    with (
        Infrastructure(InfraSettings(f"{url}{'&' if '?' in url else '?'}connect_timeout=3")) as infra,
        infra.engine.connect() as connection,
    ):
        parameters = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
    assert (parameters["tcp_user_timeout"], parameters["keepalives_idle"]) == ("30000", "30")
    assert parameters["connect_timeout"] == "3"


def test_a_probe_opens_no_events_where_none_are_used(tmp_path: Path) -> None:
    with Infrastructure(InfraSettings(f"sqlite:///{tmp_path / 'test.db'}")) as infra:
        assert set(infra.health().parts) == {"cache", "database"}
        with infra.engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM sqlite_master")) == 0


def test_a_database_that_hangs_holds_up_no_cache(postgres: PostgresServer) -> None:
    with Infrastructure(InfraSettings(postgres.url())) as infra:
        postgres.pause()
        opening = threading.Thread(target=lambda: infra.events)
        opening.start()
        infra.cache.set("key", 1)
        assert infra.cache.get("key") == 1
        assert opening.is_alive()
        postgres.resume()
        opening.join(30)


def test_health_of_a_healthy_service(infra: Infrastructure) -> None:
    infra.cache.set("key", 1)
    health = infra.health()
    assert (health.live, health.ready) == (True, True)
    assert {name: part.state for name, part in health.parts.items()} == dict.fromkeys(
        ("cache", "database", "events"), PartState.HEALTHY
    )


def test_without_redis_the_cache_is_degraded_and_degraded_is_ready(start_redis: StartRedis, tmp_path: Path) -> None:
    with Infrastructure(InfraSettings(f"sqlite:///{tmp_path / 'x.db'}", (), "redis://127.0.0.1:1")) as infra:
        infra.cache.set("key", 1)
        assert infra.cache.get("key") == 1
        health = infra.health()
    assert health.parts["cache"].state is PartState.DEGRADED
    assert health.ready


def test_a_database_that_is_down_is_not_ready_but_live(postgres: PostgresServer) -> None:
    with Infrastructure(InfraSettings(postgres.url())) as infra:
        assert infra.health().ready
        postgres.kill()
        health = infra.health()
        assert health.parts["database"].state is PartState.DOWN
        assert (health.live, health.ready) == (True, False)
        postgres.start()
        assert infra.health().ready


def test_a_database_that_hangs_is_told_within_the_time_limit(postgres: PostgresServer) -> None:
    with Infrastructure(InfraSettings(postgres.url())) as infra:
        assert infra.health().ready
        threads = threading.active_count()
        postgres.pause()
        for _ in range(3):
            assert infra.health(timeout=0.2).parts["database"].detail == "no answer within 0.2 s"
        assert threading.active_count() <= threads + 2
        postgres.resume()
        assert infra.health(timeout=30).ready


@pytest.mark.anyio
async def test_health_async(postgres: PostgresServer, redis_server: RedisServer) -> None:
    settings = settings_for(postgres.url(), redis_url=redis_server.url())
    async with AsyncInfrastructure(settings) as infra:
        await infra.cache.set("key", 1)
        health = await infra.health()
        assert {part.state for part in health.parts.values()} == {PartState.HEALTHY}
        postgres.pause()
        health = await infra.health(timeout=0.2)
        assert health.parts["database"].detail == "no answer within 0.2 s"
        assert (health.live, health.ready) == (True, False)
        postgres.resume()


def test_a_lost_standby_is_degraded(replicated_database: ReplicatedDatabase, tcp_proxy: StartTcpProxy) -> None:
    proxy = tcp_proxy(replicated_database.standby.server.port)
    settings = settings_for(
        replicated_database.primary.url(), replica_url=replicated_database.standby.url(port=proxy.port)
    )
    with Infrastructure(settings) as infra:
        with infra.read() as session:
            session.execute(text("SELECT 1"))
        proxy.cut()
        with suppress(OperationalError), infra.read() as session:  # who notices a dead connection first, loses a read
            session.execute(text("SELECT 1"))
        with infra.read() as session:
            session.execute(text("SELECT 1"))
        health = infra.health()
        assert health.parts["replicas"].state is PartState.DEGRADED
        assert health.ready
