"""The servers as pytest fixtures: started when the first test asks, shared by the session, whole again for each test.

Loaded by ``pytest_plugins = ["tests.servers.fixtures"]``. The ``shared_`` fixtures are for fixtures of a wider scope
than a function; whoever breaks a server must take the others, which mend it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from .postgres import PostgresDatabase, PostgresServer
from .postgres_cluster import PostgresCluster
from .redis_server import RedisOptions, RedisServer
from .run_folder import reap_abandoned
from .tcp_proxy import TcpProxy

__all__ = [
    "ReplicatedDatabase",
    "StartRedis",
    "StartTcpProxy",
    "postgres",
    "postgres_database",
    "postgres_pair",
    "pytest_sessionstart",
    "redis_server",
    "redis_url",
    "replicated_database",
    "shared_postgres",
    "shared_postgres_pair",
    "shared_redis",
    "start_redis",
    "tcp_proxy",
]

StartRedis = Callable[[RedisOptions], RedisServer]
StartTcpProxy = Callable[[int], TcpProxy]


def pytest_sessionstart() -> None:
    """End what a test run that was killed has left behind."""
    reap_abandoned()


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[PostgresServer]:
    """The session's PostgreSQL primary."""
    with PostgresServer.create() as server:
        yield server


@pytest.fixture(scope="session")
def shared_postgres_pair(shared_postgres: PostgresServer) -> Iterator[PostgresCluster]:
    """The session's primary with a streaming standby."""
    shared_postgres.ensure_healthy()
    cluster = PostgresCluster.create(shared_postgres)
    with cluster.standby:
        yield cluster


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """The session's Redis server."""
    with RedisServer.create() as server:
        yield server


@pytest.fixture
def postgres(shared_postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A PostgreSQL primary; the test may pause, stop or kill it."""
    yield shared_postgres
    shared_postgres.ensure_healthy()


@pytest.fixture
def postgres_pair(postgres: PostgresServer, shared_postgres_pair: PostgresCluster) -> Iterator[PostgresCluster]:
    """A primary with a streaming standby; the test may pause, stop or kill both, delay replay and promote."""
    yield shared_postgres_pair
    shared_postgres_pair.ensure_healthy()


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> Iterator[RedisServer]:
    """A Redis server without a password or persistence; the test may pause, stop or kill it, and CONFIG SET."""
    yield shared_redis
    shared_redis.ensure_healthy()


@pytest.fixture
def postgres_database(postgres: PostgresServer) -> Iterator[PostgresDatabase]:
    """A fresh database on the primary."""
    with postgres.temporary_database() as database:
        yield database


@dataclass(frozen=True, slots=True)
class ReplicatedDatabase:
    """One database, as seen on the primary and on the standby."""

    primary: PostgresDatabase
    standby: PostgresDatabase


@pytest.fixture
def replicated_database(postgres_pair: PostgresCluster) -> Iterator[ReplicatedDatabase]:
    """A fresh database on the primary that the standby has already received."""
    with postgres_pair.primary.temporary_database() as database:
        postgres_pair.wait_for_catch_up()
        yield ReplicatedDatabase(database, PostgresDatabase(postgres_pair.standby, database.name))


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of an empty Redis database."""
    redis_server.flush()
    return redis_server.url()


@pytest.fixture
def start_redis() -> Iterator[StartRedis]:
    """Starts Redis servers of the test's own, with a password, a memory limit, persistence or as replicas."""
    with ExitStack() as started:
        yield lambda options: started.enter_context(RedisServer.create(options))


@pytest.fixture
def tcp_proxy() -> Iterator[StartTcpProxy]:
    """Puts proxies in front of ports."""
    with ExitStack() as started:
        yield lambda target_port: started.enter_context(TcpProxy(target_port))
