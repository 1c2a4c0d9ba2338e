import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from araponga_infra import (
    AsyncInfrastructure,
    AsyncInMemoryEventBus,
    EventRouter,
    InfraSettings,
    PreconditionFailedError,
    expect_version,
)
from araponga_infra.testing import FakeClock, assert_max_queries, no_n_plus_one
from community.domain import Notification, Post, PostPublished, TerritoryMembership, TerritoryRow
from community.territories import TerritoryCacheService
from fastapi_service import feed, like

pytestmark = pytest.mark.anyio


async def add_post(infra: AsyncInfrastructure, *, publish: bool = True) -> int:
    async with infra.write() as session:
        vale = TerritoryRow(name="Vale", memberships=[TerritoryMembership(member="ana")])
        post = Post(title="Feira", territory=vale)
        session.add(post)
        await session.flush()
        if publish:
            infra.events.publish_in(session, PostPublished(post.id, post.territory_id))
    return post.id


async def test_a_published_post_queues_one_notification(infra: AsyncInfrastructure) -> None:
    await add_post(infra)
    await infra.events.run_until_idle()  # raises what a handler raised in the end
    async with infra.read() as session:
        assert await session.scalar(select(func.count(Notification.id))) == 1


async def test_a_rollback_publishes_nothing(infra: AsyncInfrastructure) -> None:
    with pytest.raises(ZeroDivisionError):
        async with infra.write() as session:
            infra.events.publish_in(session, PostPublished(1, 1))
            raise ZeroDivisionError
    assert (await infra.events.run_until_idle()).completed == 0


async def test_a_delayed_event_waits(infra: AsyncInfrastructure, clock: FakeClock) -> None:
    post_id = await add_post(infra, publish=False)
    await infra.events.publish(PostPublished(post_id, 1), delay=timedelta(hours=1))
    assert (await infra.events.run_until_idle(skip_delays=False)).completed == 0
    clock.advance(timedelta(hours=1))
    assert (await infra.events.run_until_idle(skip_delays=False)).completed == 2


async def test_a_handler_that_always_fails_is_a_dead_letter(clock: FakeClock) -> None:
    router = EventRouter()

    @router.subscribe(PostPublished)
    async def broken(published: PostPublished) -> None:
        raise OSError("no")

    async with AsyncInfrastructure(InfraSettings.embedded(), routers=[router], consume=False, clock=clock) as infra:
        await infra.events.publish(PostPublished(1, 1))
        outcome = await infra.events.run_until_idle(raise_dead=False)  # three attempts, no waiting
        assert (outcome.retried, [d.handler for d in outcome.dead]) == (2, ["broken"])


async def test_the_cache_expires(infra: AsyncInfrastructure, clock: FakeClock) -> None:
    territories = TerritoryCacheService(infra)
    await add_post(infra)
    await territories.get(1)
    with assert_max_queries(0):
        await territories.get(1)
    clock.advance(timedelta(minutes=11))
    with assert_max_queries(1):
        await territories.get(1)


async def test_the_feed_has_no_n_plus_one(infra: AsyncInfrastructure) -> None:
    for _ in range(3):
        await add_post(infra)
    async with infra.read() as session:
        with no_n_plus_one():
            assert len(await feed(session)) == 3


async def test_a_stale_if_match_is_refused_at_once(infra: AsyncInfrastructure) -> None:
    post_id, calls = await add_post(infra), 0

    async def edit(session: AsyncSession) -> None:
        nonlocal calls
        calls += 1
        expect_version(await session.get_one(Post, post_id), 99)

    with pytest.raises(PreconditionFailedError):
        await infra.concurrency.execute(edit)
    assert calls == 1


async def test_likes_in_parallel(infra: AsyncInfrastructure) -> None:
    post_id = await add_post(infra)
    likes = await asyncio.gather(*(infra.concurrency.execute(like, post_id) for _ in range(10)))
    assert sorted(likes) == list(range(1, 11))


async def test_the_inline_bus() -> None:
    router, seen = EventRouter(), list[int]()

    @router.subscribe(PostPublished)
    def note(published: PostPublished) -> None:
        seen.append(published.post_id)

    bus = AsyncInMemoryEventBus(routers=[router])
    await bus.publish(PostPublished(7, 1))
    assert seen == [7] and bus.published == [PostPublished(7, 1)]
