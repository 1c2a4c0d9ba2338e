"""A worker that is killed in the moment when what a handler wrote has been committed."""

from __future__ import annotations

import os
import signal
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.pool import ConnectionPoolEntry, Pool

from araponga_infra.cli import run_worker
from examples.community.handlers import router


@event.listens_for(Engine, "before_cursor_execute")
def note(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
    if statement.startswith("INSERT INTO notification"):
        connection.info["has_filled_inboxes"] = True


@event.listens_for(Pool, "checkin")
def die(_connection: Any, entry: ConnectionPoolEntry) -> None:
    if "has_filled_inboxes" in entry.info:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    run_worker(routers=[router])
