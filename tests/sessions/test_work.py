"""`run` takes functions of its own colour."""

from __future__ import annotations

from typing import Any

import pytest

from araponga_infra.errors import InvalidArgumentError
from araponga_infra.sessions import AsyncReplicaSet, ReplicaSet

pytestmark = pytest.mark.anyio


async def later(session: Any) -> int:
    return 1


def test_an_async_function_or_none_is_no_work_for_a_sync_replica_set() -> None:
    wrong: Any
    with ReplicaSet("sqlite://") as replicas:
        for wrong in (later, lambda session: later(session), 3, None):
            with pytest.raises(InvalidArgumentError, match="pass a"):
                replicas.run(wrong)


async def test_a_plain_function_or_none_is_no_work_for_an_async_replica_set() -> None:
    wrong: Any
    async with AsyncReplicaSet("sqlite+aiosqlite://") as replicas:
        for wrong in (lambda session: 1, 3, None):
            with pytest.raises(InvalidArgumentError, match=r"async def|pass a"):
                await replicas.run(wrong)
        assert await replicas.run(later) == 1
