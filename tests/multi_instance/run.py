"""The run: one fault after the other while clients are at work, and a look at every cache after each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.multi_instance import state
from tests.multi_instance.cluster import Cluster
from tests.multi_instance.connections import Connections, counted
from tests.multi_instance.faults import FAULTS, Fault
from tests.multi_instance.ledger import Answer, Ledger, Row
from tests.multi_instance.load import TIMEOUT_SECONDS, Load, Places

__all__ = ["Phase", "Run", "play"]

CLIENTS = 20
PER_SECOND_EACH = 4.0
WARM_UP_SECONDS = 5.0
LEAD_SECONDS = 3.0
SETTLE_SECONDS = 10.0
PATIENCE_SECONDS = 60.0
LOOK_EVERY_SECONDS = 0.1
TERRITORIES = ("Vale", "Serra", "Praia", "Ilha")
MEMBERS = ("ana", "bento", "celia")
FLAGS = ("map", "inbox", "dark")


@dataclass
class Phase:
    """One fault.

    Attributes:
        begun, broken, returned, ended: on the clock of the run; `returned` is when what was broken was back.
        caches_equal_after: from when nobody changed anything until every cache held what the database did.
        wrong_caches: which never did.
    """

    name: str
    begun: float
    broken: float = 0.0
    returned: float = 0.0
    ended: float = 0.0
    caches_equal_after: float = 0.0
    wrong_caches: list[str] = field(default_factory=list)


@dataclass
class Run:
    """Everything that was seen, and how the database was at the end."""

    phases: list[Phase]
    answers: list[Answer]
    ledger: Ledger
    primary: Connections
    standby: Connections
    rows: Mapping[str, Row]
    titles: list[str]
    likes: Mapping[int, int]
    notified: list[tuple[str, str, int]]
    deliveries: Mapping[str, int]
    logs: Mapping[str, str]

    def during(self, phase: Phase) -> list[Answer]:
        return [answer for answer in self.answers if phase.begun <= answer.started < phase.ended]

    def served_again_after(self, phase: Phase) -> float:
        """How long after the return a request that was made then still failed; 0: none did."""
        late = [each.ended for each in self.during(phase) if each.has_failed and each.started >= phase.returned]
        return max(late, default=phase.returned) - phase.returned


async def play(cluster: Cluster, faults: Mapping[str, Fault] = FAULTS) -> Run:
    load, phases = Load(cluster.balancer.address, await _make_places(cluster)), list[Phase]()
    servers, database = cluster.servers, cluster.database
    async with counted(servers.primary.url()) as primary, counted(servers.standby.url()) as standby:
        async with load.clients(CLIENTS, per_second_each=PER_SECOND_EACH):
            await asyncio.sleep(WARM_UP_SECONDS)
            for name, fault in faults.items():
                phases.append(await _phase(name, fault, cluster, load))
        await _wait_for_handlers(cluster)
    return Run(
        phases, load.answers, load.ledger, primary, standby, state.rows(database), state.titles(database),
        state.likes(database), state.notified(database), state.deliveries(database),
        logs={process.name: process.log() for process in (*cluster.instances, *cluster.workers)},
    )  # fmt: skip


async def _phase(name: str, fault: Fault, cluster: Cluster, load: Load) -> Phase:
    phase = Phase(name, time.monotonic())
    await asyncio.sleep(LEAD_SECONDS)
    phase.broken = time.monotonic()
    await fault(cluster, load)
    phase.returned = time.monotonic()
    await asyncio.sleep(SETTLE_SECONDS)
    phase.ended = time.monotonic()
    async with load.may_edit.closed():
        await _wait_for_caches(cluster, load.places, phase)
    return phase


async def _wait_for_caches(cluster: Cluster, places: Places, phase: Phase) -> None:
    begun = time.monotonic()
    while phase.caches_equal_after <= PATIENCE_SECONDS:
        phase.wrong_caches = await state.wrong_caches(cluster.instances, cluster.database, places)
        if not phase.wrong_caches:
            break
        await asyncio.sleep(LOOK_EVERY_SECONDS)
        phase.caches_equal_after = time.monotonic() - begun


async def _wait_for_handlers(cluster: Cluster) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while left := set(await asyncio.to_thread(state.deliveries, cluster.database)) - {"dead"}:
        assert time.monotonic() < deadline, f"after {PATIENCE_SECONDS:g} s there are deliveries that are {left}"
        await asyncio.sleep(LOOK_EVERY_SECONDS)


async def _make_places(cluster: Cluster) -> Places:
    async with httpx.AsyncClient(base_url=cluster.balancer.address, timeout=TIMEOUT_SECONDS) as http:

        async def make(path: str, **what: Any) -> Any:
            return (await http.post(path, json=what)).raise_for_status().json()

        territories = [(await make("/territories", name=name))["id"] for name in TERRITORIES]
        for territory in territories:
            for member in MEMBERS:
                await make("/memberships", territory_id=territory, member=member)
        for name in FLAGS:
            await make("/flags", name=name, is_enabled=True)
        planned = {"title": "Mutirão", "place": "Foz do rio", "starts_at": "2190-01-31T18:00:00Z"}
        events = [(await make("/events", territory_id=each, **planned))["id"] for each in territories]
        popular = [
            (await make("/posts", territory_id=territories[0], author="ana", title=title))["id"]
            for title in ("Feira", "Bazar")
        ]
        return Places(tuple(territories), MEMBERS, tuple(events), FLAGS, tuple(popular))
