"""What takes place in a territory. A new event is announced to its members where the flag `announcements` is on."""

from datetime import datetime

from fastapi import APIRouter, Response

from araponga_infra.integrations.fastapi import IfMatch, Infra

from ..domain import EventAnnounced, TerritoryEvent
from .dependencies import CachedAgendas, CachedFlags, Events, KnownTerritory, Reading
from .fields import Id, In, Moment, Out, Reference, Title, show
from .problems import CHANGE, NOT_FOUND

router = APIRouter(tags=["events"])


class EventEdit(In):
    title: Title
    place: Title
    starts_at: Moment


class EventIn(EventEdit):
    territory_id: Reference


class Upcoming(Out):
    id: int
    title: str
    place: str
    starts_at: datetime


class EventOut(Upcoming):
    territory_id: int


@router.get("/territories/{territory_id}/events", responses=NOT_FOUND)
async def read_agenda(territory_id: KnownTerritory, agendas: CachedAgendas) -> list[Upcoming]:
    return [Upcoming.model_validate(event) for event in await agendas.of(territory_id)]


@router.post("/events", status_code=201)
async def plan_event(body: EventIn, events: Events, flags: CachedFlags, infra: Infra, response: Response) -> EventOut:
    is_announced = await flags.is_enabled("announcements")  # before the transaction: a load takes a connection, too
    event = await events.add(TerritoryEvent(**body.model_dump()))
    if is_announced:
        infra.events.publish_in(events.session, EventAnnounced(event.id, event.territory_id))
    return show(response, EventOut, event)


@router.get("/events/{event_id}", responses=NOT_FOUND)
async def read_event(event_id: Id, reads: Reading, response: Response) -> EventOut:
    return show(response, EventOut, await reads.one(TerritoryEvent, event_id))


@router.put("/events/{event_id}", responses=CHANGE)
async def edit_event(event_id: Id, body: EventEdit, events: Events, if_match: IfMatch, response: Response) -> EventOut:
    return show(response, EventOut, await events.edit(event_id, if_match, **body.model_dump()))


@router.delete("/events/{event_id}", status_code=204, responses=CHANGE)
async def cancel_event(event_id: Id, events: Events, if_match: IfMatch) -> None:
    await events.remove(event_id, if_match)
