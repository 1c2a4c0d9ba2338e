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

from araponga_infra.caching.backends.redis.scripts import Command

__all__ = ["COMMAND_NAME", "AsyncLink", "Link", "LinkBusyError", "Reply", "SyncLink"]

Reply: TypeAlias = Any
"""bytes, int, None, a list of replies, or the ResponseError that Redis answered."""


class LinkBusyError(Exception):
    """All connections are taken, or the cache has just been closed: this says nothing about Redis."""


class Link(Protocol):
    """One round trip at a time."""

    async def exchange(self, commands: Sequence[Command], packed: bytes | None = None) -> list[Reply]:
        """Send commands in one write and read their replies.

        A connection that has been closed while it lay idle is opened again, once: every command of ours may be sent
        twice.

        Args:
            commands: what to send.
            packed: the same in RESP2, where the caller keeps it.

        Raises:
            redis.RedisError, OSError, TimeoutError: Redis did not answer.
            LinkBusyError: no connection was free in time, or the link was closed meanwhile.
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
    """Over a pool of redis-py.

    Giving a connection back to a pool and taking it again costs a third of a round trip, so that idle connections of
    our own pool are kept here, until somebody waits for one.

    Args:
        pool: opens connections and bounds their number.
        is_ours: whether nobody else uses the pool.
    """

    def __init__(self, pool: Any, *, is_ours: bool) -> None:
        self._pool = pool
        self._is_ours = is_ours
        self._is_closed = False
        self.forget()

    def forget(self) -> None:
        """In a forked child: the connections belong to the parent."""
        self._lock = threading.Lock()
        self._idle: list[Any] = []
        self._waiting = 0

    async def exchange(self, commands: Sequence[Command], packed: bytes | None = None) -> list[Reply]:
        data = [pack(commands) if packed is None else packed]
        connection = self._take()
        try:
            try:
                connection.send_packed_command(data, check_health=False)
                return [_read(connection) for _ in commands]
            except redis.ConnectionError:
                connection.disconnect()
                if self._is_closed:
                    raise
            connection.send_packed_command(data, check_health=False)
            return [_read(connection) for _ in commands]
        except BaseException as error:
            connection.disconnect()
            if self._is_closed and isinstance(error, Exception):
                # Whatever redis-py makes of a connection that was closed under its hands.
                raise LinkBusyError from error
            raise
        finally:
            self._give_back(connection)

    def _take(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            pass
        if self._is_closed:
            raise LinkBusyError
        with self._lock:
            if self._idle:
                return self._idle.pop()
            self._waiting += 1
        try:
            return self._pool.get_connection(*COMMAND_NAME)
        except redis.ConnectionError as error:
            if isinstance(error.__cause__ or error.__context__, queue.Empty):
                raise LinkBusyError from error
            raise
        finally:
            with self._lock:
                self._waiting -= 1

    def _give_back(self, connection: Any) -> None:
        if self._is_ours:
            with self._lock:
                if not self._waiting and not self._is_closed:
                    self._idle.append(connection)
                    return
            if self._is_closed:
                connection.disconnect()
        self._pool.release(connection)

    def close(self) -> None:
        """Close the connections of a pool of ours, those in use as well: calls under way end without an answer."""
        self._is_closed = self._is_ours
        self.disconnect()

    def disconnect(self) -> None:
        """Close the connections of a pool of ours; the next call opens new ones."""
        if not self._is_ours:
            return
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            self._pool.release(connection)
        self._pool.disconnect()


def _read(connection: Any) -> Reply:
    try:
        return connection.read_response(disable_decoding=True)
    except redis.ResponseError as error:
        return error


class _LoopPool:
    """The connections of one event loop, idle ones of our own kept at hand as in `SyncLink`."""

    def __init__(self, pool: Any, *, is_ours: bool) -> None:
        self._pool = pool
        self._is_ours = is_ours
        self._idle: list[Any] = []
        self._waiting = 0
        self.is_closed: bool = False

    async def take(self) -> Any:
        if self._idle:
            return self._idle.pop()
        self._waiting += 1
        try:
            return await self._pool.get_connection(*COMMAND_NAME)
        finally:
            self._waiting -= 1

    async def give_back(self, connection: Any) -> None:
        if self._is_ours and not self._waiting and not self.is_closed:
            self._idle.append(connection)
            return
        if self._is_ours and self.is_closed:
            await connection.disconnect(nowait=True)
        await self._pool.release(connection)

    async def close_with_loop(self) -> AsyncGenerator[None]:
        """Closes when it is closed, or when its event loop is."""
        try:
            yield
        finally:
            self.is_closed = True
            if self._is_ours:
                idle, self._idle = self._idle, []
                with contextlib.suppress(redis.RedisError, OSError):
                    for connection in idle:
                        await self._pool.release(connection)
                    await self._pool.disconnect()


class AsyncLink:
    """A pool for each event loop, since a connection belongs to the loop that opened it.

    A pool of our own is closed when its loop shuts down: `asyncio.run` closes the asynchronous generators that are
    still open, and each pool hangs on one.

    Args:
        make_pool: opens a pool for a loop.
        host_pool: the pool of the host's client, for the loop that uses it first.
        budget_seconds: the most one exchange may take.
    """

    def __init__(self, make_pool: Callable[[], Any], host_pool: Any, budget_seconds: float) -> None:
        self._open_pool = make_pool
        self._host_pool = host_pool
        self._budget_seconds = budget_seconds
        self._host_loop: Any = None
        self._is_closed = False
        self.forget()

    def forget(self) -> None:
        """In a forked child: the loops and connections belong to the parent."""
        self._lock = threading.Lock()
        self._pools: weakref.WeakKeyDictionary[Any, tuple[_LoopPool, AsyncGenerator[None]]] = (
            weakref.WeakKeyDictionary()
        )

    async def exchange(self, commands: Sequence[Command], packed: bytes | None = None) -> list[Reply]:
        data = [pack(commands) if packed is None else packed]
        if self._is_closed:
            raise LinkBusyError
        known = self._pools.get(asyncio.get_running_loop())
        pool = known[0] if known is not None else await self._open()
        async with asyncio.timeout(self._budget_seconds):
            connection = await pool.take()
            try:
                try:
                    await _send_async(connection, data)
                    return [await _read_async(connection) for _ in commands]
                except redis.ConnectionError:
                    await connection.disconnect(nowait=True)
                    if pool.is_closed:
                        raise
                await _send_async(connection, data)
                return [await _read_async(connection) for _ in commands]
            except BaseException as error:
                await connection.disconnect(nowait=True)
                if pool.is_closed and isinstance(error, Exception):
                    raise LinkBusyError from error
                raise
            finally:
                await pool.give_back(connection)

    async def _open(self) -> _LoopPool:
        loop = asyncio.get_running_loop()
        with self._lock:
            pool = self._make_pool(loop)
            closer = pool.close_with_loop()
            self._pools[loop] = pool, closer
        await anext(closer)
        return pool

    def _make_pool(self, loop: Any) -> _LoopPool:
        if self._host_pool is not None and self._host_loop in (None, loop):
            self._host_loop = loop
            return _LoopPool(self._host_pool, is_ours=False)
        return _LoopPool(self._open_pool(), is_ours=True)

    async def aclose(self) -> None:
        """Close what belongs to this loop, also under a call; the others close with theirs, and take no more calls."""
        self._is_closed = True
        known = self._pools.pop(asyncio.get_running_loop(), None)
        if known is not None:
            await known[1].aclose()


async def _send_async(connection: Any, data: list[bytes]) -> None:
    try:
        await connection.send_packed_command(data, check_health=False)
    except (AttributeError, RuntimeError) as error:
        # What asyncio (since Python 3.12) and uvloop raise at a transport that the other side has closed meanwhile.
        raise redis.ConnectionError("the connection was closed") from error


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
