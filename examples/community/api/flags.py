"""Feature flags: every instance sees a switch within moments, since its cached copy is deleted with the COMMIT."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Response
from pydantic import StrictBool

from araponga_infra.integrations.fastapi import IfMatch

from ..domain import FeatureFlagRow
from .dependencies import CachedFlags, Flags
from .fields import In, Name, Out, show
from .problems import CHANGE, CONFLICT, NOT_FOUND

router = APIRouter(prefix="/flags", tags=["flags"])

FlagName = Annotated[Name, Path()]


class FlagEdit(In):
    is_enabled: StrictBool


class FlagIn(FlagEdit):
    name: Name


class FlagOut(Out):
    name: str
    is_enabled: bool


@router.post("", status_code=201, responses=CONFLICT)
async def make_flag(body: FlagIn, flags: Flags, response: Response) -> FlagOut:
    return show(response, FlagOut, await flags.add(FeatureFlagRow(**body.model_dump())))


@router.get("/{name}", responses=NOT_FOUND)
async def read_flag(name: FlagName, flags: CachedFlags, response: Response) -> FlagOut:
    flag = await flags.get(name)
    if flag is None:
        raise HTTPException(404, "There is no such flag.")
    response.headers["ETag"] = f'"{flag.version}"'
    return FlagOut.model_validate(flag)


@router.put("/{name}", responses=CHANGE)
async def switch_flag(name: FlagName, body: FlagEdit, flags: Flags, if_match: IfMatch, response: Response) -> FlagOut:
    return show(response, FlagOut, await flags.edit(name, if_match, is_enabled=body.is_enabled))
