"""The PostgreSQL and Redis that Compose starts, started here by the same files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from araponga_infra import CachetoolsCacheService, HybridCacheService, RedisCacheService
from tests.servers import find_postgres, find_redis_server, wait_until
from tests.servers.processes import ServerProcess
from tests.servers.run_folder import ReservedPort, copies_folder, release, reserve_port
from tests.servers.unprivileged import readable_installation, server_user

COMPOSE = Path(__file__).parents[2] / "deploy" / "compose"
PASSWORDS = {"APP_PASSWORD": "app1", "READER_PASSWORD": "reader1", "REPLICATION_PASSWORD": "replication1"}
START_SECONDS = 60.0


@dataclass(frozen=True)
class Node:
    """A server on a port of its own, with the files it was given."""

    reserved: ReservedPort
    process: ServerProcess

    def connect(
        self, user: str, password: str = "", database: str = "community"
    ) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            host="127.0.0.1", port=self.reserved.number, user=user, password=password, dbname=database, autocommit=True
        )

    def answers(self) -> bool:
        with suppress(psycopg.OperationalError), self.connect("postgres", database="postgres"):
            return True
        return False


@contextmanager
def running(reserved: ReservedPort, command: list[str], environ: Mapping[str, str]) -> Iterator[Node]:
    user = server_user()
    if user is not None:
        user.give(reserved.folder)
    process = ServerProcess(reserved.folder, command, environ=environ, user=user, end_signal=signal.SIGQUIT)
    node = Node(reserved, process)
    try:
        process.spawn()
        process.wait_ready(node.answers, START_SECONDS)
        yield node
    finally:
        process.end()


def here(port: int) -> list[str]:
    """What differs from a container: the port, the address, and the memory of a test."""
    settings = (f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", "shared_buffers=16MB")
    return [argument for setting in settings for argument in ("-c", setting)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Node, Node]]:
    """The primary with its roles, and the standby that copied it."""
    programs = readable_installation(find_postgres(), server_user(), copies_folder()).programs
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environ["PATH"] = f"{programs}{os.pathsep}{environ['PATH']}"
    with ExitStack() as stack:
        at_primary, at_standby = reserve_port("compose-primary"), reserve_port("compose-standby")
        for reserved in (at_primary, at_standby):
            stack.callback(release, reserved)
            shutil.copytree(COMPOSE / "postgres", reserved.folder / "files")
        primary = stack.enter_context(running(at_primary, *_primary(at_primary, environ)))
        _initialise(primary, environ)
        yield primary, stack.enter_context(running(at_standby, *_standby(at_standby, primary, environ)))


def _primary(reserved: ReservedPort, environ: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """As the image of PostgreSQL sets it up: a superuser by the name of postgres, everybody else by password."""
    data, user = reserved.folder / "data", server_user()
    data.mkdir(mode=0o700)
    if user is not None:
        user.give(reserved.folder)
    subprocess.run(
        ["initdb", "--no-sync", "--username=postgres", "--auth=trust", f"--pgdata={data}"],
        check=True, capture_output=True, env=environ, cwd=reserved.folder, **(user.popen_arguments() if user else {}),
    )  # fmt: skip
    access = "host all postgres 127.0.0.1/32 trust\nhost all all all scram-sha-256\n"
    data.joinpath("pg_hba.conf").write_text(access)
    configuration = f"config_file={reserved.folder / 'files' / 'primary.conf'}"
    return ["postgres", "-D", str(data), "-c", configuration, *here(reserved.number)], environ


def _initialise(primary: Node, environ: dict[str, str]) -> None:
    with primary.connect("postgres", database="postgres") as session:
        session.execute("CREATE DATABASE community")
    folder, port = primary.reserved.folder, str(primary.reserved.number)
    where = {"PGHOST": "127.0.0.1", "PGPORT": port, "PGDATA": str(folder / "data")}
    subprocess.run(["bash", folder / "files" / "roles.sh"], check=True, env=environ | where | PASSWORDS)
    with primary.connect("postgres") as session:
        session.execute("SELECT pg_reload_conf()")


def _standby(reserved: ReservedPort, primary: Node, environ: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    data = reserved.folder / "data"
    data.mkdir(mode=0o700)
    where = {
        "PRIMARY_HOST": "127.0.0.1",
        "PGPORT": str(primary.reserved.number),
        "PGDATA": str(data),
        "PGPASSWORD": PASSWORDS["REPLICATION_PASSWORD"],
        "STANDBY_CONF": str(reserved.folder / "files" / "standby.conf"),
    }
    return ["bash", str(reserved.folder / "files" / "standby.sh"), *here(reserved.number)], environ | where


def test_what_the_application_writes_the_reader_reads_on_the_standby(nodes: tuple[Node, Node]) -> None:
    primary, standby = nodes
    with primary.connect("app", "app1") as session:
        session.execute("CREATE TABLE post (id int PRIMARY KEY)")
        session.execute("INSERT INTO post VALUES (7)")

    def read() -> list[tuple[Any, ...]]:
        with suppress(psycopg.errors.UndefinedTable), standby.connect("reader", "reader1") as session:
            return session.execute("SELECT id FROM post").fetchall()
        return []

    wait_until(lambda: read() == [(7,)], 10, "the row on the standby")


@pytest.mark.parametrize("place", [0, 1], ids=["primary", "standby"])
def test_the_reader_writes_nowhere(nodes: tuple[Node, Node], place: int) -> None:
    with nodes[place].connect("reader", "reader1") as session, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        session.execute("CREATE TABLE elsewhere (id int)")


def test_the_standby_keeps_its_slot_and_tells_what_it_reads(nodes: tuple[Node, Node]) -> None:
    primary, standby = nodes
    with primary.connect("postgres") as session:
        slots = session.execute("SELECT slot_name, active FROM pg_replication_slots").fetchall()
    assert slots == [("standby", True)]
    with standby.connect("postgres") as session:
        assert session.execute("SHOW hot_standby_feedback").fetchone() == ("on",)


def test_redis_takes_the_application_and_nobody_else(tmp_path: Path) -> None:
    reserved = reserve_port("compose-redis")
    environ = os.environ | {
        "PATH": f"{find_redis_server().parent}{os.pathsep}{os.environ['PATH']}",
        "REDIS_PASSWORD": "redis1",
        "REDIS_CONF": str(COMPOSE / "redis" / "redis.conf"),
        "REDIS_ACL": str(reserved.folder / "users.acl"),
    }
    here = ["--port", str(reserved.number), "--bind", "127.0.0.1", "--dir", str(reserved.folder)]
    process = ServerProcess(
        reserved.folder, ["sh", str(COMPOSE / "redis" / "start.sh"), *here], environ=environ, end_signal=signal.SIGTERM
    )
    url = f"redis://community:redis1@127.0.0.1:{reserved.number}/0"

    def answers() -> bool:
        with suppress(redis.ConnectionError), redis.Redis.from_url(url) as client:
            return client.set("araponga:hello", "you") is True
        return False

    try:
        process.spawn()
        process.wait_ready(answers, START_SECONDS)
        with redis.Redis(port=reserved.number) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        with HybridCacheService(CachetoolsCacheService(), RedisCacheService(url, timeout=5)) as cache:
            cache.set("territory:1", "Vale", tags=["vale"])
            cache.delete_by_pattern("territory:*")
            cache.delete_by_tag("vale")
            assert cache.get_or_set("territory:1", lambda: "Serra") == "Serra"
        with redis.Redis.from_url(url) as client:
            assert client.keys("araponga:*") != []
    finally:
        process.end()
        release(reserved)
