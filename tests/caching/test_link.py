"""What asyncio raises of its own at a connection that is gone stays inside."""

from __future__ import annotations

import asyncio
import gc

import pytest
import redis.asyncio

from araponga_infra import AsyncRedisCacheService

pytestmark = pytest.mark.anyio


async def test_a_transport_that_has_closed_meanwhile_is_replaced(redis_url: str) -> None:
    """Python 3.12 and newer raise AttributeError at `writelines` on it, which redis-py lets through."""
    async with AsyncRedisCacheService(redis_url, timeout=5) as cache:
        await cache.set("key", "value")
        connections = [each for each in gc.get_objects() if isinstance(each, redis.asyncio.Connection)]
        for connection in connections:
            if connection._writer is not None:
                connection._writer.transport.abort()
        await asyncio.sleep(0)
        assert await cache.get("key") == "value"
        assert not cache.is_degraded
