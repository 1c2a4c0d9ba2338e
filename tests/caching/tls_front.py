"""TLS for the tests, ended in front of a server that need not speak it."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def ending_tls(context: ssl.SSLContext, target_port: int) -> Iterator[int]:
    """Forwards what arrives by TLS at the port it gives, from a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    front = _Front(context, target_port)
    try:
        yield asyncio.run_coroutine_threadsafe(front.open(), loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(front.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Front:
    def __init__(self, context: ssl.SSLContext, target_port: int) -> None:
        self._context = context
        self._target_port = target_port
        self._serving: set[asyncio.Task[None]] = set()

    async def open(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await asyncio.gather(_copy(reader, to_writer), _copy(to_reader, writer))
        finally:
            self._serving.discard(task)
            for end in (writer, to_writer):
                end.transport.abort()
                with suppress(OSError):
                    await end.wait_closed()

    async def close(self) -> None:
        self._server.close()
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await self._server.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until either side ends, and then both."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError
