"""A processor's own way to Redis: made anew after each failure, and given up when it does not answer.

So it neither waits as long as the host's client may, nor behind that one's broken connections, nor does it by itself
send again what may have been done.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.exceptions import TimeoutError as RedisTimeoutError

from araponga_infra.events.patience import SHORTEST_SECONDS, Patience
from araponga_infra.events.stores.redis.clients import async_side_client, clients_of, side_client

__all__ = ["AsyncLink", "Link"]

T = TypeVar("T")


class Link:
    """For one thread at a time.

    Args:
        client: the host's; each time that a connection is made it is asked where its Redis is.
        probe: a key of the node that keeps the events.
    """

    def __init__(self, client: Any, probe: str) -> None:
        self._host = client
        self._probe = probe
        self._patience = Patience()
        self._client: Any = None

    def run(self, send: Callable[[Any], T]) -> T:
        try:
            return self._send(self._client or self._reached(), send)
        except Exception:
            self.close()
            raise

    def _send(self, client: Any, send: Callable[[Any], T]) -> T:
        begun = time.monotonic()
        try:
            answer = send(client)
        except RedisTimeoutError:
            self._patience.gave_up()
            raise
        self._patience.answered(time.monotonic() - begun)
        return answer

    def _reached(self) -> Any:
        """Whether Redis is back is asked with little patience; then comes what it may take its time for."""
        self._client = side_client(self._host)
        self._client.exists(self._probe)
        if self._patience.seconds > SHORTEST_SECONDS:
            self.close()
            self._client = side_client(self._host, self._patience.seconds)
        return self._client

    def close(self) -> None:
        client, self._client = self._client, None
        for each in clients_of(client):
            each.close()


class AsyncLink:
    """The same for one task at a time."""

    def __init__(self, client: Any, probe: str) -> None:
        self._host = client
        self._probe = probe
        self._patience = Patience()
        self._client: Any = None

    async def run(self, send: Callable[[Any], Awaitable[T]]) -> T:
        try:
            return await self._send(self._client or await self._reached(), send)
        except Exception:
            await self.close()
            raise

    async def _send(self, client: Any, send: Callable[[Any], Awaitable[T]]) -> T:
        begun = time.monotonic()
        try:
            answer = await send(client)
        except RedisTimeoutError:
            self._patience.gave_up()
            raise
        self._patience.answered(time.monotonic() - begun)
        return answer

    async def _reached(self) -> Any:
        self._client = async_side_client(self._host)
        await self._client.exists(self._probe)
        if self._patience.seconds > SHORTEST_SECONDS:
            await self.close()
            self._client = async_side_client(self._host, self._patience.seconds)
        return self._client

    async def close(self) -> None:
        client, self._client = self._client, None
        for each in clients_of(client):
            await each.aclose()
