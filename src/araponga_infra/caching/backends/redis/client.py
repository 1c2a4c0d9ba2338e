"""Connections to Redis with every timeout said, from a URL or from a client that the host hands in.

redis-py's defaults wait for seconds and retry; here a call has a budget, and nothing is retried behind its back.
RESP2 is spoken, since push messages are not wanted on the connections that carry commands.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias
from urllib.parse import urlsplit

import redis
import redis.asyncio
import redis.connection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from araponga_infra.caching.backends.redis.cluster import ClusterControl
from araponga_infra.caching.backends.redis.link import SyncLink
from araponga_infra.caching.backends.redis.scripts import Command
from araponga_infra.errors import InvalidArgumentError

__all__ = ["AnyAsyncRedis", "AnyRedis", "Control", "Endpoint", "check_redis_url", "endpoint_of"]

AnyRedis: TypeAlias = "redis.Redis | redis.RedisCluster"
AnyAsyncRedis: TypeAlias = "redis.asyncio.Redis | redis.asyncio.RedisCluster"
SyncHook: TypeAlias = Callable[[Any], None]
AsyncHook: TypeAlias = Callable[[Any], Awaitable[None]]

_Sentinel: Any = redis.Sentinel
_AsyncSentinel: Any = redis.asyncio.Sentinel
_BlockingPool: Any = redis.BlockingConnectionPool
_AsyncBlockingPool: Any = redis.asyncio.BlockingConnectionPool
_CONTROL_SECONDS = 1.0
"""How long the background connection waits: longer than a call may, so that a slow Redis is found to be alive."""

_PLAIN_OPTIONS = (
    "host", "port", "db", "username", "password", "path", "client_name", "credential_provider",
    "ssl_keyfile", "ssl_certfile", "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_check_hostname",
    "ssl_min_version", "ssl_ciphers", "ssl_password",
)  # fmt: skip


@dataclass(frozen=True)
class Endpoint:
    """Where Redis is and how long a call may take.

    Args:
        options: what redis-py's connections take; what a URL says of timeouts wins over ours.
        budget_seconds: the most one call may take.
        max_connections: the most connections per process, and per event loop in async code.
        host_pool: the pool of a client that the host handed in, used as it is.
        sentinels: where Sentinel is asked, and for which service.
        cluster: a cluster client that the host handed in.
        nodes: where that cluster was first asked.
    """

    options: dict[str, Any]
    budget_seconds: float
    max_connections: int
    host_pool: Any = None
    sentinels: tuple[tuple[tuple[str, int], ...], str] | None = None
    cluster: Any = None
    nodes: tuple[tuple[str, int], ...] = ()

    def __repr__(self) -> str:
        return f"Endpoint({self.options.get('host') or self.options.get('path')})"

    def pool_for_calls(self, hook: SyncHook) -> Any:
        """What carries the calls of a process. Its waits add up to no more than the budget."""
        budget = self.budget_seconds
        return _BlockingPool(**{
            **_QUIET, "protocol": 2, "retry": Retry(NoBackoff(), 0), "redis_connect_func": hook,
            "max_connections": self.max_connections, "timeout": budget * 0.2,
            "socket_connect_timeout": budget * 0.2, "socket_timeout": budget * 0.6, **self.options,
        })  # fmt: skip

    def pool_for_loop(self, hook: AsyncHook) -> Any:
        """The same for an event loop; there the caller's deadline bounds every wait."""
        options: dict[str, Any] = {
            **_QUIET, "protocol": 2, "retry": AsyncRetry(NoBackoff(), 0),
            "socket_timeout": None, "socket_connect_timeout": self.budget_seconds, **self.options,
        }  # fmt: skip
        if self.sentinels is not None:
            addresses, service = self.sentinels
            manager = _AsyncSentinel(list(addresses), socket_timeout=self.budget_seconds)
            return manager.master_for(service, **options).connection_pool
        if "connection_class" in options:
            options["connection_class"] = getattr(redis.asyncio, options["connection_class"].__name__)
        ours: dict[str, Any] = {"max_connections": self.max_connections, "timeout": None}
        return _AsyncBlockingPool(**{**ours, **options, "redis_connect_func": hook})

    def control(self) -> Control:
        """What carries heartbeats, recovery and the subscription, from a thread of its own."""
        options = self.control_options()
        if self.cluster is not None:
            return ClusterControl(self.nodes, options)
        if self.sentinels is not None:
            addresses, service = self.sentinels
            manager = _Sentinel(list(addresses), socket_timeout=_CONTROL_SECONDS)
            return PoolControl(manager.master_for(service, **options).connection_pool)
        return PoolControl(redis.ConnectionPool(**_QUIET, **options))

    def control_options(self) -> dict[str, Any]:
        """What the connections of that thread take."""
        options: dict[str, Any] = {
            **self.options, "socket_connect_timeout": _CONTROL_SECONDS, "socket_timeout": _CONTROL_SECONDS,
            "protocol": 2, "retry": Retry(NoBackoff(), 0),
        }  # fmt: skip
        options.pop("timeout", None)  # how long a call waits for a free connection, which none does here
        return options


def _quiet_options() -> dict[str, Any]:
    """No CLIENT SETINFO: it costs two round trips per connection and Redis 6.2 does not know it."""
    taken = inspect.signature(redis.connection.AbstractConnection.__init__).parameters
    if "driver_info" in taken:
        return {"driver_info": None}
    return {"lib_name": None, "lib_version": None}


