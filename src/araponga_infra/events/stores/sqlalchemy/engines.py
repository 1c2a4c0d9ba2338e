"""A second engine on the host's database, for a thread that must not wait for the host's pool or event loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, event
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from araponga_infra.errors import InvalidArgumentError
from araponga_infra.events.stores.sqlalchemy.connecting import AsyncConnecting, Connecting

__all__ = ["is_other_database", "refuse_private_memory", "side_engine"]


def side_engine(engine: Engine) -> Engine:
    """Connects as `engine` does, pool listeners included, with a pool of its own. Dispose of it after use.

    Where there is a network it does not wait for long to connect.
    """
    pool: Any = engine.pool.recreate()
    side = Engine(pool, engine.dialect, engine.url, hide_parameters=True)
    if engine.dialect.name == "postgresql":
        connecting = (AsyncConnecting if engine.dialect.is_async else Connecting)(pool._invoke_creator)
        pool._creator = connecting.connect
        event.listen(side, "engine_disposed", connecting.close)
    return side


def refuse_private_memory(engine: Engine) -> None:
    """
    Raises:
        InvalidArgumentError: a SQLite database in memory, which other connections cannot see.
    """
    if engine.dialect.name == "sqlite" and isinstance(engine.pool, (SingletonThreadPool, StaticPool)):
        raise InvalidArgumentError(
            "engine is a SQLite database in memory, which the processor's own connections cannot see: use a file, "
            "consume=False with run_until_idle(), or an InMemoryEventStore"
        )


def is_other_database(first: URL, second: URL) -> bool:
    """Whether two engines cannot be on one database. Hosts and ports tell nothing: a pooler has its own."""
    if first.get_backend_name() != second.get_backend_name():
        return True
    if first.get_backend_name() == "sqlite":
        return _file(first) is None or _file(first) != _file(second)
    is_same_server = (first.host, first.port) == (second.host, second.port)
    return is_same_server and first.database != second.database


def _file(url: URL) -> str | None:
    """None for a database in memory, which each pool has its own of."""
    path = url.database or ":memory:"
    if path.startswith("file:"):
        return path
    return None if path == ":memory:" else str(Path(path).resolve())
