"""Commands to Redis and replies back, sync and async behind one coroutine interface.

The sync link never suspends, so that code written over a link runs in plain calls too (see `drive`).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Protocol, TypeAlias

import redis

from araponga_infra.caching.backends.redis.client import Endpoint
from araponga_infra.caching.backends.redis.scripts import Command

__all__ = ["COMMAND_NAME", "AsyncLink", "Link", "LinkBusyError", "Reply", "SyncLink"]

Reply: TypeAlias = Any
"""bytes, int, None, a list of replies, or the ResponseError that Redis answered."""


class LinkBusyError(Exception):
    """All connections are taken: this says nothing about Redis."""


class Link(Protocol):
    """One round trip at a time."""

    async def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands in one write and read their replies.

        A connection that has been closed while it lay idle is opened again, once: every command of ours may be sent
        twice.

        Raises:
            redis.RedisError, OSError, TimeoutError: Redis did not answer.
            LinkBusyError: no connection was free in time.
        """
        ...


def pack(commands: Sequence[Command]) -> bytes:
    """Commands in RESP2."""
    pieces: list[bytes] = []
    for command in commands:
        pieces.append(b"*%d\r\n" % len(command))
        for argument in command:
            data = argument if isinstance(argument, bytes) else str(argument).encode()
            pieces.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(pieces)


class SyncLink:
    """Over a pool of redis-py; the pool keeps connections of a forked child apart."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    async def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        connection = self._connection()
        data = [pack(commands)]
        try:
            try:
                connection.send_packed_command(data, check_health=False)
                return [_read(connection) for _ in commands]
            except redis.ConnectionError:
                connection.disconnect()
            connection.send_packed_command(data, check_health=False)
            return [_read(connection) for _ in commands]
        except BaseException:
            connection.disconnect()
            raise
        finally:
            self._pool.release(connection)

    def _connection(self) -> Any:
        try:
            return self._pool.get_connection(*COMMAND_NAME)
        except redis.ConnectionError as error:
            if isinstance(error.__cause__ or error.__context__, queue.Empty):
                raise LinkBusyError from error
            raise

    def close(self) -> None:
        self._pool.disconnect()


def _read(connection: Any) -> Reply:
    try:
        return connection.read_response(disable_decoding=True)
    except redis.ResponseError as error:
        return error


class AsyncLink:
    """A pool for each event loop, since a connection belongs to the loop that opened it.

    A pool of our own is closed when its loop shuts down: `asyncio.run` closes the asynchronous generators that are
    still open, and each pool hangs on one.
    """

    def __init__(self, endpoint: Endpoint, hook: Callable[[Any], Any]) -> None:
        self._endpoint = endpoint
        self._hook = hook
        self._lock = threading.Lock()
        self._pools: weakref.WeakKeyDictionary[Any, tuple[Any, AsyncGenerator[None]]] = weakref.WeakKeyDictionary()
        self._host_loop: Any = None

    async def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        pool = await self._pool()
        async with asyncio.timeout(self._endpoint.budget_seconds):
            connection = await pool.get_connection(*COMMAND_NAME)
            data = [pack(commands)]
            try:
                try:
                    await connection.send_packed_command(data, check_health=False)
                    return [await _read_async(connection) for _ in commands]
                except redis.ConnectionError:
                    await connection.disconnect(nowait=True)
                await connection.send_packed_command(data, check_health=False)
                return [await _read_async(connection) for _ in commands]
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            finally:
                await pool.release(connection)

    async def _pool(self) -> Any:
        loop = asyncio.get_running_loop()
        known = self._pools.get(loop)
        if known is not None:
            return known[0]
        with self._lock:
            pool, is_ours = self._make_pool(loop)
            closer = _closing(pool, is_ours=is_ours)
            self._pools[loop] = pool, closer
        await anext(closer)
        return pool

    def _make_pool(self, loop: Any) -> tuple[Any, bool]:
        if self._endpoint.async_pool is not None and self._host_loop in (None, loop):
            self._host_loop = loop
            return self._endpoint.async_pool, False
        return self._endpoint.pool_for_loop(self._hook), True

    async def aclose(self) -> None:
        """Close what belongs to this loop; the others close with theirs."""
        known = self._pools.pop(asyncio.get_running_loop(), None)
        if known is not None:
            await known[1].aclose()

    def forget(self) -> None:
        """In a forked child: the parent's loops and connections are not ours to touch."""
        self._lock = threading.Lock()
        self._inherited = self._pools
        self._pools = weakref.WeakKeyDictionary()


async def _closing(pool: Any, *, is_ours: bool) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        if is_ours:
            with contextlib.suppress(redis.RedisError, OSError):
                await pool.disconnect()


async def _read_async(connection: Any) -> Reply:
    try:
        return await connection.read_response(disable_decoding=True)
    except redis.ResponseError as error:
        return error


def _command_name() -> tuple[str, ...]:
    """Until redis-py 5.3 a pool asked which command its connection was for."""
    major, minor = (int(part) for part in redis.__version__.split(".")[:2])
    return () if (major, minor) >= (5, 3) else ("_",)


COMMAND_NAME = _command_name()
