from collections.abc import AsyncIterator

import pytest

from araponga_infra import AsyncInfrastructure, InfraSettings
from araponga_infra.testing import FakeClock
from community.domain import Base
from community.handlers import router


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def infra(clock: FakeClock) -> AsyncIterator[AsyncInfrastructure]:
    # Not from_env(): a developer's ARAPONGA_DATABASE_URL must never reach the tests.
    # consume=False: nothing runs in the background of a test; run_until_idle() runs what is there.
    async with AsyncInfrastructure(InfraSettings.embedded(), routers=[router], consume=False, clock=clock) as infra:
        async with infra.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield infra
