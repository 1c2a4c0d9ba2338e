"""A connection of its own to one server, to ask it how it is; and how to break a connection that hangs."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.pool import NullPool, PoolProxiedConnection

__all__ = ["Probe", "abort"]


class Probe:
    """Asks one server one question over one connection, which is opened when needed and kept.

    It does not take from the engine's pool, which may be exhausted by sessions that hang. Not thread-safe, but for
    `abort`, which may come from anywhere.
    """

    def __init__(self, engine: Engine, question: str) -> None:
        self._dialect = engine.dialect
        self._pool = NullPool(engine.pool._creator, dialect=engine.dialect)
        self._question = question
        self._connection: PoolProxiedConnection | None = None

    def ask(self) -> tuple[Any, ...]:
        """The first row of the answer; the connection is dropped when it fails."""
        try:
            connection = self._connection or self._connect()
            cursor = connection.cursor()
            try:
                cursor.execute(self._question)
                return tuple(cursor.fetchone() or ())
            finally:
                cursor.close()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> PoolProxiedConnection:
        self._connection = self._pool.connect()
        if self._dialect.name == "postgresql":
            self._connection.dbapi_connection.autocommit = True  # type: ignore[union-attr]
        return self._connection

    def abort(self) -> None:
        """Break the connection, so that whoever waits on it gets an error now."""
        connection = self._connection
        if connection is not None and connection.dbapi_connection is not None:
            abort(self._dialect.get_driver_connection(connection.dbapi_connection))

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                abort(connection.driver_connection)
                connection.invalidate()


def abort(driver: Any) -> None:
    """Break a driver's connection without waiting for its server; a connection that is closed already stays so.

    asyncpg drops its transport. psycopg waits on a socket: shutting that down ends the wait, in whatever thread.
    """
    with suppress(Exception):
        if hasattr(driver, "fileno"):
            _shut_down(driver)
        elif hasattr(driver, "terminate"):
            driver.terminate()


def _shut_down(driver: Any) -> None:
    number: int = driver.fileno()
    with socket.socket(fileno=os.dup(number)) as same:
        # Between the two calls the connection may have been closed and its number given to another file.
        if driver.fileno() == number:
            same.shutdown(socket.SHUT_RDWR)
