"""How many connections a process opens is the operator's to bound."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import QueuePool

from araponga_infra import (
    AsyncReplicaSet,
    InfraSettings,
    Infrastructure,
    InvalidArgumentError,
    ReplicaSet,
)

pytestmark = pytest.mark.anyio
PRIMARY, STANDBY = "postgresql://app@127.0.0.1:1/community", "postgresql://app@127.0.0.1:2/community"


def most(pool: Any) -> int:
    """Connections that a pool opens at most."""
    assert isinstance(pool, QueuePool)
    return pool.size() + pool._max_overflow


def pools_of(replicas: ReplicaSet | AsyncReplicaSet) -> list[int]:
    servers = replicas._servers
    return [most(engine.pool) for engine in (servers.writer, servers.primary, *servers.owned)]


@pytest.mark.parametrize(("pool_size", "expected"), [(None, 15), (7, 7)])
def test_each_pool_of_a_replica_set_is_bounded(pool_size: int | None, expected: int) -> None:
    with ReplicaSet(PRIMARY, [STANDBY], pool_size=pool_size) as replicas:
        assert pools_of(replicas) == [expected] * 5


async def test_each_pool_of_an_async_replica_set_is_bounded() -> None:
    async with AsyncReplicaSet(PRIMARY, [STANDBY], pool_size=7) as replicas:
        assert pools_of(replicas) == [7] * 5


def test_the_wiring_passes_its_bound_on() -> None:
    settings = InfraSettings(PRIMARY, [STANDBY], database_pool_size=3)
    with Infrastructure(settings, consume=False) as infra:
        assert most(infra.engine.pool) == 3
        assert pools_of(infra.replicas) == [3] * 3


def test_sqlite_takes_no_notice(tmp_path: Any) -> None:
    with Infrastructure(InfraSettings(f"sqlite:///{tmp_path}/a.db", database_pool_size=1), consume=False) as infra:
        with infra.write(), infra.read(), infra.read():
            pass
        assert most(infra.engine.pool) == 15


@pytest.mark.parametrize("pool_size", [0, -1, True, "5"])
def test_a_bound_that_is_none_is_refused(pool_size: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="pool_size"):
        ReplicaSet(PRIMARY, pool_size=pool_size)
