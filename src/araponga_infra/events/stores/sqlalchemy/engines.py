"""A second engine on the host's database, for a thread that must not wait for the host's pool or event loop."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from araponga_infra.errors import InvalidArgumentError

__all__ = ["refuse_private_memory", "side_engine"]


def side_engine(engine: Engine) -> Engine:
    """Connects as `engine` does, pool listeners included, with a pool of its own. Dispose of it after use."""
    return Engine(engine.pool.recreate(), engine.dialect, engine.url, hide_parameters=True)


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
