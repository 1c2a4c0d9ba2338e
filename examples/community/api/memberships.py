"""Who belongs to a territory, once each: the second time is a 409."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from araponga_infra.integrations.fastapi import IfMatch

from ..domain import TerritoryMembership
from ..queries import members
from .dependencies import KnownTerritory, Memberships, Reading
from .fields import Id, In, Limit, Name, Out, Page, Reference, page_of, show
from .problems import CHANGE, CONFLICT, NOT_FOUND

router = APIRouter(tags=["memberships"])

Role = Literal["resident", "curator"]


class MembershipEdit(In):
    role: Role


class MembershipIn(In):
    territory_id: Reference
    member: Name
    role: Role = "resident"


class MembershipOut(Out):
    id: int
    territory_id: int
    member: str
    role: Role


@router.get("/territories/{territory_id}/members", responses=NOT_FOUND)
async def list_members(
    territory_id: KnownTerritory, reads: Reading, after: Annotated[Name | None, Query()] = None, limit: Limit = 20
) -> Page[MembershipOut]:
    rows = await reads.all(members(territory_id, after=after or "", limit=limit + 1))
    found = [MembershipOut.model_validate(row) for row in rows]
    return page_of(found, limit, lambda membership: membership.member)


@router.post("/memberships", status_code=201, responses=CONFLICT)
async def join(body: MembershipIn, memberships: Memberships, response: Response) -> MembershipOut:
    return show(response, MembershipOut, await memberships.add(TerritoryMembership(**body.model_dump())))


@router.get("/memberships/{membership_id}", responses=NOT_FOUND)
async def read_membership(membership_id: Id, reads: Reading, response: Response) -> MembershipOut:
    return show(response, MembershipOut, await reads.one(TerritoryMembership, membership_id))


@router.put("/memberships/{membership_id}", responses=CHANGE)
async def change_role(
    membership_id: Id, body: MembershipEdit, memberships: Memberships, if_match: IfMatch, response: Response
) -> MembershipOut:
    return show(response, MembershipOut, await memberships.edit(membership_id, if_match, role=body.role))


@router.delete("/memberships/{membership_id}", status_code=204, responses=CHANGE)
async def leave(membership_id: Id, memberships: Memberships, if_match: IfMatch) -> None:
    await memberships.remove(membership_id, if_match)
