"""The cached territory service: what TerritoryCacheService was in C#."""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from araponga_infra import AsyncInfrastructure

from .domain import Territory, TerritoryRow


class TerritoryCacheService:
    def __init__(self, infra: AsyncInfrastructure) -> None:
        self._infra = infra
        # Territory | None: that there is no such territory is cached, too.
        self._cache = infra.cache.region("territory", Territory | None, ttl=timedelta(minutes=10))

    async def get(self, territory_id: int) -> Territory | None:
        async def load() -> Territory | None:
            # fresh=True: a load after a removal must not read a lagging replica and cache the old row for 10 minutes.
            async with self._infra.read(fresh=True) as session:
                row = await session.get(TerritoryRow, territory_id)
                return Territory(row.id, row.name, row.row_version) if row else None

        return await self._cache.get_or_set(territory_id, load)

    def changed_in(self, session: AsyncSession, row: TerritoryRow) -> None:
        self._cache.delete_in(session, row.id)  # after COMMIT, not before; nothing on rollback
