"""The migrations on databases with rows, up and down, and what they end in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine

from araponga_infra import InfraSettings
from examples.community import schema
from tests.community.conftest import migrate_and_seed
from tests.servers.postgres import PostgresDatabase

WITHOUT_VERSIONS, WITH_VERSIONS = "0001", "0002"
VERSIONED = {"territory", "territory_membership", "community_post", "territory_event", "map_entity", "feature_flag"}
ROWS = {
    "territory": "(1, 'Vale')",
    "territory_membership": "(1, 1, 'ana', 'resident')",
    "community_post": "(1, 1, 'ana', 'Feira', '', 3, '2026-05-04 09:00:00')",
    "territory_event": "(1, 1, 'Feira', 'Praça', '2026-05-04 09:00:00')",
    "map_entity": "(1, 1, 'Praça', 'square', -23.4, -45.0)",
    "feature_flag": "('announcements', true)",
    "notification": "(1, 'ana', 'New in your territory: Feira', NULL)",
}


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'community.db'}"
    else:
        url = request.getfixturevalue("postgres_database").url("psycopg")
    engine = create_engine(url)
    with engine.begin() as connection:
        schema.upgrade(connection, WITHOUT_VERSIONS)
        for table, values in ROWS.items():
            connection.execute(text(f"INSERT INTO {table} VALUES {values}"))
    yield engine
    engine.dispose()


def tables_with_versions(connection: Connection) -> set[str]:
    schema_of = inspect(connection)
    return {
        table for table in ROWS if "row_version" in {column["name"] for column in schema_of.get_columns(table)}
    }  # fmt: skip


def test_rows_that_are_there_get_version_one_and_lose_it_on_the_way_back(engine: Engine) -> None:
    with engine.begin() as connection:
        assert tables_with_versions(connection) == set()
        schema.upgrade(connection, WITH_VERSIONS)
        assert tables_with_versions(connection) == VERSIONED
        for table in VERSIONED:
            assert connection.execute(text(f"SELECT row_version FROM {table}")).all() == [(1,)]
        schema.downgrade(connection, WITHOUT_VERSIONS)
        assert tables_with_versions(connection) == set()
        assert connection.scalar(text("SELECT likes FROM community_post")) == 3


def test_an_instance_that_knows_no_versions_yet_still_writes(engine: Engine) -> None:
    with engine.begin() as connection:
        schema.upgrade(connection, WITH_VERSIONS)
        connection.execute(text("INSERT INTO territory (id, name) VALUES (2, 'Serra')"))
        assert connection.scalar(text("SELECT row_version FROM territory WHERE id = 2")) == 1


def test_they_end_in_what_the_classes_and_the_event_store_say(engine: Engine) -> None:
    with engine.begin() as connection:
        schema.upgrade(connection)
        wanted: Any = schema.tables(connection)  # several at once, which Alembic takes and its types do not tell
        assert compare_metadata(MigrationContext.configure(connection), wanted) == []
        for table in ROWS:
            assert connection.scalar(text(f"SELECT count(*) FROM {table}")) == 1


def test_all_the_way_back_leaves_nothing(engine: Engine) -> None:
    with engine.begin() as connection:
        schema.upgrade(connection)
        schema.downgrade(connection, "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]


def test_instances_that_migrate_at_the_same_time_do_it_once(postgres_database: PostgresDatabase) -> None:
    async def migrate_thrice() -> None:
        engines = [create_async_engine(postgres_database.url("psycopg")) for _ in range(3)]
        await asyncio.gather(*(schema.migrate(engine) for engine in engines))
        for engine in engines:
            await engine.dispose()

    asyncio.run(migrate_thrice())
    assert postgres_database.execute("SELECT count(*) FROM alembic_version") == [(1,)]


def test_an_instance_that_was_started_first_has_made_the_event_store_already(tmp_path: Path) -> None:
    settings = InfraSettings(database_url=f"sqlite:///{tmp_path / 'community.db'}")
    asyncio.run(migrate_and_seed(settings))  # opening the parts makes the store's tables, then it migrates
    engine = create_engine(f"sqlite:///{tmp_path / 'community.db'}")
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM community_post")) == 3
    engine.dispose()
