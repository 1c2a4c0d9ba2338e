"""Row versions for tables that exist, through Alembic's own operations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import op as alembic_op
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Engine, MetaData, create_engine, inspect, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from araponga_infra.concurrency import RowVersion, XminRowVersion, add_row_version, drop_row_version
from araponga_infra.errors import InvalidArgumentError
from tests.servers.postgres import PostgresDatabase

_ROWS = 1_000_000


class Base(DeclarativeBase): ...


class Parcel(RowVersion, Base):
    __tablename__ = "parcel_of_land"
    id: Mapped[int] = mapped_column(primary_key=True)


class XminBase(DeclarativeBase): ...


class Plot(XminRowVersion, XminBase):
    __tablename__ = "plot"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'land.db'}"
    else:
        url = request.getfixturevalue("postgres_database").url("psycopg")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE parcel_of_land (id INTEGER NOT NULL PRIMARY KEY)"))
        connection.execute(text("INSERT INTO parcel_of_land VALUES (1), (2)"))
    yield engine
    engine.dispose()


def test_existing_rows_begin_at_one_and_the_way_back_leaves_nothing(engine: Engine) -> None:
    with engine.begin() as connection:
        add_row_version(Operations(MigrationContext.configure(connection)), "parcel_of_land")
    with Session(engine) as session:
        parcel = session.get_one(Parcel, 2)
        assert parcel.row_version == 1
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == [], "the model and the table agree"
        drop_row_version(Operations(context), "parcel_of_land")
        assert [column["name"] for column in inspect(connection).get_columns("parcel_of_land")] == ["id"]


def test_another_column_name_and_schema(postgres_database: PostgresDatabase) -> None:
    postgres_database.execute("CREATE SCHEMA land")
    postgres_database.execute("CREATE TABLE land.parcel (id integer PRIMARY KEY)")
    engine = create_engine(postgres_database.url("psycopg"))
    with engine.begin() as connection:
        operations = Operations(MigrationContext.configure(connection))
        add_row_version(operations, "parcel", column="version", schema="land")
        assert "version" in [column["name"] for column in inspect(connection).get_columns("parcel", schema="land")]
        drop_row_version(operations, "parcel", column="version", schema="land")
    engine.dispose()


def test_a_million_rows_are_not_rewritten(postgres_database: PostgresDatabase) -> None:
    postgres_database.execute("CREATE UNLOGGED TABLE parcel_of_land (id integer NOT NULL)")
    postgres_database.execute(f"INSERT INTO parcel_of_land SELECT generate_series(1, {_ROWS})")
    file_and_size = "SELECT pg_relation_filenode('parcel_of_land'), pg_relation_size('parcel_of_land')"
    before = postgres_database.execute(file_and_size)

    engine = create_engine(postgres_database.url("psycopg"))
    with engine.begin() as connection:
        add_row_version(Operations(MigrationContext.configure(connection)), "parcel_of_land")
    engine.dispose()

    assert postgres_database.execute(file_and_size) == before
    assert postgres_database.execute("SELECT sum(row_version) FROM parcel_of_land") == [(_ROWS,)]


def test_xmin_is_no_column_that_a_migration_would_add(postgres_database: PostgresDatabase) -> None:
    engine = create_engine(postgres_database.url("psycopg"))
    XminBase.metadata.create_all(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), XminBase.metadata) == []
    reflected = MetaData()
    reflected.reflect(engine)
    assert reflected.tables["plot"].columns.keys() == ["id"]
    engine.dispose()


@pytest.mark.parametrize("change", [add_row_version, drop_row_version])
def test_what_is_no_migration_context_or_no_name_is_refused(change: Any) -> None:
    for arguments in ((None, "x"), (alembic_op, ""), (alembic_op, None)):
        with pytest.raises(InvalidArgumentError, match="pass"):
            change(*arguments)
