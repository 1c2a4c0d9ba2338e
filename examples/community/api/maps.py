"""What is on a territory's map."""

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field

from araponga_infra.integrations.fastapi import IfMatch

from ..domain import MapEntity
from .dependencies import CachedMaps, KnownTerritory, Maps, Reading
from .fields import Id, In, Kind, Out, Reference, Title, show
from .problems import CHANGE, NOT_FOUND

router = APIRouter(tags=["map"])

Latitude = Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False, strict=True)]
Longitude = Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False, strict=True)]


class MapEntityEdit(In):
    name: Title
    kind: Kind
    latitude: Latitude
    longitude: Longitude


class MapEntityIn(MapEntityEdit):
    territory_id: Reference


class MapPointOut(Out):
    id: int
    name: str
    kind: str
    latitude: float
    longitude: float


class MapEntityOut(MapPointOut):
    territory_id: int


@router.get("/territories/{territory_id}/map", responses=NOT_FOUND)
async def read_map(territory_id: KnownTerritory, maps: CachedMaps) -> list[MapPointOut]:
    return [MapPointOut.model_validate(point) for point in await maps.of(territory_id)]


@router.post("/map-entities", status_code=201)
async def place_on_map(body: MapEntityIn, maps: Maps, response: Response) -> MapEntityOut:
    return show(response, MapEntityOut, await maps.add(MapEntity(**body.model_dump())))


@router.get("/map-entities/{entity_id}", responses=NOT_FOUND)
async def read_map_entity(entity_id: Id, reads: Reading, response: Response) -> MapEntityOut:
    return show(response, MapEntityOut, await reads.one(MapEntity, entity_id))


@router.put("/map-entities/{entity_id}", responses=CHANGE)
async def edit_map_entity(
    entity_id: Id, body: MapEntityEdit, maps: Maps, if_match: IfMatch, response: Response
) -> MapEntityOut:
    return show(response, MapEntityOut, await maps.edit(entity_id, if_match, **body.model_dump()))


@router.delete("/map-entities/{entity_id}", status_code=204, responses=CHANGE)
async def take_off_map(entity_id: Id, maps: Maps, if_match: IfMatch) -> None:
    await maps.remove(entity_id, if_match)
