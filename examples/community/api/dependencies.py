"""What endpoints ask for by type: the caches, and repositories in the request's own transaction."""

from typing import Annotated

from fastapi import Depends, HTTPException

from araponga_infra.integrations.fastapi import Infra, LastWrite, WriteSession

from ..domain import CommunityPost, FeatureFlagRow, MapEntity, TerritoryEvent, TerritoryMembership, TerritoryRow
from ..flags import FeatureFlagCacheService
from ..places import AgendaCacheService, MapCacheService
from ..reads import Reads
from ..repositories import Repository
from ..territories import TerritoryCacheService
from .fields import Id


def _reads(infra: Infra, last_write: LastWrite) -> Reads:
    return Reads(infra, last_write)


def _territories(infra: Infra) -> TerritoryCacheService:
    return TerritoryCacheService(infra)


def _flags(infra: Infra) -> FeatureFlagCacheService:
    return FeatureFlagCacheService(infra)


def _maps(infra: Infra) -> MapCacheService:
    return MapCacheService(infra)


def _agendas(infra: Infra) -> AgendaCacheService:
    return AgendaCacheService(infra)


Reading = Annotated[Reads, Depends(_reads)]
CachedTerritories = Annotated[TerritoryCacheService, Depends(_territories)]
CachedFlags = Annotated[FeatureFlagCacheService, Depends(_flags)]
CachedMaps = Annotated[MapCacheService, Depends(_maps)]
CachedAgendas = Annotated[AgendaCacheService, Depends(_agendas)]


async def _known_territory(territory_id: Id, territories: CachedTerritories) -> int:
    if await territories.get(territory_id) is None:
        raise HTTPException(404, "There is no such territory.")
    return territory_id


KnownTerritory = Annotated[int, Depends(_known_territory)]


def _territory_rows(session: WriteSession, cache: CachedTerritories) -> Repository[TerritoryRow]:
    return Repository(session, TerritoryRow, cache)


def _flag_rows(session: WriteSession, cache: CachedFlags) -> Repository[FeatureFlagRow]:
    return Repository(session, FeatureFlagRow, cache)


def _map_rows(session: WriteSession, cache: CachedMaps) -> Repository[MapEntity]:
    return Repository(session, MapEntity, cache)


def _event_rows(session: WriteSession, cache: CachedAgendas) -> Repository[TerritoryEvent]:
    return Repository(session, TerritoryEvent, cache)


def _post_rows(session: WriteSession) -> Repository[CommunityPost]:
    return Repository(session, CommunityPost)


def _membership_rows(session: WriteSession) -> Repository[TerritoryMembership]:
    return Repository(session, TerritoryMembership)


Territories = Annotated[Repository[TerritoryRow], Depends(_territory_rows)]
Flags = Annotated[Repository[FeatureFlagRow], Depends(_flag_rows)]
Maps = Annotated[Repository[MapEntity], Depends(_map_rows)]
Events = Annotated[Repository[TerritoryEvent], Depends(_event_rows)]
Posts = Annotated[Repository[CommunityPost], Depends(_post_rows)]
Memberships = Annotated[Repository[TerritoryMembership], Depends(_membership_rows)]
