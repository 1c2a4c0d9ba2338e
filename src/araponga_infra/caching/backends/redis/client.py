"""Connections to Redis with every timeout said, from a URL or from a client that the host hands in.

redis-py's defaults wait for seconds and retry; here a call has a budget, and nothing is retried behind its back.
RESP2 is spoken, since push messages are not wanted on the connections that carry commands.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import redis
import redis.asyncio
import redis.connection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from araponga_infra.errors import InvalidArgumentError

__all__ = ["AnyAsyncRedis", "AnyRedis", "Endpoint", "endpoint_of"]

AnyRedis: TypeAlias = "redis.Redis"
AnyAsyncRedis: TypeAlias = "redis.asyncio.Redis"
SyncHook: TypeAlias = Callable[[Any], None]
AsyncHook: TypeAlias = Callable[[Any], Awaitable[None]]

_BlockingPool: Any = redis.BlockingConnectionPool
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
        options: what redis-py's connections take, without timeouts.
        budget_seconds: the most one call may take.
        max_connections: the most connections per process, and per event loop in async code.
        sync_pool, async_pool: the host's own, used as they are.
    """

    options: dict[str, Any]
    budget_seconds: float
    max_connections: int
    sync_pool: Any = None
    async_pool: Any = None

    def __repr__(self) -> str:
        return f"Endpoint({self.options.get('host') or self.options.get('path')})"

    def pool_for_calls(self, hook: SyncHook) -> Any:
        """What carries the calls of a process. Its waits add up to no more than the budget."""
        return _BlockingPool(
            **self.options, **_QUIET, protocol=2, retry=Retry(NoBackoff(), 0), redis_connect_func=hook,
            max_connections=self.max_connections, timeout=self.budget_seconds * 0.2,
            socket_connect_timeout=self.budget_seconds * 0.2, socket_timeout=self.budget_seconds * 0.6,
        )  # fmt: skip

    def pool_for_loop(self, hook: AsyncHook) -> Any:
        """The same for an event loop; there the caller's deadline bounds every wait."""
        return redis.asyncio.BlockingConnectionPool(
            **self._async_options(), **_QUIET, protocol=2, retry=AsyncRetry(NoBackoff(), 0), redis_connect_func=hook,
            max_connections=self.max_connections, timeout=None, socket_timeout=None,
            socket_connect_timeout=self.budget_seconds,
        )  # fmt: skip

    def pool_for_control(self) -> Any:
        """What carries heartbeats, recovery and the subscription, from a thread of its own."""
        return redis.ConnectionPool(
            **self.options, **_QUIET, protocol=2, retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=_CONTROL_SECONDS, socket_timeout=_CONTROL_SECONDS,
        )  # fmt: skip

    def _async_options(self) -> dict[str, Any]:
        options = dict(self.options)
        kind = options.get("connection_class")
        if kind is not None:
            options["connection_class"] = getattr(redis.asyncio, kind.__name__)
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
        return Endpoint(_options_of_url(target), budget_seconds, max_connections)
    wanted, other = (redis.asyncio.Redis, redis.Redis) if is_async else (redis.Redis, redis.asyncio.Redis)
    if isinstance(target, wanted):
        pool = target.connection_pool
        return Endpoint(
            _options_of_pool(pool), budget_seconds, max_connections,
            sync_pool=None if is_async else pool, async_pool=pool if is_async else None,
        )  # fmt: skip
    if isinstance(target, other):
        raise InvalidArgumentError(
            f"redis is a client of {other.__module__}: "
            + ("an async cache takes redis.asyncio.Redis" if is_async else "a sync cache takes redis.Redis")
            + ", or a URL, which suits both"
        )
    raise InvalidArgumentError(
        f"redis is a {type(target).__name__}: pass a URL such as redis://localhost:6379/0 or a client of redis-py"
    )


def _options_of_url(url: str) -> dict[str, Any]:
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise InvalidArgumentError(
            "redis is not a Redis URL: write it as redis://user:password@host:6379/0, rediss://... for TLS, "
            "or unix:///path"
        )
    try:
        options: dict[str, Any] = dict(_connection_module.parse_url(url))
    except (ValueError, TypeError):
        raise InvalidArgumentError(
            "redis is a Redis URL with a part that cannot be read: check the port, the database number and the options"
        ) from None
    if not options.get("path") and not options.get("host"):
        options["host"] = "localhost"
    return options


def _options_of_pool(pool: Any) -> dict[str, Any]:
    given = pool.connection_kwargs
    options = {name: given[name] for name in _PLAIN_OPTIONS if given.get(name) is not None}
    kind = getattr(redis, pool.connection_class.__name__, None)
    if kind is not None and kind is not redis.Connection:
        options["connection_class"] = kind
    return options
