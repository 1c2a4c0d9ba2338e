"""The OpenAPI document and the service say the same, whatever schemathesis thinks of sending; on PostgreSQL, which
refuses more than SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS, load_all_checks

from araponga_infra import InfraSettings
from examples.community.app import create_app
from examples.community.settings import CommunitySettings
from tests.community.conftest import migrate_and_seed
from tests.integrations.serving import served_asgi
from tests.servers.postgres import PostgresServer

load_all_checks()


schema = schemathesis.openapi.from_dict(create_app(CommunitySettings()).openapi())
# An id that fits the document and names nothing is refused, and rightly so.
MAY_BE_REFUSED: Any = CHECKS.get_one("positive_data_acceptance")


@pytest.fixture(scope="module")
def address(shared_postgres: PostgresServer) -> Iterator[str]:
    with shared_postgres.temporary_database() as database:
        infra = InfraSettings(database_url=database.url())
        asyncio.run(migrate_and_seed(infra))
        with served_asgi(create_app(CommunitySettings(infra=infra, instance="one"))) as client:
            yield str(client.base_url)


@schema.parametrize()
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
def test_it_does_what_it_documents(case: schemathesis.Case[Any], address: str) -> None:
    case.call_and_validate(base_url=address, excluded_checks=[MAY_BE_REFUSED])


def test_each_change_documents_what_may_come_of_it() -> None:
    paths: dict[str, dict[str, Any]] = create_app(CommunitySettings()).openapi()["paths"]
    changes = [methods[method] for methods in paths.values() for method in ("put", "delete") if method in methods]
    assert len(changes) == 10
    for change in changes:
        assert change["responses"].keys() >= {"404", "409", "412", "422", "428", "503"}, change["operationId"]
