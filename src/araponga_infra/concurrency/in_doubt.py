"""A COMMIT whose answer was lost: is the server still at it, and when may somebody look for its outcome."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

__all__ = ["LOOK_DELAYS_SECONDS", "is_still_open", "server_process"]

LOOK_DELAYS_SECONDS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0)
"""Waits before each look: for a server that is still committing, and for one that restarts."""

_OPEN_TRANSACTIONS = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :process AND xact_start < now()")


def server_process(session: Session) -> int | None:
    """The id of the PostgreSQL process that serves this session; None on other databases. Known to the driver."""
    connection = session.connection()
    if connection.dialect.name != "postgresql":
        return None
    driver: Any = connection.connection.driver_connection
    if hasattr(driver, "get_server_pid"):  # asyncpg
        asyncpg_process: int = driver.get_server_pid()
        return asyncpg_process
    process: int | None = getattr(getattr(driver, "info", None), "backend_pid", None)
    return process


def is_still_open(session: Session, process: int) -> bool:
    """Whether that process has a transaction open: it may yet be committed, so nobody can know its outcome."""
    return bool(session.scalar(_OPEN_TRANSACTIONS, {"process": process}))