_QUIET = _quiet_options()
_connection_module: Any = redis.connection


def endpoint_of(target: Any, *, budget_seconds: float, max_connections: int, is_async: bool) -> Endpoint:
    """Read what the host named: a URL or a client.

    Raises:
        InvalidArgumentError: not a Redis URL, a client of the wrong colour, or neither. The text of a URL, which may
            hold a password, is not repeated.
    """
    if isinstance(target, str):
        endpoint = Endpoint(_options_of_url(target, "redis"), budget_seconds, max_connections)
        return _rehearsed(endpoint, "redis", is_async=is_async)
    ours, others = (redis.asyncio, redis) if is_async else (redis, redis.asyncio)
    if isinstance(target, ours.Redis):
        pool: Any = target.connection_pool
        return Endpoint(
            _options_of_pool(pool), budget_seconds, max_connections, host_pool=pool, sentinels=_sentinels_of(pool)
        )
    if isinstance(target, ours.RedisCluster):
        return _endpoint_of_cluster(target, budget_seconds, max_connections)
    if isinstance(target, (others.Redis, others.RedisCluster)):
        raise InvalidArgumentError(
            f"redis is a client of {others.__name__}: "
            + ("an async cache takes redis.asyncio.Redis" if is_async else "a sync cache takes redis.Redis")
            + ", or a URL, which suits both"
        )
    raise InvalidArgumentError(
        f"redis is a {type(target).__name__}: pass a URL such as redis://localhost:6379/0 or a client of redis-py"
    )


def check_redis_url(url: object, *, argument: str) -> None:
    """
    Raises:
        InvalidArgumentError: not a URL that redis-py could ever use; the message names `argument`, not the text.
    """
    _rehearsed(Endpoint(_options_of_url(url, argument), 1.0, 1), argument, is_async=False)


def _options_of_url(url: object, argument: str) -> dict[str, Any]:
    if not isinstance(url, str) or not url.startswith(("redis://", "rediss://", "unix://")):
        raise InvalidArgumentError(
            f"{argument} is not a Redis URL: write it as redis://user:password@host:6379/0, rediss://... for TLS, "
            "or unix:///path"
        )
    try:
        options: dict[str, Any] = dict(_connection_module.parse_url(url))
        path = urlsplit(url).path.strip("/")
    except (ValueError, TypeError):
        raise _unusable_url(argument) from None
    if url.startswith("unix://"):
        if not options.get("path"):
            raise InvalidArgumentError(
                f"{argument} is a unix:// URL without a path: write it as unix:///run/redis.sock"
            )
        return options
    if path and not (path.isascii() and path.isdecimal()):
        raise InvalidArgumentError(f"{argument} is a URL whose database is no number: write it as redis://host:6379/0")
    return {"host": "localhost"} | options


def _rehearsed(endpoint: Endpoint, argument: str, *, is_async: bool) -> Endpoint:
    """Make each kind of connection once without connecting it, since a URL is read no earlier than that."""
    unused: Any = None
    try:
        pools = [endpoint.pool_for_calls(unused), redis.ConnectionPool(**endpoint.control_options())]
        if is_async:
            pools.append(endpoint.pool_for_loop(unused))
        for pool in pools:
            pool.make_connection()
    except (TypeError, ValueError, AttributeError, redis.RedisError, OSError):
        raise _unusable_url(argument) from None
    return endpoint


def _unusable_url(argument: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{argument} is a Redis URL with a part that cannot be used: check the port, the database number, and the "
        "names and values of the options after the question mark; write / ? # in a password as %2F %3F %23"
    )


def _plain(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in _PLAIN_OPTIONS if given.get(name) is not None}


def _options_of_pool(pool: Any) -> dict[str, Any]:
    options = _plain(pool.connection_kwargs)
    kind = getattr(redis, pool.connection_class.__name__, None)
    if kind is not None and kind is not redis.Connection:
        options["connection_class"] = kind
    return options


def _sentinels_of(pool: Any) -> tuple[tuple[tuple[str, int], ...], str] | None:
    manager = getattr(pool, "sentinel_manager", None)
    if manager is None:
        return None
    asked = [sentinel.connection_pool.connection_kwargs for sentinel in manager.sentinels]
    return tuple((each["host"], int(each["port"])) for each in asked), str(pool.service_name)


def _endpoint_of_cluster(client: Any, budget_seconds: float, max_connections: int) -> Endpoint:
    manager: Any = client.nodes_manager
    nodes = tuple((node.host, int(node.port)) for node in manager.startup_nodes.values())
    options = _plain(manager.connection_kwargs)
    for name in ("host", "port", "db", "path"):
        options.pop(name, None)
    return Endpoint(options, budget_seconds, max_connections, cluster=client, nodes=nodes)


class Control(Protocol):
    """The connections of the background thread."""

    async def exchange(self, commands: Sequence[Command], packed: bytes | None = None) -> list[Any]: ...

    def subscriber(self) -> Any: ...

    def close(self) -> None: ...


class PoolControl(SyncLink):
    """Over a pool of the thread's own."""

    def __init__(self, pool: Any) -> None:
        super().__init__(pool, is_ours=True)

    def subscriber(self) -> Any:
        """A connection to subscribe on, apart from the pool."""
        connection = self._pool.make_connection()
        connection.connect()
        return connection

    def close(self) -> None:
        """Until it is used again, which recovery does on connections that are new for sure."""
        self.disconnect()
