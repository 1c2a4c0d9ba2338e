"""The tables of store and inbox in a migration: online, as SQL, in the host's schema, and as autogenerate sees them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from alembic import op as alembic_op
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Column, Connection, Engine, Integer, MetaData, Table, create_engine, inspect, text

from araponga_infra.errors import InvalidArgumentError
from araponga_infra.events import Inbox, SqlAlchemyEventStore, create_event_tables, drop_event_tables
from araponga_infra.events.values import Message, Subscription, Want

NAMES = {"araponga_deliveries", "araponga_subscriptions", "araponga_workers", "araponga_accepted", "araponga_inbox"}


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> Engine:
    engine: Engine = request.getfixturevalue(f"{request.param}_engine")
    return engine


def operations(connection: Connection, **options: Any) -> Operations:
    return Operations(MigrationContext.configure(connection, opts=options))


def options_of(connection: Connection) -> list[str]:
    found = connection.execute(text("SELECT reloptions FROM pg_class WHERE relname = 'araponga_deliveries'"))
    return sorted(found.scalar_one())


def test_a_migration_makes_what_create_schema_makes(engine: Engine) -> None:
    store = SqlAlchemyEventStore(engine)
    with engine.begin() as connection:
        create_event_tables(operations(connection))
    assert set(inspect(engine).get_table_names()) == NAMES
    with engine.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), store.metadata) == []
        if engine.dialect.name == "postgresql":
            tuned = options_of(connection)
            drop_event_tables(operations(connection))
            store.metadata.create_all(connection)
            assert options_of(connection) == tuned != []
        drop_event_tables(operations(connection))
    assert inspect(engine).get_table_names() == []


def test_autogenerate_sees_the_hosts_tables_and_ours_side_by_side(engine: Engine) -> None:
    """Whatever names the host's own convention gives to its constraints."""
    host = MetaData(naming_convention={"pk": "pk_%(table_name)s", "ix": "ix_%(table_name)s_%(column_0_name)s"})
    Table("post", host, Column("id", Integer, primary_key=True), Column("likes", Integer, index=True))
    store = SqlAlchemyEventStore(engine)
    with engine.begin() as connection:
        host.create_all(connection)
        create_event_tables(operations(connection))
        both: Any = [host, store.metadata]
        assert compare_metadata(MigrationContext.configure(connection), both) == []


def test_only_the_inbox_in_a_database_without_events(engine: Engine) -> None:
    with engine.begin() as connection:
        create_event_tables(operations(connection), inbox_only=True)
        assert inspect(connection).get_table_names() == ["araponga_inbox"]
        assert compare_metadata(MigrationContext.configure(connection), Inbox().metadata) == []
        drop_event_tables(operations(connection), inbox_only=True)
        assert inspect(connection).get_table_names() == []


@pytest.mark.parametrize("schema", ["infra", "Infra Straße", "x" * 63])
def test_the_hosts_schema_has_whatever_name_it_has(postgres_engine: Engine, schema: str) -> None:
    with postgres_engine.begin() as connection:
        connection.execute(text(f'CREATE SCHEMA "{schema}"'))
        create_event_tables(operations(connection), schema=schema)
    store = SqlAlchemyEventStore(postgres_engine, schema=schema)
    assert set(inspect(postgres_engine).get_table_names(schema=schema)) == NAMES
    with postgres_engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"include_schemas": True})
        assert compare_metadata(context, store.metadata) == []
    works = store.sync_store()
    works.register([Subscription("mail", "e")])
    assert works.append([Message(uuid4(), "e", 1, b"{}")]).deliveries == 1
    works.join("me", 60.0)
    assert len(works.exchange("me", [], [], [Want("mail", 5)]).deliveries) == 1
    with postgres_engine.begin() as connection:
        drop_event_tables(operations(connection), schema=schema)


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_a_migration_can_be_written_as_sql(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    script = io.StringIO()
    offline = MigrationContext.configure(dialect_name=dialect, opts={"as_sql": True, "output_buffer": script})
    create_event_tables(Operations(offline))
    engine: Engine = request.getfixturevalue("sqlite_engine" if dialect == "sqlite" else "postgres_engine")
    with engine.begin() as connection:
        for statement in script.getvalue().split(";"):
            if statement.strip():
                connection.execute(text(statement))
        assert compare_metadata(MigrationContext.configure(connection), SqlAlchemyEventStore(engine).metadata) == []


def test_what_is_not_alembics_op_is_refused() -> None:
    wrong: Any = create_engine("sqlite://")
    for call in (create_event_tables, drop_event_tables):
        with pytest.raises(InvalidArgumentError, match="op is a Engine"):
            call(wrong)
        with pytest.raises(InvalidArgumentError, match="schema=''"):
            call(alembic_op, schema="")
