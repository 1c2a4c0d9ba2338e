"""Each instance tells the others of itself, in a row of its own: the page on any of them shows all."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.exc import SQLAlchemyError

from araponga_infra import AsyncInfrastructure, CountingObserver

from ..domain import ServiceInstance, now
from .findings import Finding, RecentFindings

EVERY_SECONDS = 5.0
FORGOTTEN_AFTER = timedelta(minutes=10)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    name: str
    state: str
    detail: str


@dataclass(frozen=True)
class Standby:
    name: str
    is_available: bool
    lag_seconds: float
    reason: str


@dataclass(frozen=True)
class Report:
    """What an instance says of itself; counts since its start."""

    started_at: datetime
    hits: int = 0
    misses: int = 0
    retries: int = 0
    gave_up: int = 0
    parts: tuple[Part, ...] = ()
    standbys: tuple[Standby, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def hit_rate(self) -> float | None:
        return self.hits / asked if (asked := self.hits + self.misses) else None

    @property
    def is_ready(self) -> bool:
        return all(part.state != "down" for part in self.parts)


@dataclass(frozen=True)
class Instance:
    name: str
    seen_at: datetime
    report: Report

    @property
    def silent_seconds(self) -> float:
        return max(0.0, (now() - self.seen_at).total_seconds())

    @property
    def is_silent(self) -> bool:
        return self.silent_seconds > 3 * EVERY_SECONDS


@dataclass
class RollCall:
    """What this instance keeps of itself, and how it tells."""

    instance: str
    counters: CountingObserver
    findings: RecentFindings = field(default_factory=RecentFindings)
    started_at: datetime = field(default_factory=now)

    @asynccontextmanager
    async def answered(self, infra: AsyncInfrastructure) -> AsyncIterator[None]:
        """From start to stop; the row of an instance that stops is removed, that of a killed one falls silent."""
        answering = asyncio.create_task(self._answer_always(infra))
        try:
            yield
        finally:
            answering.cancel()
            await asyncio.wait([answering])
            await self._leave(infra)

    async def answer(self, infra: AsyncInfrastructure) -> None:
        report = msgspec.json.encode(await self.report(infra)).decode()
        async with infra.write() as session:
            await session.merge(ServiceInstance(name=self.instance, seen_at=now(), report=report))
            await session.execute(delete(ServiceInstance).where(ServiceInstance.seen_at < now() - FORGOTTEN_AFTER))

    async def report(self, infra: AsyncInfrastructure) -> Report:
        counted, health = self.counters.snapshot(), await infra.health(timeout=1)
        return Report(
            started_at=self.started_at,
            hits=counted["cache.hit"],
            misses=counted["cache.miss"],
            retries=counted["concurrency.attempt_failed"],
            gave_up=counted["concurrency.gave_up"],
            parts=tuple(Part(name, part.state, part.detail) for name, part in sorted(health.parts.items())),
            standbys=tuple(
                Standby(each.replica, each.is_available, each.lag_seconds, each.reason)
                for each in infra.replicas.status()
            ),
            findings=tuple(self.findings),
        )

    async def _answer_always(self, infra: AsyncInfrastructure) -> None:
        while True:
            try:
                await self.answer(infra)
            except SQLAlchemyError as error:
                _logger.warning("the roll call was not answered: %s", type(error).__name__)
            await asyncio.sleep(EVERY_SECONDS)

    async def _leave(self, infra: AsyncInfrastructure) -> None:
        try:
            async with infra.write() as session:
                await session.execute(delete(ServiceInstance).where(ServiceInstance.name == self.instance))
        except SQLAlchemyError as error:
            _logger.warning("the roll call still names this instance: %s", type(error).__name__)


async def instances(infra: AsyncInfrastructure) -> list[Instance]:
    """All that answered lately, as they told it."""
    async with infra.read(fresh=True) as session:
        rows = await session.scalars(select(ServiceInstance).order_by(ServiceInstance.name))
        return [Instance(row.name, row.seen_at, msgspec.json.decode(row.report, type=Report)) for row in rows]
