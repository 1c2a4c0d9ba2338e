"""Territories: read from the cache, changed with If-Match."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Response

from araponga_infra.integrations.fastapi import IfMatch

from ..domain import TerritoryRow
from ..queries import LARGEST_ID
from ..queries import territories as territories_after
from .dependencies import CachedTerritories, Reading, Territories
from .fields import Id, In, Limit, Out, Page, ShortTitle, page_of, show
from .problems import CHANGE, NOT_FOUND

router = APIRouter(prefix="/territories", tags=["territories"])


class TerritoryIn(In):
    name: ShortTitle


class TerritoryOut(Out):
    id: int
    name: str


@router.get("")
async def list_territories(
    reads: Reading, after: Annotated[int, Query(ge=0, le=LARGEST_ID)] = 0, limit: Limit = 20
) -> Page[TerritoryOut]:
    rows = await reads.all(territories_after(after=after, limit=limit + 1))
    found = [TerritoryOut.model_validate(row) for row in rows]
    return page_of(found, limit, lambda territory: territory.id)


@router.post("", status_code=201)
async def found_territory(body: TerritoryIn, territories: Territories, response: Response) -> TerritoryOut:
    return show(response, TerritoryOut, await territories.add(TerritoryRow(name=body.name)))


@router.get("/{territory_id}", responses=NOT_FOUND)
async def read_territory(territory_id: Id, territories: CachedTerritories, response: Response) -> TerritoryOut:
    territory = await territories.get(territory_id)
    if territory is None:
        raise HTTPException(404, "There is no such territory.")
    response.headers["ETag"] = f'"{territory.version}"'
    return TerritoryOut.model_validate(territory)


@router.put("/{territory_id}", responses=CHANGE)
async def rename_territory(
    territory_id: Id, body: TerritoryIn, territories: Territories, if_match: IfMatch, response: Response
) -> TerritoryOut:
    return show(response, TerritoryOut, await territories.edit(territory_id, if_match, name=body.name))
