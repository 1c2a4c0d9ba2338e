"""NOTIFY and LISTEN: word between processes that there is something to do. Only ever a hint; polling stands behind it.

A NOTIFY takes a lock that every committing transaction with one waits for, so that it is sent after the COMMIT, on its
own, and at most once in a while by each process. A listener that was woken looks again after that while, so that what
was committed without a NOTIFY of its own is seen as well. Only a publish after a longer silence takes it along in its
one statement: ten times a second the lock is cheap, and an idle worker hears a round trip earlier.
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

from araponga_infra.events.patience import Patience
from araponga_infra.events.protocols import Wake
from araponga_infra.events.stores.sqlalchemy.watchdog import Watching

__all__ = ["AsyncPostgresListener", "NoListener", "Notifier", "PostgresListener", "channel_of"]

QUIET_SECONDS = 0.01
RIDING_SECONDS = 0.1
_TICK_SECONDS = 0.25
_RECONNECT_SECONDS = 0.25
_PROBE_SECONDS = 0.75
_LONGEST_CHANNEL = 63
_CLOSE_SECONDS = 2.0
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

    def riding(self) -> str | None:
        """The channel, when nothing was sent for so long that a NOTIFY may be part of the statement that publishes."""
        now = time.monotonic()
        if now - self._sent_at < RIDING_SECONDS:
            return None
        self._sent_at = now
        return self.channel

    def tell(self, connection: Connection) -> None:
        """On a connection without a transaction. Never raises: what was committed is found by polling."""
        if not self._is_due():
            return
        try:
            self._send(connection)
        except Exception as error:
            _logger.debug("NOTIFY failed with %s", type(error).__name__)

    def notify(self, engine: Engine) -> None:
        """As `tell`, on a connection of its own; on one of an async driver only where SQLAlchemy awaits."""
        if not self._is_due():
            return
        try:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                self._send(connection)
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
        watchdog: tells when the connection has died without a word.
    """

    def __init__(self, engine: Engine, channel: str, wake: Wake, watchdog: Watching) -> None:
        self._watchdog = watchdog
        self._patience = Patience()
        self._engine = engine
        self._channel = channel
        self._wake = wake
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="araponga-events-listen", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._listen()
            except Exception as error:
                _warn_lost(error)
                self._stop.wait(_RECONNECT_SECONDS)

    def _listen(self) -> None:
        try:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                self._ask(connection, f'LISTEN "{self._channel}"')
                self._wake()
                driver: Any = connection.connection.driver_connection
                asked_at = time.monotonic()
                while not self._stop.is_set():
                    if _wait_for_notify(driver):
                        self._wake()
                    if time.monotonic() - asked_at >= _PROBE_SECONDS:
                        self._ask(connection, "SELECT 1")
                        asked_at = time.monotonic()
        finally:
            self._engine.dispose()

    def _ask(self, connection: Connection, statement: str) -> None:
        with self._watchdog.watch(connection, self._patience):
            connection.exec_driver_sql(statement)


class AsyncPostgresListener:
    """The same as a task of the running loop: a thread would cost a wake-up on the way of every event.

    Args:
        engine: made for this listener, disposed of by it.
        channel: of LISTEN.
        wake: called on the loop.
        watchdog: tells when the connection has died without a word.
    """

    def __init__(self, engine: AsyncEngine, channel: str, wake: Wake, watchdog: Watching) -> None:
        self._watchdog = watchdog
        self._patience = Patience()
        self._engine = engine
        self._channel = channel
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._ended = threading.Event()
        self._task = self._loop.create_task(self._run(), name="araponga-events-listen")
        self._task.add_done_callback(lambda _: self._ended.set())

    def close(self) -> None:
        """From any thread; from another one than the loop's it waits for the connection to be closed."""
        try:
            self._loop.call_soon_threadsafe(self._task.cancel)
        except RuntimeError:
            return
        if asyncio._get_running_loop() is not self._loop:
            self._ended.wait(_CLOSE_SECONDS)

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except Exception as error:
                _warn_lost(error)
                await asyncio.sleep(_RECONNECT_SECONDS)

    async def _listen(self) -> None:
        try:
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.run_sync(self._ask, f'LISTEN "{self._channel}"')
                self._wake()
                driver: Any = (await connection.get_raw_connection()).driver_connection
                hear = self._hear_psycopg
                if hasattr(driver, "add_listener"):
                    with self._watchdog.watch(cast(Connection, connection.sync_connection), self._patience):
                        await driver.add_listener(self._channel, self._heard)
                    hear = self._hear_asyncpg
                while True:
                    await hear(driver)
                    await connection.run_sync(self._ask, "SELECT 1")
        finally:
            await self._engine.dispose()

    def _ask(self, connection: Connection, statement: str) -> None:
        with self._watchdog.watch(connection, self._patience):
            connection.exec_driver_sql(statement)

    def _heard(self, *_: Any) -> None:
        self._wake()

    async def _hear_asyncpg(self, driver: Any) -> None:
        deadline = time.monotonic() + _PROBE_SECONDS
        while time.monotonic() < deadline:
            await asyncio.sleep(_TICK_SECONDS)
            if driver.is_closed():
                raise ConnectionError("the connection was closed")

    async def _hear_psycopg(self, driver: Any) -> None:
        deadline = time.monotonic() + _PROBE_SECONDS
        while time.monotonic() < deadline:
            async for _ in driver.notifies(timeout=_TICK_SECONDS, stop_after=1):
                self._wake()


def _warn_lost(error: Exception) -> None:
    _logger.warning("LISTEN on the event store ended with %s; connecting again", type(error).__name__)


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
