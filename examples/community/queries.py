"""The statements that everybody waits for. Pages go by key, so that the hundredth costs what the first one does."""

from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import selectinload

from .domain import CommunityPost, MapEntity, Notification, TerritoryEvent, TerritoryMembership, TerritoryRow

LARGEST_ID = 2**63 - 1
AGENDA_LENGTH = 50
LARGEST_MAP = 1_000


def feed(*, territory_id: int | None = None, before: int = LARGEST_ID, limit: int = 20) -> Select[CommunityPost]:
    """The newest posts, each with its territory: two statements, however many posts."""
    posts = select(CommunityPost).where(CommunityPost.id < before).options(selectinload(CommunityPost.territory))
    if territory_id is not None:
        posts = posts.where(CommunityPost.territory_id == territory_id)
    return posts.order_by(CommunityPost.id.desc()).limit(limit)


def inbox(member: str, *, before: int = LARGEST_ID, limit: int = 20) -> Select[Notification]:
    entries = select(Notification).where(Notification.member == member, Notification.id < before)
    return entries.order_by(Notification.id.desc()).limit(limit)


def agenda(territory_id: int, since: datetime) -> Select[TerritoryEvent]:
    upcoming = select(TerritoryEvent).where(
        TerritoryEvent.territory_id == territory_id, TerritoryEvent.starts_at >= since
    )
    return upcoming.order_by(TerritoryEvent.starts_at, TerritoryEvent.id).limit(AGENDA_LENGTH)


def map_of(territory_id: int) -> Select[MapEntity]:
    return select(MapEntity).where(MapEntity.territory_id == territory_id).order_by(MapEntity.id).limit(LARGEST_MAP)


def territories(*, after: int = 0, limit: int = 20) -> Select[TerritoryRow]:
    return select(TerritoryRow).where(TerritoryRow.id > after).order_by(TerritoryRow.id).limit(limit)


def members(territory_id: int, *, after: str = "", limit: int = 20) -> Select[TerritoryMembership]:
    of_territory = select(TerritoryMembership).where(
        TerritoryMembership.territory_id == territory_id, TerritoryMembership.member > after
    )
    return of_territory.order_by(TerritoryMembership.member).limit(limit)
