"""NOTIFY and LISTEN: word between processes that there is something to do. Only ever a hint; polling stands behind it.

A NOTIFY takes a lock that every committing transaction with one waits for, so that it is sent after the COMMIT, on its
own, and at most once in a while by each process. A listener that was woken looks again after that while, so that what
was committed without a NOTIFY of its own is seen as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import select
import threading
import time
from typing import Any, cast

from sqlalchemy import Connection, Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine

from araponga_infra.events.protocols import Wake

__all__ = ["NoListener", "Notifier", "PostgresListener", "channel_of"]

QUIET_SECONDS = 0.01
_TICK_SECONDS = 0.25
_RECONNECT_SECONDS = 0.25
_LONGEST_CHANNEL = 63
_logger = logging.getLogger("araponga_infra.events")


def channel_of(schema: str | None) -> str:
    """Stores of one database that live in different schemas do not wake each other.

    PostgreSQL cuts longer names for LISTEN and refuses them for NOTIFY.
    """
    channel = "araponga_events" if schema is None else f"araponga_events_{schema}".replace('"', "")
    if len(channel.encode()) <= _LONGEST_CHANNEL:
        return channel
    return f"araponga_events_{hashlib.blake2b(channel.encode(), digest_size=16).hexdigest()}"


class Notifier:
    """Sends coalesced notifications; one per store, shared by its shells. Thread-safe.

    Args:
        channel: of LISTEN and NOTIFY.
        is_postgres: without it there is nobody to tell.
    """

    def __init__(self, channel: str, *, is_postgres: bool) -> None:
        self.channel = channel
        self._is_postgres = is_postgres
        self._sent_at = float("-inf")
        self._statement = text("SELECT set_config('synchronous_commit', 'off', true), pg_notify(:channel, '')")

    def _is_due(self) -> bool:
        now = time.monotonic()
        if not self._is_postgres or now - self._sent_at < QUIET_SECONDS:
            return False
        self._sent_at = now
        return True

    def notify(self, engine: Engine) -> None:
        """Never raises: what was committed is found by polling."""
        if not self._is_due():
            return
        try:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                self._send(connection)
        except Exception as error:
            _logger.debug("NOTIFY failed with %s", type(error).__name__)

    async def async_notify(self, engine: AsyncEngine) -> None:
        if not self._is_due():
            return
        try:
            async with engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.run_sync(self._send)
        except Exception as error:
            _logger.debug("NOTIFY failed with %s", type(error).__name__)

    def _send(self, connection: Connection) -> None:
        connection.execute(self._statement, {"channel": self.channel})


class NoListener:
    """For databases without notifications: polling does it all."""

    def close(self) -> None:
        """Nothing is held."""


class PostgresListener:
    """A thread with a connection of its own that listens. After a lost connection it connects again, and wakes at once.

    Args:
        engine: made for this listener, disposed of by it.
        channel: of LISTEN.
        wake: called from this thread.
        is_async: whether the engine's driver is an async one.
    """

    def __init__(self, engine: Engine, channel: str, wake: Wake, *, is_async: bool) -> None:
        self._engine = engine
        self._channel = channel
        self._wake = wake
        self._is_async = is_async
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="araponga-events-listen", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._is_async:
                    asyncio.run(self._listen_async())
                else:
                    self._listen()
            except Exception as error:
                _logger.warning("LISTEN on the event store ended with %s; connecting again", type(error).__name__)
                self._stop.wait(_RECONNECT_SECONDS)

    def _listen(self) -> None:
        try:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text(f'LISTEN "{self._channel}"'))
                self._wake()
                driver: Any = connection.connection.driver_connection
                while not self._stop.is_set():
                    if _wait_for_notify(driver):
                        self._wake()
        finally:
            self._engine.dispose()

    async def _listen_async(self) -> None:
        engine = AsyncEngine(self._engine)
        try:
            async with engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.execute(text(f'LISTEN "{self._channel}"'))
                self._wake()
                driver: Any = (await connection.get_raw_connection()).driver_connection
                if hasattr(driver, "add_listener"):
                    await self._listen_asyncpg(driver)
                else:
                    await self._listen_psycopg(driver)
        finally:
            await engine.dispose()

    async def _listen_asyncpg(self, driver: Any) -> None:
        def heard(*_: Any) -> None:
            self._wake()

        await driver.add_listener(self._channel, heard)
        while not self._stop.is_set():
            if driver.is_closed():
                raise ConnectionError("the connection was closed")
            await asyncio.sleep(_TICK_SECONDS)
        await driver.remove_listener(self._channel, heard)

    async def _listen_psycopg(self, driver: Any) -> None:
        while not self._stop.is_set():
            async for _ in driver.notifies(timeout=_TICK_SECONDS, stop_after=1):
                self._wake()


def _wait_for_notify(driver: Any) -> bool:
    """Wait a moment on a psycopg 3 or psycopg2 connection."""
    if callable(driver.notifies):
        return any(True for _ in cast(Any, driver.notifies)(timeout=_TICK_SECONDS, stop_after=1))
    readable, _, _ = select.select([driver], [], [], _TICK_SECONDS)
    if not readable:
        return False
    driver.poll()
    waiting = cast(list[Any], driver.notifies)
    heard = len(waiting) > 0
    waiting.clear()
    return heard
