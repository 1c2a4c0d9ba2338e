"""What is on a territory's map and in its agenda, cached as a whole: both are read far more often than changed."""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from araponga_infra import AsyncInfrastructure

from .domain import MapEntity, MapPoint, TerritoryEvent, UpcomingEvent, now
from .queries import agenda, map_of


class MapCacheService:
    def __init__(self, infra: AsyncInfrastructure) -> None:
        self._infra = infra
        self._cache = infra.cache.region("map", tuple[MapPoint, ...], ttl=timedelta(minutes=10))

    async def of(self, territory_id: int) -> tuple[MapPoint, ...]:
        async def load() -> tuple[MapPoint, ...]:
            async with self._infra.read(fresh=True) as session:
                rows = await session.scalars(map_of(territory_id))
                return tuple(MapPoint(row.id, row.name, row.kind, row.latitude, row.longitude) for row in rows)

        return await self._cache.get_or_set(territory_id, load)

    def changed_in(self, session: AsyncSession, row: MapEntity) -> None:
        self._cache.delete_in(session, row.territory_id)


class AgendaCacheService:
    def __init__(self, infra: AsyncInfrastructure) -> None:
        self._infra = infra
        self._cache = infra.cache.region("agenda", tuple[UpcomingEvent, ...], ttl=timedelta(minutes=5))

    async def of(self, territory_id: int) -> tuple[UpcomingEvent, ...]:
        """The next events; one that has begun since they were loaded is left out."""

        async def load() -> tuple[UpcomingEvent, ...]:
            async with self._infra.read(fresh=True) as session:
                rows = await session.scalars(agenda(territory_id, now()))
                return tuple(UpcomingEvent(row.id, row.title, row.place, row.starts_at) for row in rows)

        loaded, moment = await self._cache.get_or_set(territory_id, load), now()
        return tuple(event for event in loaded if event.starts_at >= moment)

    def changed_in(self, session: AsyncSession, row: TerritoryEvent) -> None:
        self._cache.delete_in(session, row.territory_id)
