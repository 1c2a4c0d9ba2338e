"""Behind PgBouncer in transaction mode: still read-only, whether it swallows or refuses the connection's setting.

Not collected by default, since it needs Debian's package: `pytest tests/sessions/external/with_pgbouncer.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from araponga_infra.sessions import ReadOnlyViolationError, ReplicaSet
from tests.servers.postgres import PostgresServer
from tests.sessions import attempts, rigs
from tests.sessions.external.programs import pgbouncer
from tests.sessions.rigs import AsyncRig, Rig
from tests.sessions.test_matrix import assert_all_refused, assert_an_ordinary_session_writes

pytestmark = pytest.mark.anyio

SETTINGS = {
    "refuses the setting": "ignore_startup_parameters = extra_float_digits",
    "swallows the setting": "ignore_startup_parameters = extra_float_digits,options,default_transaction_read_only",
}
DRIVERS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "psycopg": (Rig, "psycopg", {"connect_args": {"prepare_threshold": None}}),
    "async psycopg": (AsyncRig, "psycopg", {"connect_args": {"prepare_threshold": None}}),
    "psycopg2": (Rig, "psycopg2", {}),
    "asyncpg": (AsyncRig, "asyncpg?prepared_statement_cache_size=0", {"connect_args": {"statement_cache_size": 0}}),
}


@pytest.fixture(params=SETTINGS)
def pooler_setting(request: pytest.FixtureRequest) -> str:
    return SETTINGS[request.param]


@pytest.fixture(params=DRIVERS)
async def rig(request: pytest.FixtureRequest, postgres: PostgresServer, pooler_setting: str) -> AsyncIterator[Rig]:
    kind, driver, options = DRIVERS[request.param]
    with postgres.temporary_database() as database, pgbouncer(postgres.port, pooler_setting) as port:
        name, _, query = driver.partition("?")
        url = database.url(name).replace(f":{postgres.port}/", f":{port}/")
        direct = kind(database.url(name), by_engine=True)
        await rigs.fill(direct, rigs.POSTGRESQL_ONLY)
        await direct.close()
        made = kind(f"{url}?{query}" if query else url, by_engine=False, **options)
        yield made
        await made.close()


async def test_every_way_to_write_is_refused(rig: Rig) -> None:
    await assert_all_refused(rig, attempts.UNIT_OF_WORK, attempts.STATEMENTS, attempts.POSTGRESQL_ONLY)
    await assert_all_refused(rig, attempts.RAW, attempts.POSTGRESQL_RAW, attempts.POSTGRESQL_OPENED)
    await assert_an_ordinary_session_writes(rig)


async def test_autocommit_is_refused_where_nothing_would_hold(rig: Rig) -> None:
    def read(session: Session) -> None:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})

    with pytest.raises(ReadOnlyViolationError, match="AUTOCOMMIT"):
        await rig.run(read)


def test_a_replica_set_reads_through_it(postgres: PostgresServer, pooler_setting: str) -> None:
    with postgres.temporary_database() as database, pgbouncer(postgres.port, pooler_setting) as port:
        url = database.url("psycopg").replace(f":{postgres.port}/", f":{port}/")
        with ReplicaSet(url) as replicas, replicas.read() as session:
            assert session.scalar(text("SELECT 1")) == 1
            with pytest.raises(ReadOnlyViolationError):
                session.connection().connection.cursor().execute("CREATE TABLE other (a int)")
