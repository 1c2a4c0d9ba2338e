"""Alembic, from code: one connection, one revision to go to. `python -m examples.community migrate` calls it."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.ext.asyncio import AsyncEngine

from araponga_infra import SqlAlchemyEventStore

from .domain import Base

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(connection: Connection, revision: str = "head") -> None:
    command.upgrade(_config(connection), revision)


def downgrade(connection: Connection, revision: str) -> None:
    command.downgrade(_config(connection), revision)


async def migrate(engine: AsyncEngine) -> None:
    """All in one transaction, one process at a time: instances that migrate at once wait for the first one."""
    async with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            await connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('community.migrations', 0))"))
            await connection.execute(text("SET LOCAL lock_timeout = '5s'"))  # nobody queues behind a queueing migration
        await connection.run_sync(upgrade)


def tables(connection: Connection) -> list[MetaData]:
    """What the migrations are to end in: the service's tables and the event store's."""
    return [Base.metadata, SqlAlchemyEventStore(connection.engine).metadata]


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes.update(connection=connection, target_metadata=tables(connection))
    return config
