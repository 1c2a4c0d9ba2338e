"""Everything a cache on Redis is made of, put together."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from araponga_infra.caching.backends.memory import MemoryStore
from araponga_infra.caching.backends.redis.attendant import Attendant, verify_server, verify_server_async
from araponga_infra.caching.backends.redis.availability import Availability
from araponga_infra.caching.backends.redis.client import Endpoint, endpoint_of
from araponga_infra.caching.backends.redis.cluster import AsyncClusterLink, ClusterLink
from araponga_infra.caching.backends.redis.link import AsyncLink, SyncLink
from araponga_infra.caching.backends.redis.store import RedisStore
from araponga_infra.caching.backends.redis.subscription import Audience
from araponga_infra.caching.backends.redis.wire import Names
from araponga_infra.caching.flights import Flights, Signal
from araponga_infra.telemetry import Report

__all__ = ["ConnectedRedis", "Surroundings", "connect"]


@dataclass(frozen=True)
class Surroundings:
    """What the Redis side needs to know of the cache that it serves."""

    memory: MemoryStore
    flights: Flights
    monotonic: Callable[[], float]
    report: Report | None
    wait: Callable[[Signal, float], Awaitable[None]]
    on_rejected: Callable[[str, str], None]
    isolated_seconds: float


class ConnectedRedis:
    """A store, its thread and its connections; opens nothing until the first call.

    Safe to carry into a forked child with `renew`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        names: Names,
        surroundings: Surroundings,
        *,
        is_async: bool,
        listens: bool,
        flush: bool,
    ) -> None:
        instance = secrets.token_hex(6)
        self._endpoint = endpoint
        self._availability = Availability(surroundings.report, self._wake)
        audience = Audience(surroundings.memory, surroundings.flights, surroundings.monotonic, surroundings.report)
        self._attendant = Attendant(
            endpoint.control, names, instance, self._availability, audience,
            budget_seconds=endpoint.budget_seconds, listens=listens, flush_on_recovery=flush,
        )  # fmt: skip
        self.link: Any = self._link(is_async=is_async)
        self.store: RedisStore = RedisStore(
            self.link, names, instance, self._availability,
            meet=self._attendant.wake, keep_alive=self._attendant.keep_alive, let_go=self._attendant.let_go,
            wait=surroundings.wait, budget_seconds=endpoint.budget_seconds,
            isolated_seconds=surroundings.isolated_seconds, monotonic=surroundings.monotonic,
            on_rejected=surroundings.on_rejected,
        )  # fmt: skip

    def _wake(self) -> None:
        self._attendant.wake()

    def _link(self, *, is_async: bool) -> Any:
        endpoint = self._endpoint
        if endpoint.cluster is not None:
            cluster = endpoint.cluster
            return AsyncClusterLink(cluster, endpoint.budget_seconds) if is_async else ClusterLink(cluster)
        if is_async:
            hook = verify_server_async(self._availability)
            return AsyncLink(lambda: endpoint.pool_for_loop(hook), endpoint.host_pool, endpoint.budget_seconds)
        if endpoint.host_pool is not None:
            return SyncLink(endpoint.host_pool, is_ours=False)
        return SyncLink(endpoint.pool_for_calls(verify_server(self._availability)), is_ours=True)

    def renew(self) -> None:
        """In a forked child: the thread, the journal and the connections stayed with the parent."""
        self._availability.reset()
        self._attendant.reset()
        self.link.forget()

    def stop(self) -> None:
        """End the thread."""
        self._availability.end()
        self._attendant.close()

    def close(self) -> None:
        """End the thread and close our own connections; a pool of the host's stays open."""
        self.stop()
        self.link.close()

    async def aclose(self) -> None:
        """The same in async code."""
        await self.link.aclose()


def connect(
    target: Any,
    surroundings: Surroundings,
    *,
    namespace: str,
    budget_seconds: float,
    max_connections: int,
    recovery: Literal["purge", "flush"],
    is_async: bool,
    listens: bool,
) -> ConnectedRedis:
    """Put a cache on the Redis that a URL or client names.

    Raises:
        InvalidArgumentError: the URL, the client or the namespace is of no use.
    """
    endpoint = endpoint_of(target, budget_seconds=budget_seconds, max_connections=max_connections, is_async=is_async)
    names = Names(namespace)
    return ConnectedRedis(endpoint, names, surroundings, is_async=is_async, listens=listens, flush=recovery == "flush")
