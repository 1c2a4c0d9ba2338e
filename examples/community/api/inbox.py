"""A member's notifications, newest first, as the event handlers have written them."""

from typing import Annotated

from fastapi import APIRouter, Path

from ..queries import LARGEST_ID, inbox
from .dependencies import Reading
from .fields import Before, Limit, Name, Out, Page, page_of

router = APIRouter(tags=["inbox"])


class NotificationOut(Out):
    id: int
    text: str


@router.get("/members/{member}/notifications")
async def read_inbox(
    member: Annotated[Name, Path()], reads: Reading, before: Before = LARGEST_ID, limit: Limit = 20
) -> Page[NotificationOut]:
    rows = await reads.all(inbox(member, before=before, limit=limit + 1))
    found = [NotificationOut.model_validate(row) for row in rows]
    return page_of(found, limit, lambda entry: entry.id)
