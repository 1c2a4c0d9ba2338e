"""The service as its clients see it: embedded, and on PostgreSQL with a standby and Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from araponga_infra import AsyncInfrastructure, InfraSettings
from examples.community.app import create_app
from examples.community.schema import migrate
from examples.community.seeding import seed
from examples.community.settings import CommunitySettings
from tests.integrations.serving import served_asgi
from tests.servers.fixtures import ReplicatedDatabase
from tests.servers.postgres_cluster import PostgresCluster


@pytest.fixture
def servers(replicated_database: ReplicatedDatabase, postgres_pair: PostgresCluster, redis_url: str) -> InfraSettings:
    """PostgreSQL, migrated and seeded, its standby, and Redis."""
    settings = InfraSettings(
        database_url=replicated_database.primary.url(),
        database_readonly_urls=(replicated_database.standby.url(),),
        redis_url=redis_url,
    )
    asyncio.run(migrate_and_seed(settings))
    postgres_pair.wait_for_catch_up()
    return settings


@pytest.fixture(params=["embedded", "servers"])
def settings(request: pytest.FixtureRequest) -> CommunitySettings:
    is_embedded = request.param == "embedded"
    infra = InfraSettings.embedded() if is_embedded else request.getfixturevalue("servers")
    return CommunitySettings(infra=infra, instance="one")


@pytest.fixture
def client(settings: CommunitySettings) -> Iterator[httpx.Client]:
    with served_asgi(create_app(settings)) as client:
        yield client


async def migrate_and_seed(settings: InfraSettings) -> None:
    async with AsyncInfrastructure(settings, consume=False) as infra:
        await migrate(infra.engine)
        await seed(infra)
