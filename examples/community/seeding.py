"""A few rows, so that a first visitor sees something."""

from datetime import timedelta

from araponga_infra import AsyncInfrastructure

from .domain import (
    CommunityPost,
    FeatureFlagRow,
    MapEntity,
    PostPublished,
    TerritoryEvent,
    TerritoryMembership,
    TerritoryRow,
    now,
)


async def seed(infra: AsyncInfrastructure) -> None:
    async with infra.write() as session:
        vale, serra = TerritoryRow(name="Vale do Itamambuca"), TerritoryRow(name="Serra do Mar")
        session.add_all([vale, serra, FeatureFlagRow(name="announcements", is_enabled=True)])
        await session.flush()
        posts = [
            CommunityPost(
                territory_id=vale.id, author="ana", title="Feira de trocas", body="Sábado, na praça. Traga sementes."
            ),
            CommunityPost(
                territory_id=serra.id, author="bento", title="Trilha fechada", body="Até a ponte ser refeita."
            ),
            CommunityPost(territory_id=vale.id, author="celia", title="Mutirão no rio", body="Luvas para todos."),
        ]
        session.add_all(posts)
        session.add_all([
            *(TerritoryMembership(territory_id=vale.id, member=member) for member in ("ana", "bento", "celia")),
            TerritoryMembership(territory_id=serra.id, member="bento", role="curator"),
            TerritoryEvent(
                territory_id=vale.id, title="Mutirão", place="Foz do rio", starts_at=now() + timedelta(days=3)
            ),
            TerritoryEvent(territory_id=serra.id, title="Caminhada", place="Sede", starts_at=now() + timedelta(days=9)),
            MapEntity(territory_id=vale.id, name="Praça", kind="square", latitude=-23.402, longitude=-45.014),
            MapEntity(territory_id=vale.id, name="Escola", kind="school", latitude=-23.4, longitude=-45.01),
            MapEntity(territory_id=serra.id, name="Mirante", kind="view", latitude=-23.35, longitude=-44.85),
        ])  # fmt: skip
        await session.flush()
        for post in posts:
            infra.events.publish_in(session, PostPublished(post.id, post.territory_id))
