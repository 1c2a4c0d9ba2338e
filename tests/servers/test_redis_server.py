"""Redis servers start with their options, break and come back."""

from __future__ import annotations

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from . import RedisOptions, RedisServer, ServerStartError, wait_until
from .fixtures import StartRedis

NO_RETRY = Retry(NoBackoff(), 0)


def _client(server: RedisServer, *, timeout_seconds: float = 5) -> redis.Redis:
    return redis.Redis.from_url(server.url(), socket_timeout=timeout_seconds, retry=NO_RETRY, decode_responses=True)


def test_urls_name_database_password_and_the_way_through_a_proxy(start_redis: StartRedis) -> None:
    plain = start_redis(RedisOptions())
    closed = start_redis(RedisOptions(password='a/b:c@d "e"\\'))

    assert plain.url(db=3) == f"redis://127.0.0.1:{plain.port}/3"
    assert plain.url(host="localhost", port=7) == "redis://localhost:7/0"
    assert closed.url() == f"redis://:a%2Fb%3Ac%40d%20%22e%22%5C@127.0.0.1:{closed.port}/0"
    with _client(closed) as client:
        assert client.ping()
    with redis.Redis(port=closed.port, retry=NO_RETRY) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


@pytest.mark.parametrize(("persistent", "survivor"), [(True, "v"), (False, None)])
def test_only_a_persistent_server_keeps_its_data_when_killed(
    start_redis: StartRedis, persistent: bool, survivor: str | None
) -> None:
    server = start_redis(RedisOptions(persistent=persistent))
    port = server.port
    server.execute("SET", "k", "v")
    server.kill()
    assert not server.is_running

    server.start()
    assert server.port == port
    assert server.execute("GET", "k") == survivor


def test_the_memory_limit_and_further_settings_hold(start_redis: StartRedis) -> None:
    server = start_redis(
        RedisOptions(maxmemory="3mb", maxmemory_policy="allkeys-lru", settings={"notify-keyspace-events": "KEA"})
    )

    assert server.execute("CONFIG GET", "maxmemory") == {"maxmemory": str(3 * 1024 * 1024)}
    assert server.execute("CONFIG GET", "maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
    assert set(server.execute("CONFIG GET", "notify-keyspace-events")["notify-keyspace-events"]) == set("AKE")


def test_a_replica_follows_a_server_with_a_password(start_redis: StartRedis) -> None:
    primary = start_redis(RedisOptions(password="s3cret"))
    replica = start_redis(RedisOptions(password="other", replica_of=primary))
    primary.execute("SET", "k", "v")

    wait_until(lambda: bool(replica.execute("GET", "k") == "v"), 10, "the replica to follow")


def test_everything_on_a_paused_server_hangs_until_it_resumes(redis_server: RedisServer) -> None:
    with _client(redis_server, timeout_seconds=0.1) as client:
        client.ping()
        redis_server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        assert redis_server.is_paused

        redis_server.resume()
        assert client.ping()


def test_a_stopped_server_refuses_and_a_restarted_one_serves(redis_server: RedisServer) -> None:
    redis_server.stop()
    with _client(redis_server) as client, pytest.raises(redis.ConnectionError):
        client.ping()
    redis_server.restart()
    assert redis_server.execute("PING")


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(ServerStartError, match="no-such-setting"):
        RedisServer.create(RedisOptions(settings={"no-such-setting": "yes"}))
