"""Clients of a processor's own, to the Redis that a host's client names: they wait neither for it nor for long.

Those of a thread are plain ones also where the host's is an asyncio one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.cluster
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from araponga_infra.events.patience import SHORTEST_SECONDS

__all__ = ["async_side_client", "clients_of", "listening_client", "side_client"]

_PLACE = ("host", "port", "path", "db")
_OPTIONS = (
    *_PLACE, "username", "password", "credential_provider", "client_name", "protocol", "encoding",
    "ssl_keyfile", "ssl_certfile", "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_password",
    "ssl_check_hostname", "ssl_min_version", "ssl_ciphers",
)  # fmt: skip


class _Kind:
    """Sync or asyncio: the classes of redis-py have the same names and arguments."""

    def __init__(self, library: Any, retry: Any, node: Any) -> None:
        self.library = library
        self.retry = retry
        self.node = node


_SYNC = _Kind(redis, Retry, redis.cluster.ClusterNode)
_ASYNC = _Kind(redis.asyncio, AsyncRetry, redis.asyncio.cluster.ClusterNode)


def side_client(client: Any, answer_seconds: float = SHORTEST_SECONDS) -> Any:
    """To the same Redis, Sentinel's primary or cluster, with connections of its own that do not wait for long."""
    return _side_client(_SYNC, client, answer_seconds)


def async_side_client(client: Any, answer_seconds: float = SHORTEST_SECONDS) -> Any:
    """The same for the event loop that it is made on."""
    return _side_client(_ASYNC, client, answer_seconds)


def listening_client(client: Any) -> Any:
    """To subscribe with. A message that is published in a cluster is heard at each of its nodes: any one will do."""
    if not _is_cluster(client):
        return side_client(client)
    host, port = random.choice(_nodes_of(client))  # noqa: S311 - to spread the load
    options = _cluster_options(client)
    kind = redis.SSLConnection if options.pop("ssl", False) else redis.Connection
    return _client(_SYNC, kind, host=host, port=port, **options, **_waiting(_SYNC, SHORTEST_SECONDS))


def clients_of(client: Any) -> Sequence[Any]:
    """What is to be closed with one that was made here: Sentinel is asked by clients of their own."""
    if client is None:
        return ()
    manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    return (client,) if manager is None else (client, *manager.sentinels)


def _side_client(kind: _Kind, client: Any, answer_seconds: float) -> Any:
    waiting = _waiting(kind, answer_seconds)
    if _is_cluster(client):
        startup = [kind.node(host, port) for host, port in _nodes_of(client)]
        return kind.library.RedisCluster(startup_nodes=startup, **_cluster_options(client), **waiting)
    pool = client.connection_pool
    manager = getattr(pool, "sentinel_manager", None)
    if manager is not None:
        return _of_sentinel(kind, pool, manager, waiting)
    connection_class = _class_for(kind, pool.connection_class)
    return _client(kind, connection_class, **_options(pool.connection_kwargs), **waiting)


def _is_cluster(client: Any) -> bool:
    return isinstance(client, (redis.RedisCluster, redis.asyncio.RedisCluster))


def _client(kind: _Kind, connection_class: type[Any], **options: Any) -> Any:
    pool = kind.library.ConnectionPool(connection_class=connection_class, max_connections=2, **options)
    return kind.library.Redis.from_pool(pool)


def _of_sentinel(kind: _Kind, pool: Any, manager: Any, waiting: dict[str, Any]) -> Any:
    asked = [_options(sentinel.connection_pool.connection_kwargs) for sentinel in manager.sentinels]
    addresses = [(each["host"], each["port"]) for each in asked]
    login = {name: value for name, value in asked[0].items() if name not in _PLACE}
    options = _options(pool.connection_kwargs)
    if "SSL" in pool.connection_class.__name__:
        options["ssl"] = True
    own = kind.library.Sentinel(addresses, sentinel_kwargs={**login, **_waiting(kind, SHORTEST_SECONDS)})
    return own.master_for(pool.service_name, **options, **waiting)


def _cluster_options(client: Any) -> dict[str, Any]:
    given: dict[str, Any] = client.get_connection_kwargs()
    options = {name: value for name, value in _options(given).items() if name not in _PLACE}
    if "SSL" in getattr(given.get("connection_class"), "__name__", "") or given.get("ssl"):
        options["ssl"] = True
    return options


def _nodes_of(client: Any) -> Sequence[tuple[str, int]]:
    """Those that it has found, and before it has looked those that it was given."""
    manager = client.nodes_manager
    nodes = manager.nodes_cache or manager.startup_nodes
    return [(node.host, int(node.port)) for node in nodes.values()]


def _options(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in _OPTIONS if given.get(name) is not None}


def _waiting(kind: _Kind, answer_seconds: float) -> dict[str, Any]:
    """Who calls tries again by itself, on a new connection."""
    return {
        "socket_timeout": answer_seconds,
        "socket_connect_timeout": SHORTEST_SECONDS,
        "retry": kind.retry(NoBackoff(), 0),
    }


def _class_for(kind: _Kind, connection_class: type[Any]) -> type[Any]:
    """The twin of the same name where the host's is of the other kind; one of the host's own kind is kept."""
    is_async = connection_class.__module__.startswith("redis.asyncio")
    if is_async == (kind is _ASYNC):
        return connection_class
    twin: type[Any] = getattr(kind.library, connection_class.__name__, kind.library.Connection)
    return twin
