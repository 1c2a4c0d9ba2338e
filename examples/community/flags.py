"""Cached feature flags: what FeatureFlagCacheService was in C#."""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from araponga_infra import AsyncInfrastructure

from .domain import FeatureFlag, FeatureFlagRow


class FeatureFlagCacheService:
    def __init__(self, infra: AsyncInfrastructure) -> None:
        self._infra = infra
        self._cache = infra.cache.region("flag", FeatureFlag | None, ttl=timedelta(minutes=10))

    async def get(self, name: str) -> FeatureFlag | None:
        async def load() -> FeatureFlag | None:
            async with self._infra.read(fresh=True) as session:
                row = await session.get(FeatureFlagRow, name)
                return FeatureFlag(row.name, row.is_enabled, row.row_version) if row else None

        return await self._cache.get_or_set(name, load)

    async def is_enabled(self, name: str) -> bool:
        """A flag that nobody has made is off."""
        flag = await self.get(name)
        return flag is not None and flag.is_enabled

    def changed_in(self, session: AsyncSession, row: FeatureFlagRow) -> None:
        self._cache.delete_in(session, row.name)
