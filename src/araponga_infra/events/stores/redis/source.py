"""`RedisStreamEventStore`: names a client, and gives processors the shell they need."""

from __future__ import annotations

import inspect
from typing import Any, cast

from araponga_infra.clock import Clock
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.events.protocols import AsyncEventStore, EventStore
from araponga_infra.events.stores.redis.operations import RedisOperations
from araponga_infra.events.values import Capabilities

__all__ = ["RedisStreamEventStore"]


class RedisStreamEventStore:
    """Keeps deliveries in Redis 6.2 or later: a stream and a consumer group per handler.

    The client stays the host's: used, never closed. With a `redis.Redis` it serves `BackgroundEventProcessor`, with a
    `redis.asyncio.Redis` `AsyncBackgroundEventProcessor`. What Redis acknowledged is as safe as Redis' persistence:
    with `appendonly yes` and `appendfsync always` a crash loses nothing, with its defaults some seconds' worth. It
    keeps no order by key and has no transactions with a SQL database.

    Args:
        client: of redis-py; with or without `decode_responses`.
        namespace: what its keys begin with, as a hash tag, so that they lie on one node of a cluster.

    Raises:
        InvalidArgumentError: not a redis-py client, or an empty namespace.

    Examples:
        >>> import redis
        >>> store = RedisStreamEventStore(redis.Redis(host="localhost"))
    """

    capabilities: Capabilities = Capabilities(is_durable=True, ordering=False, transactions=False)

    def __init__(self, client: Any, *, namespace: str = "araponga") -> None:
        if not hasattr(client, "evalsha"):
            raise InvalidArgumentError(
                f"client is a {type(client).__name__}: pass a redis.Redis or redis.asyncio.Redis"
            )
        if not isinstance(namespace, str) or not namespace or set("{}") & set(namespace):
            raise InvalidArgumentError(f"namespace={namespace!r} must be a text without braces, such as 'araponga'")
        self._client = client
        self._namespace = namespace

    @property
    def is_async(self) -> bool:
        kind = cast(Any, type(self._client))
        return inspect.iscoroutinefunction(kind.execute_command)

    def sync_store(self, clock: Clock | None = None) -> EventStore:
        if self.is_async:
            raise InvalidArgumentError(
                "store has a redis.asyncio client, which a BackgroundEventProcessor cannot use: "
                "give it a redis.Redis, or use AsyncBackgroundEventProcessor"
            )
        from araponga_infra.events.stores.redis.shells import RedisStore

        return RedisStore(self._client, RedisOperations(self._namespace, clock))

    def async_store(self, clock: Clock | None = None) -> AsyncEventStore:
        if not self.is_async:
            raise InvalidArgumentError(
                "store has a redis.Redis client, which an AsyncBackgroundEventProcessor cannot use: "
                "give it a redis.asyncio.Redis, or use BackgroundEventProcessor"
            )
        from araponga_infra.events.stores.redis.shells import AsyncRedisStore

        return AsyncRedisStore(self._client, RedisOperations(self._namespace, clock))

    def __repr__(self) -> str:
        return f"RedisStreamEventStore(namespace={self._namespace!r})"
