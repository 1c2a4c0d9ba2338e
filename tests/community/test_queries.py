"""The statements that people wait for: few of them, and none that reads a table from end to end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, insert, select, text

from araponga_infra import AsyncInfrastructure, InfraSettings, QueryInspector, ReadOnlyViolationError
from araponga_infra.testing import assert_max_queries, no_n_plus_one
from examples.community import schema
from examples.community.api.feed import page
from examples.community.domain import (
    CommunityPost,
    MapEntity,
    Notification,
    TerritoryEvent,
    TerritoryMembership,
    TerritoryRow,
    now,
)
from examples.community.queries import agenda, feed, inbox, map_of, members, territories
from examples.community.reads import Reads
from tests.community.conftest import migrate_and_seed

MANY = 20_000
TERRITORIES = 400
MEMBERS = 1_000


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database of some size, whose statistics are fresh."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'community.db'}"
    else:
        url = request.getfixturevalue("postgres_database").url("psycopg")
    engine = create_engine(url)
    with engine.begin() as connection:
        schema.upgrade(connection)
        fill(connection)
        connection.execute(text("ANALYZE"))
    yield engine
    engine.dispose()


def fill(connection: Connection) -> None:
    def rows(number: int) -> dict[str, Any]:
        return {"id": number, "territory_id": number % TERRITORIES + 1}

    moment = now()
    connection.execute(insert(TerritoryRow), [{"id": n + 1, "name": f"Vale {n}"} for n in range(TERRITORIES)])
    connection.execute(insert(CommunityPost), [rows(n) | {"title": "Feira"} for n in range(1, MANY)])
    connection.execute(
        insert(TerritoryEvent), [rows(n) | {"title": "", "place": "", "starts_at": moment} for n in range(1, MANY)]
    )
    place = {"name": "", "kind": "", "latitude": 0.0, "longitude": 0.0}
    connection.execute(insert(MapEntity), [rows(n) | place for n in range(1, MANY)])
    connection.execute(insert(TerritoryMembership), [rows(n) | {"member": f"member-{n}"} for n in range(1, MANY)])
    connection.execute(
        insert(Notification), [{"id": n, "member": f"member-{n % MEMBERS}", "text": ""} for n in range(1, MANY)]
    )


def test_no_page_reads_a_table_from_end_to_end(engine: Engine) -> None:
    inspector = QueryInspector(engine, large_table_rows=TERRITORIES)
    for statement in (
        feed(),
        feed(before=MANY // 2),
        feed(territory_id=7),
        feed(territory_id=7, before=MANY // 2),
        inbox("member-7"),
        inbox("member-7", before=MANY // 2),
        agenda(7, now()),
        map_of(7),
        members(7),
        members(7, after="member-5"),
        territories(after=7),
        select(TerritoryMembership.member).where(TerritoryMembership.territory_id == 7),
    ):
        plan = inspector.explain(statement)
        assert not plan.scans, plan.text
        assert "Seq Scan" not in plan.text, plan.text


def test_each_page_of_some_rows_goes_by_the_index_made_for_it(engine: Engine) -> None:
    """One that went by the primary key and left out what is of others would be no scan either, and as slow."""
    inspector = QueryInspector(engine)
    for statement, index in (
        (feed(territory_id=7), "ix_post_feed"),
        (feed(territory_id=7, before=MANY // 2), "ix_post_feed"),
        (inbox("member-7"), "ix_notification_inbox"),
        (agenda(7, now()), "ix_event_agenda"),
        (map_of(7), "ix_map_entity_territory_id"),
        (members(7), "ix_membership_of_member"),
    ):
        plan = inspector.explain(statement)
        assert index in plan.text, plan.text


def test_each_foreign_key_has_its_index(engine: Engine) -> None:
    assert QueryInspector(engine).missing_indexes() == ()


@pytest.fixture
def infra_settings(tmp_path: Path) -> InfraSettings:
    settings = InfraSettings(database_url=f"sqlite:///{tmp_path / 'community.db'}")
    asyncio.run(migrate_and_seed(settings))
    return settings


@pytest.mark.anyio
async def test_the_feed_is_two_queries_however_long_it_is(infra_settings: InfraSettings) -> None:
    async with AsyncInfrastructure(infra_settings, consume=False) as infra:
        with no_n_plus_one(), assert_max_queries(2):
            assert len((await page(Reads(infra, last_write=None))).items) == 3


@pytest.mark.anyio
async def test_a_row_that_was_read_for_display_cannot_be_changed_unseen(infra_settings: InfraSettings) -> None:
    async with AsyncInfrastructure(infra_settings, consume=False) as infra:
        with pytest.raises(ReadOnlyViolationError):
            async with infra.read() as session:
                (await session.get_one(CommunityPost, 1)).title = "lost, had it been an untracked row"
