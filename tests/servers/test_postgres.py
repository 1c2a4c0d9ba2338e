"""PostgreSQL servers start, break, come back and replicate, from every set of programs on the machine."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from . import (
    PASSWORD,
    PASSWORD_USER,
    PostgresCluster,
    PostgresDatabase,
    PostgresInstallation,
    PostgresServer,
    ServerStartError,
    wait_until,
    wheel_postgres,
)
from .fixtures import ReplicatedDatabase
from .processes import is_alive


@pytest.fixture
def place(postgres_database: PostgresDatabase) -> PostgresDatabase:
    postgres_database.execute("CREATE TABLE place (id int)")
    return postgres_database


@pytest.fixture
def replicated_place(replicated_database: ReplicatedDatabase, postgres_pair: PostgresCluster) -> ReplicatedDatabase:
    replicated_database.primary.execute("CREATE TABLE place (id int)")
    postgres_pair.wait_for_catch_up()
    return replicated_database


def _places(database: PostgresDatabase) -> list[int]:
    return [row[0] for row in database.execute("SELECT id FROM place ORDER BY id")]


def test_urls_name_driver_database_and_the_way_through_a_proxy(place: PostgresDatabase) -> None:
    port = place.server.port

    assert place.url() == f"postgresql://araponga@127.0.0.1:{port}/{place.name}"
    assert place.url("asyncpg") == f"postgresql+asyncpg://araponga@127.0.0.1:{port}/{place.name}"
    assert place.url(host="localhost", port=7) == f"postgresql://araponga@localhost:7/{place.name}"
    assert place.server.url() == f"postgresql://araponga@127.0.0.1:{port}/araponga"


def test_the_user_with_a_password_needs_it(place: PostgresDatabase) -> None:
    with psycopg.connect(place.url(with_password=True)) as connection:
        assert connection.info.password == PASSWORD
        assert connection.info.user == PASSWORD_USER

    wrong = place.url(with_password=True).replace("correct", "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def test_a_killed_server_loses_what_was_not_committed_and_comes_back_at_its_port(place: PostgresDatabase) -> None:
    place.execute("INSERT INTO place VALUES (1)")
    port = place.server.port
    backend = psycopg.connect(place.url())
    backend.execute("INSERT INTO place VALUES (2)")
    pids = [pid for (pid,) in place.execute("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")]

    place.server.kill()

    assert not place.server.is_running
    assert not any(map(is_alive, pids))
    with pytest.raises(psycopg.OperationalError):
        backend.execute("SELECT 1")
    place.server.start()
    assert place.server.port == port
    assert _places(place) == [1]
    backend.close()


def test_starting_and_killing_twice_is_harmless(postgres: PostgresServer) -> None:
    postgres.start()
    postgres.kill()
    postgres.kill()
    postgres.stop()
    postgres.start()


def test_stop_ends_clients_at_once(place: PostgresDatabase) -> None:
    with psycopg.connect(place.url()) as client:
        place.server.stop()
        assert not place.server.is_running
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")


def test_everything_on_a_paused_server_hangs_until_it_resumes(place: PostgresDatabase) -> None:
    with psycopg.connect(place.url()) as old, ThreadPoolExecutor(2) as threads:
        place.server.pause()
        on_old = threads.submit(old.execute, "SELECT 1")
        on_new = threads.submit(place.execute, "SELECT 2")
        for future in (on_old, on_new):
            with pytest.raises(TimeoutError):
                future.result(timeout=0.15)
        assert place.server.is_running
        assert place.server.is_paused

        place.server.resume()
        assert on_old.result(timeout=10).fetchall() == [(1,)]
        assert on_new.result(timeout=10) == [(2,)]
        assert not place.server.is_paused


def test_a_paused_server_can_be_stopped_and_killed(postgres: PostgresServer) -> None:
    postgres.pause()
    postgres.restart()
    postgres.pause()
    postgres.kill()
    postgres.start()
    assert postgres.execute("SELECT 1") == [(1,)]


def test_the_standby_shows_what_the_primary_committed_and_refuses_writes(
    replicated_place: ReplicatedDatabase, postgres_pair: PostgresCluster
) -> None:
    replicated_place.primary.execute("INSERT INTO place VALUES (1)")
    postgres_pair.wait_for_catch_up()

    assert _places(replicated_place.standby) == [1]
    assert postgres_pair.standby.is_in_recovery
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        replicated_place.standby.execute("INSERT INTO place VALUES (2)")


def test_the_standby_follows_on_after_either_was_killed(
    replicated_place: ReplicatedDatabase, postgres_pair: PostgresCluster
) -> None:
    for number, server in enumerate((postgres_pair.primary, postgres_pair.standby)):
        server.kill()
        server.start()
        replicated_place.primary.execute("INSERT INTO place VALUES (%s)", [number])
        postgres_pair.wait_for_catch_up()

    assert _places(replicated_place.standby) == [0, 1]


def test_delayed_replay_shows_a_commit_only_after_the_delay(
    replicated_place: ReplicatedDatabase, postgres_pair: PostgresCluster
) -> None:
    postgres_pair.standby.delay_replay(0.5)
    started = time.monotonic()
    replicated_place.primary.execute("INSERT INTO place VALUES (1)")

    assert _places(replicated_place.standby) == []
    wait_until(lambda: _places(replicated_place.standby) == [1], 10, "the commit to show")
    assert time.monotonic() - started >= 0.5


def test_ending_the_delay_shows_what_was_held_back(
    replicated_place: ReplicatedDatabase, postgres_pair: PostgresCluster
) -> None:
    postgres_pair.standby.delay_replay(3600)
    replicated_place.primary.execute("INSERT INTO place VALUES (1)")
    with pytest.raises(TimeoutError, match="the standby to replay up to"):
        postgres_pair.wait_for_catch_up(0.1)

    postgres_pair.standby.delay_replay(0)
    postgres_pair.wait_for_catch_up(10)
    assert _places(replicated_place.standby) == [1]


def test_paused_replay_applies_nothing_until_resumed(
    replicated_place: ReplicatedDatabase, postgres_pair: PostgresCluster
) -> None:
    postgres_pair.standby.pause_replay()
    replicated_place.primary.execute("INSERT INTO place VALUES (1)")
    assert _places(replicated_place.standby) == []

    postgres_pair.standby.resume_replay()
    postgres_pair.wait_for_catch_up()
    assert _places(replicated_place.standby) == [1]


def test_a_promoted_standby_takes_writes_and_can_be_rebuilt_at_the_same_port(
    replicated_place: ReplicatedDatabase, postgres_pair: PostgresCluster
) -> None:
    port = postgres_pair.standby.port
    postgres_pair.promote()
    replicated_place.standby.execute("INSERT INTO place VALUES (2)")
    assert _places(replicated_place.primary) == []

    postgres_pair.rebuild_standby()
    assert postgres_pair.standby.port == port
    assert postgres_pair.standby.is_in_recovery
    assert _places(replicated_place.standby) == []


@pytest.mark.parametrize("age", [0, -1], ids=["newest", "oldest"])
def test_the_wheels_programs_start_a_pair(age: int) -> None:
    with PostgresServer.create(wheel_postgres()[age]) as primary:
        pair = PostgresCluster.create(primary)
        with pair.standby:
            primary.execute("CREATE TABLE place AS SELECT 7 AS id")
            pair.wait_for_catch_up()
            assert pair.standby.execute("SELECT id FROM place") == [(7,)]


@pytest.fixture
def closed_installation(tmp_path: Path) -> Iterator[PostgresInstallation]:
    """A wheel's programs in a folder that nobody but the present user may enter."""
    tmp_path.chmod(0o700)
    installed = wheel_postgres()[0]
    for part in installed.parts:
        shutil.copytree(part, tmp_path / part.relative_to(installed.root), symlinks=True)
    yield PostgresInstallation.in_wheel(tmp_path / installed.programs.relative_to(installed.root))
    shutil.rmtree(tmp_path)


def test_programs_in_a_folder_closed_to_other_users_are_run(closed_installation: PostgresInstallation) -> None:
    with PostgresServer.create(closed_installation) as server:
        assert server.execute("SELECT 1") == [(1,)]


def test_a_server_that_cannot_start_says_why(closed_installation: PostgresInstallation) -> None:
    with PostgresServer.create(closed_installation) as server:
        server.execute("ALTER SYSTEM SET shared_preload_libraries = 'no_such_library'")
        server.stop()
        with pytest.raises(ServerStartError, match="no_such_library"):
            server.start()

        server.ensure_healthy()
        assert server.execute("SELECT 1") == [(1,)]


def test_closing_removes_the_data(closed_installation: PostgresInstallation) -> None:
    server = PostgresServer.create(closed_installation)
    folder = Path(server.execute("SHOW data_directory")[0][0]).parent
    server.pause()
    server.close()
    server.close()

    assert not folder.exists()
