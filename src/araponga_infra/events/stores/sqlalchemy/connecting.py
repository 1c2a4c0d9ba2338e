"""Connects without waiting for long: drivers keep trying for minutes what a network swallows.

An attempt that takes too long is left to itself while the next one is made, and the first to succeed is taken: so a
server that is back is reached at once, and one that takes its time is reached as well.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextvars import copy_context
from typing import Any

from sqlalchemy.util import await_only, greenlet_spawn

from araponga_infra.events.patience import SHORTEST_SECONDS

__all__ = ["AsyncConnecting", "Connecting"]

_MOST_ATTEMPTS = 100
_Attempt = Any
"""A Future of either kind; their results are a driver's connections as SQLAlchemy has them."""


class Connecting:
    """A pool's way to connect, for a sync driver: attempts are threads.

    Args:
        connect: what the host's pool does, with SQLAlchemy's record of the connection.
    """

    def __init__(self, connect: Callable[[Any], Any]) -> None:
        self._connect_as_host = connect
        self._attempts: list[Future[Any]] = []
        self._lock = threading.Lock()

    def connect(self, record: Any) -> Any:
        with self._lock:
            attempts, self._attempts = self._attempts, []
        if len(attempts) < _MOST_ATTEMPTS:
            attempts.append(self._begin(record))
        wait(attempts, timeout=SHORTEST_SECONDS, return_when=FIRST_COMPLETED)
        return _first(attempts, self._keep)

    def close(self, _engine: object = None) -> None:
        """Nobody waits for the attempts that are under way."""
        with self._lock:
            attempts, self._attempts = self._attempts, []
        _abandon(attempts)

    def _begin(self, record: Any) -> Future[Any]:
        attempt = Future[Any]()
        run = copy_context().run
        threading.Thread(
            target=run, args=(self._run, attempt, record), name="araponga-events-connect", daemon=True
        ).start()
        return attempt

    def _run(self, attempt: Future[Any], record: Any) -> None:
        try:
            attempt.set_result(self._connect_as_host(record))
        except BaseException as error:
            attempt.set_exception(error)

    def _keep(self, attempts: Collection[_Attempt]) -> None:
        with self._lock:
            self._attempts.extend(attempts)


class AsyncConnecting:
    """The same for an async driver, called where SQLAlchemy awaits: attempts are tasks."""

    def __init__(self, connect: Callable[[Any], Any]) -> None:
        self._connect_as_host = connect
        self._attempts: list[asyncio.Task[Any]] = []

    def connect(self, record: Any) -> Any:
        return await_only(self._first(record))

    def close(self, _engine: object = None) -> None:
        """As its sync form does."""
        attempts, self._attempts = self._attempts, []
        _abandon(attempts)
        for each in attempts:
            each.cancel()

    async def _first(self, record: Any) -> Any:
        attempts, self._attempts = self._attempts, []
        attempts.append(asyncio.create_task(greenlet_spawn(self._connect_as_host, record)))
        try:
            await asyncio.wait(attempts, timeout=SHORTEST_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            _abandon(attempts)
            raise
        return _first(attempts, self._attempts.extend)


def _first(attempts: Collection[_Attempt], keep: Callable[[Collection[_Attempt]], None]) -> Any:
    """The connection of one that has succeeded; else the ones that may still are kept."""
    open_, ended = [each for each in attempts if not each.done()], [each for each in attempts if each.done()]
    connected = [each for each in ended if each.exception() is None]
    if connected:
        _abandon([*open_, *connected[1:]])
        return connected[0].result()
    keep(open_)
    if ended:
        raise ended[-1].exception()
    raise TimeoutError(f"the database did not answer for {SHORTEST_SECONDS:g} s: connecting goes on")


def _abandon(attempts: Collection[_Attempt]) -> None:
    for each in attempts:
        each.add_done_callback(_close)


def _close(attempt: _Attempt) -> None:
    if attempt.cancelled() or attempt.exception() is not None:
        return
    connection = attempt.result()
    driver = getattr(connection, "driver_connection", connection)
    if hasattr(driver, "terminate"):
        driver.terminate()
    elif hasattr(driver, "pgconn"):
        driver.pgconn.finish()
    else:
        driver.close()
