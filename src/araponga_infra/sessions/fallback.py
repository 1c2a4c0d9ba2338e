"""The primary, read-only, in place of replicas that are out; its connections are not kept once they are back."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from araponga_infra.sessions.engines import ReadOnlyEngine, at_checkin

__all__ = ["FallbackEngine"]


class FallbackEngine(ReadOnlyEngine):
    """Over an engine of our own.

    `dispose()` would leave connections that are in use to the garbage collector, so each is closed when it comes back.
    """

    def __init__(self, proxied: Engine) -> None:
        super().__init__(proxied, {})
        self._recycled_at = 0.0

    def check_out(self) -> PoolProxiedConnection:
        connection = super().check_out()
        record: Any = connection
        at_checkin(connection, partial(self._close_if_old, record._connection_record))
        return connection

    def _close_if_old(self, record: Any, _connection: Any) -> None:
        if record.starttime <= self._recycled_at:
            record.invalidate()

    def recycle(self) -> None:
        """Close the idle connections now, and those in use when they are given back."""
        self._recycled_at = time.time()
        if isinstance(self.pool, QueuePool):
            for _ in range(self.pool.checkedin()):
                self.check_out().close()
