"""A service with something to look at: dead letters of a handler that only this module knows."""

from __future__ import annotations

from dataclasses import dataclass

from araponga_infra import AsyncInfrastructure, EventRouter, GiveUp, InfraSettings, event

TOKEN = "correct-horse-battery-staple"


@event("community.report_due", version=1)
@dataclass(frozen=True)
class ReportDue:
    territory_id: int


router = EventRouter(prefix="community.")


@router.subscribe(ReportDue)
def print_report(due: ReportDue) -> None:
    raise GiveUp("<b>no paper</b>")


async def leave_dead_letters(settings: InfraSettings, count: int) -> None:
    """So many and no others: events that were seeded before any handler was known died without one."""
    async with AsyncInfrastructure(settings, routers=[router], consume=False) as infra:
        await infra.events.dead_letters.purge(0)
        await infra.events.publish_many([ReportDue(number) for number in range(count)])
        await infra.events.run_until_idle(raise_dead=False)
