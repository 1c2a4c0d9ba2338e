"""Clients of a processor's own, to the Redis that a host's client names: for threads that wait for nobody else.

They are plain ones also where the host's is an asyncio one, since each belongs to a thread.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio
import redis.cluster
from redis.backoff import NoBackoff
from redis.retry import Retry

__all__ = ["listening_client", "side_client"]

_ANSWER_SECONDS = 2.0
_Sentinel: Any = redis.Sentinel
_Cluster: Any = redis.RedisCluster
_ClusterNode: Any = redis.cluster.ClusterNode
_Redis: Any = redis.Redis
_Pool: Any = redis.ConnectionPool
_PLACE = ("host", "port", "path", "db")
_OPTIONS = (
    *_PLACE, "username", "password", "credential_provider", "client_name", "protocol", "encoding",
    "ssl_keyfile", "ssl_certfile", "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_password",
    "ssl_check_hostname", "ssl_min_version", "ssl_ciphers",
)  # fmt: skip


def side_client(client: Any) -> Any:
    """To the same Redis, Sentinel's primary or cluster, with connections of its own that do not wait for long."""
    if _is_cluster(client):
        startup = [_ClusterNode(host, port) for host, port in _nodes_of(client)]
        return _Cluster(startup_nodes=startup, **_cluster_options(client))
    pool = client.connection_pool
    manager = getattr(pool, "sentinel_manager", None)
    if manager is not None:
        return _of_sentinel(pool, manager)
    return _client(_sync_class(pool.connection_class), **_options(pool.connection_kwargs), **_waiting())


def listening_client(client: Any) -> Any:
    """To subscribe with. A message that is published in a cluster is heard at each of its nodes: any one will do."""
    if not _is_cluster(client):
        return side_client(client)
    host, port = random.choice(_nodes_of(client))  # noqa: S311 - to spread the load
    options = _cluster_options(client)
    kind = redis.SSLConnection if options.pop("ssl", False) else redis.Connection
    return _client(kind, host=host, port=port, **options)


def _is_cluster(client: Any) -> bool:
    return isinstance(client, (redis.RedisCluster, redis.asyncio.RedisCluster))


def _client(connection_class: type[Any], **options: Any) -> Any:
    pool = _Pool(connection_class=connection_class, max_connections=2, **options)
    return _Redis.from_pool(pool)


def _of_sentinel(pool: Any, manager: Any) -> Any:
    asked = [_options(sentinel.connection_pool.connection_kwargs) for sentinel in manager.sentinels]
    addresses = [(each["host"], each["port"]) for each in asked]
    login = {name: value for name, value in asked[0].items() if name not in _PLACE}
    options = _options(pool.connection_kwargs)
    if "SSL" in pool.connection_class.__name__:
        options["ssl"] = True
    own = _Sentinel(addresses, sentinel_kwargs={**login, **_waiting()})
    return own.master_for(pool.service_name, **options, **_waiting())


def _cluster_options(client: Any) -> dict[str, Any]:
    given: dict[str, Any] = client.get_connection_kwargs()
    options = {name: value for name, value in _options(given).items() if name not in _PLACE}
    if "SSL" in getattr(given.get("connection_class"), "__name__", "") or given.get("ssl"):
        options["ssl"] = True
    return {**options, **_waiting()}


def _nodes_of(client: Any) -> Sequence[tuple[str, int]]:
    """Those that it has found, and before it has looked those that it was given."""
    manager = client.nodes_manager
    nodes = manager.nodes_cache or manager.startup_nodes
    return [(node.host, int(node.port)) for node in nodes.values()]


def _options(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in _OPTIONS if given.get(name) is not None}


def _waiting() -> dict[str, Any]:
    """Who calls tries again by itself, on a new connection."""
    return {
        "socket_timeout": _ANSWER_SECONDS,
        "socket_connect_timeout": _ANSWER_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }


def _sync_class(connection_class: type[Any]) -> type[Any]:
    """The plain twin of an asyncio connection, which has its name; a plain class of the host's own is kept."""
    if connection_class.__module__.startswith("redis.asyncio"):
        return getattr(redis, connection_class.__name__, redis.Connection)
    return connection_class
