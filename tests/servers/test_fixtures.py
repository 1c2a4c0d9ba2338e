"""The shared servers are whole again after a test that broke them.

The parameters of a test run one after the other: each finds the server whole, and then breaks it for the next.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import psycopg
import pytest
import redis

from . import PostgresCluster, PostgresDatabase, PostgresServer, RedisOptions, RedisServer
from .fixtures import ReplicatedDatabase, StartRedis, StartTcpProxy


def _fail_over(pair: PostgresCluster) -> None:
    pair.primary.kill()
    pair.promote()


def _pause_both(pair: PostgresCluster) -> None:
    pair.standby.pause()
    pair.primary.pause()


POSTGRES_BREAKS: dict[str, Callable[[PostgresServer], object]] = {
    "kill": PostgresServer.kill,
    "stop": PostgresServer.stop,
    "pause": PostgresServer.pause,
    "alter_system": lambda server: server.execute("ALTER SYSTEM SET max_connections = 50"),
    "nothing": lambda server: None,
}

PAIR_BREAKS: dict[str, Callable[[PostgresCluster], object]] = {
    "promote": PostgresCluster.promote,
    "fail_over": _fail_over,
    "kill_standby": lambda pair: pair.standby.kill(),
    "pause_both": _pause_both,
    "delay_replay": lambda pair: pair.standby.delay_replay(3600),
    "pause_replay": lambda pair: pair.standby.pause_replay(),
    "nothing": lambda pair: None,
}

REDIS_BREAKS: dict[str, Callable[[RedisServer], object]] = {
    "kill": RedisServer.kill,
    "stop": RedisServer.stop,
    "pause": RedisServer.pause,
    "config_set": lambda server: server.execute("CONFIG", "SET", "maxmemory", "1mb"),
    "replicate": lambda server: server.execute("REPLICAOF", "127.0.0.1", "1"),
    "client_pause": lambda server: server.execute("CLIENT", "PAUSE", "600000", "WRITE"),
    "nothing": lambda server: None,
}


@pytest.mark.parametrize("name", POSTGRES_BREAKS)
def test_each_test_gets_a_whole_primary_and_a_fresh_database(postgres_database: PostgresDatabase, name: str) -> None:
    postgres_database.execute("CREATE TABLE place (id int)")
    assert postgres_database.server.execute("SHOW max_connections") == [("200",)]

    POSTGRES_BREAKS[name](postgres_database.server)


@pytest.mark.parametrize("name", PAIR_BREAKS)
def test_each_test_gets_a_whole_pair(
    replicated_database: ReplicatedDatabase, postgres_pair: PostgresCluster, name: str
) -> None:
    replicated_database.primary.execute("CREATE TABLE place AS SELECT 7 AS id")
    postgres_pair.wait_for_catch_up()
    assert replicated_database.standby.execute("SELECT id FROM place") == [(7,)]

    PAIR_BREAKS[name](postgres_pair)


@pytest.mark.parametrize("name", REDIS_BREAKS)
def test_each_test_gets_a_whole_and_empty_redis(redis_server: RedisServer, redis_url: str, name: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.dbsize() == 0
        client.set("k", "v")

    REDIS_BREAKS[name](redis_server)


def test_further_redis_servers_and_proxies_are_started_and_ended(
    start_redis: StartRedis, tcp_proxy: StartTcpProxy
) -> None:
    server = start_redis(RedisOptions(password="s3cret"))
    proxy = tcp_proxy(server.port)

    with redis.Redis.from_url(server.url(port=proxy.port)) as client:
        assert client.ping()


def test_a_temporary_database_is_dropped(postgres: PostgresServer) -> None:
    with postgres.temporary_database() as database:
        assert database.execute("SELECT current_database()") == [(database.name,)]

    assert postgres.execute("SELECT FROM pg_database WHERE datname = %s", [database.name]) == []


def test_a_database_with_a_prepared_transaction_and_a_connection_is_dropped(postgres: PostgresServer) -> None:
    with postgres.temporary_database() as database:
        left_open = psycopg.connect(database.url())
        database.execute("BEGIN; CREATE TABLE place (); PREPARE TRANSACTION 'left'")

    assert postgres.execute("SELECT FROM pg_prepared_xacts") == []
    left_open.close()


def test_a_database_may_be_named(postgres: PostgresServer) -> None:
    name = f'a "name" {uuid4().hex}'
    postgres.create_database(name)
    postgres.drop_database(name)
    postgres.drop_database(name)
