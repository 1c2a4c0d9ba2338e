"""A TCP proxy that breaks the network between one client and its server, on command or at a byte on the wire.

Only what goes through the proxy is affected. Every command has taken full effect when it returns, so a test needs no
waiting. The proxy runs an event loop in a thread of its own, and serves threads and asyncio alike.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from enum import Enum, auto
from typing import Any, Literal, Self

from .run_folder import release, reserve_port

__all__ = ["Cut", "TcpProxy"]

_HOST = "127.0.0.1"
_COMMAND_TIMEOUT_SECONDS = 10.0
_BACKLOG = 512
_CHUNK_BYTES = 64 * 1024
_CHUNKS_IN_FLIGHT = 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

_When = Literal["before_forward", "after_forward"]


class _Mode(Enum):
    FORWARD = auto()
    BLACK_HOLE = auto()
    STALL = auto()


class _ConnectionCutError(Exception):
    """Ends a connection from within, with a reset."""


class Cut:
    """A connection loss that waits for its moment; made by `TcpProxy.cut_when`."""

    def __init__(self, matches: Callable[[bytes], bool], when: _When, times: int) -> None:
        self.when = when
        self._matches = matches
        self._remaining = times
        self._happened = threading.Event()

    @property
    def happened(self) -> bool:
        """Whether a connection was lost by it; true as soon as the client can notice."""
        return self._happened.is_set()

    def wait(self, timeout_seconds: float = 10.0) -> bool:
        """Wait until a connection was lost by it; whether one was."""
        return self._happened.wait(timeout_seconds)

    def _claims(self, data: bytes) -> bool:
        if not self._remaining or not self._matches(data):
            return False
        self._remaining -= 1
        return True


class TcpProxy:
    """Listens on a loopback port and forwards to another one, until told otherwise.

    Args:
        target_port: The port to forward to.
        target_host: The host to forward to.
    """

    def __init__(self, target_port: int, *, target_host: str = _HOST) -> None:
        self.target = (target_host, target_port)
        self._mode = _Mode.FORWARD
        self._delay_to_server = self._delay_to_client = 0.0
        self._cuts: list[Cut] = []
        self._open: dict[asyncio.Task[None], _Connection] = {}
        self._errors: list[BaseException] = []
        self._reserved = reserve_port("proxy")
        self._listener: socket.socket | None = None
        self._loop = asyncio.SelectorEventLoop()
        self._flowing = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()
        self._command(self._forward_anew())

    @property
    def port(self) -> int:
        """The port that clients connect to, the same for its whole life."""
        return self._reserved.number

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._open)

    def cut(self) -> None:
        """Reset every connection and refuse new ones, as when the server's machine is gone, until `restore`."""
        self._command(self._cut())

    def reset_connections(self) -> None:
        """Reset every connection; new ones are accepted."""
        self._command(_cancel(list(self._open)))

    def black_hole(self) -> None:
        """Keep connections open and accept new ones, but swallow every byte both ways, until `restore`."""
        self._command(self._swallow())

    def stall(self) -> None:
        """Keep every byte, and new connections, until `restore`: as TCP does when a network heals that lost packets."""
        self._command(self._hold())

    def delay(self, *, to_server: float = 0.0, to_client: float = 0.0) -> None:
        """Let bytes be on their way for that many seconds, per direction; calling it without arguments ends it."""
        self._command(self._set_delay(to_server, to_client))

    def cut_when(self, matches: Callable[[bytes], bool], when: _When = "after_forward", *, times: int = 1) -> Cut:
        """Lose a connection at a moment on the wire; other connections go on, new ones are accepted.

        Args:
            matches: Is given each chunk that a client sends, as it arrives; true is the moment. It runs in the
                proxy's thread.
            when: ``before_forward``: the server never sees the chunk, the connection is reset at once on both sides.
                ``after_forward``: the server gets the chunk and answers; the answer is swallowed and the connection
                is reset, so the work is done but the client cannot know.
            times: How many chunks are matched before the proxy forwards them again.
        """
        cut = Cut(matches, when, times)
        self._command(self._add_cut(cut))
        return cut

    def restore(self, *, silently: bool = False) -> None:
        """Forward again: no delay, no waiting cut. Connections that lost bytes or are unanswered yet are reset.

        Args:
            silently: These stay open instead, and swallow what comes: as when a firewall has forgotten them.
        """
        self._command(self._forward_anew(silently=silently))

    def close(self) -> None:
        """Reset every connection and give the port back; safe to call twice.

        Raises:
            BaseExceptionGroup: What a function given to `cut_when` raised; its connections were reset.
        """
        if self._loop.is_closed():
            return
        self._command(self._cut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_COMMAND_TIMEOUT_SECONDS)
        self._loop.close()
        release(self._reserved)
        if self._errors:
            raise BaseExceptionGroup("connections of the proxy ended in errors", self._errors)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _command(self, command: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(command, self._loop).result(_COMMAND_TIMEOUT_SECONDS)

    async def _cut(self) -> None:
        if self._listener:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        await _cancel(list(self._open))

    async def _swallow(self) -> None:
        self._mode = _Mode.BLACK_HOLE
        self._listen()

    async def _hold(self) -> None:
        self._mode = _Mode.STALL
        self._flowing.clear()
        self._listen()

    async def _set_delay(self, to_server: float, to_client: float) -> None:
        self._delay_to_server, self._delay_to_client = to_server, to_client

    async def _add_cut(self, cut: Cut) -> None:
        self._cuts.append(cut)

    async def _forward_anew(self, *, silently: bool = False) -> None:
        self._mode = _Mode.FORWARD
        self._flowing.set()
        self._delay_to_server = self._delay_to_client = 0.0
        self._cuts.clear()
        if not silently:
            await _cancel([task for task, connection in self._open.items() if connection.has_lost_bytes])
        self._listen()

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = _new_socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((_HOST, self.port))
            self._listener.listen(_BACKLOG)
            # Not `sock_accept`: cancelled at the wrong moment, it forgets a client it has accepted.
            self._loop.add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        # The client may be gone again before its turn comes.
        with suppress(BlockingIOError, ConnectionAbortedError):
            client, _ = listener.accept()
            _make_prompt(client)
            connection = _Connection(self, client)
            task = self._loop.create_task(connection.run())
            self._open[task] = connection
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        # One that is cancelled before its first step has closed nothing.
        self._open.pop(task).close(reset=True)
        if not task.cancelled() and (error := task.exception()):
            self._errors.append(error)

    def _claimed_cut(self, data: bytes) -> Cut | None:
        return next((cut for cut in self._cuts if cut._claims(data)), None)


class _Connection:
    """One client's connection, and the connection to the server that belongs to it."""

    def __init__(self, proxy: TcpProxy, client: socket.socket) -> None:
        self.proxy = proxy
        self.client = client
        self.server = _new_socket()
        self.cut: Cut | None = None
        self.has_lost_bytes = False

    @property
    def is_swallowing(self) -> bool:
        """Whether nothing gets through; remembered, since a stream with a hole cannot go on."""
        self.has_lost_bytes |= self.proxy._mode is _Mode.BLACK_HOLE
        return self.has_lost_bytes

    async def run(self) -> None:
        """Forward until both sides are done, or one breaks: a break on one side is a reset on the other."""
        reset = True
        try:
            await self._forward()
            reset = False
        except* (OSError, _ConnectionCutError):
            pass
        finally:
            self.close(reset=reset)

    async def _forward(self) -> None:
        if self.is_swallowing:
            await _for_ever()
        await self.proxy._flowing.wait()
        await asyncio.get_running_loop().sock_connect(self.server, self.proxy.target)
        async with asyncio.TaskGroup() as group:
            for direction in (_ToServer(self, self.client, self.server), _ToClient(self, self.server, self.client)):
                group.create_task(direction.receive())
                group.create_task(direction.deliver())

    def close(self, *, reset: bool) -> None:
        """Close both sides, with a reset or orderly; nothing happens to sides that are closed."""
        # Before the client can notice: a test that caught the loss finds that it happened.
        if self.cut:
            self.cut._happened.set()
        for end in (self.client, self.server):
            if reset and end.fileno() != -1:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            end.close()


class _Direction:
    """What goes one way on a connection: received at once, delivered after the delay."""

    def __init__(self, connection: _Connection, source: socket.socket, sink: socket.socket) -> None:
        self._connection = connection
        self._proxy = connection.proxy
        self._source = source
        self._sink = sink
        self._on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS_IN_FLIGHT)

    async def receive(self) -> None:
        """Put on the way what arrives; an empty chunk stands for the end of the stream."""
        data = b"the first"
        while data:
            data = await self._next_chunk()
            await self._on_the_way.put((time.monotonic() + self.delay(), data))

    async def deliver(self) -> None:
        """Hand over what is due, up to the end of the stream."""
        data = b"the first"
        while data:
            due, data = await self._on_the_way.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._proxy._flowing.wait()
            if not self._connection.is_swallowing:
                await self.hand_over(data)
        if self._connection.has_lost_bytes:
            # A black hole does not let the end of a stream through either.
            await _for_ever()

    async def hand_over(self, data: bytes) -> None:
        """Pass on one chunk, or the end of the stream."""
        if data:
            await asyncio.get_running_loop().sock_sendall(self._sink, data)
        else:
            self._sink.shutdown(socket.SHUT_WR)

    def delay(self) -> float:
        """How many seconds a chunk that arrives now is on its way."""
        raise NotImplementedError

    async def _next_chunk(self) -> bytes:
        try:
            return await asyncio.get_running_loop().sock_recv(self._source, _CHUNK_BYTES)
        except ConnectionError:
            if self._connection.is_swallowing:
                return b""
            raise


class _ToServer(_Direction):
    def delay(self) -> float:
        return self._proxy._delay_to_server

    async def hand_over(self, data: bytes) -> None:
        if cut := self._proxy._claimed_cut(data):
            self._connection.cut = cut
            if cut.when == "before_forward":
                raise _ConnectionCutError
        await super().hand_over(data)


class _ToClient(_Direction):
    def delay(self) -> float:
        return self._proxy._delay_to_client

    async def _next_chunk(self) -> bytes:
        data = await super()._next_chunk()
        if self._connection.cut:
            # The answer to the chunk that was the moment: the server has acted on it, the client must not learn of it.
            raise _ConnectionCutError
        return data


def _new_socket() -> socket.socket:
    new = socket.socket()
    _make_prompt(new)
    return new


def _make_prompt(new: socket.socket) -> None:
    new.setblocking(False)
    new.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task
