"""What clients may send. Each limit is in the OpenAPI document, and each is one that every database behind it holds."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Generic, TypeVar

from fastapi import Path, Query, Response
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StringConstraints,
)

from araponga_infra import etag

from ..queries import LARGEST_ID

_NO_NUL = r"^[^\x00]*$"  # PostgreSQL has no place for it
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"

Id = Annotated[int, Path(ge=1, le=LARGEST_ID)]
Reference = Annotated[StrictInt, Field(ge=1, le=LARGEST_ID)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=80, pattern=_NAME)]
Kind = Annotated[str, StringConstraints(min_length=1, max_length=20, pattern=_NAME)]
Title = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_NO_NUL)]
ShortTitle = Annotated[str, StringConstraints(min_length=1, max_length=80, pattern=_NO_NUL)]
Body = Annotated[str, StringConstraints(max_length=20_000, pattern=_NO_NUL)]
Before = Annotated[int, Query(ge=1, le=LARGEST_ID, description="`next` of the page before")]
Limit = Annotated[int, Query(ge=1, le=50)]


def _as_text(value: object) -> object:
    if isinstance(value, str) and "T" in value:  # pydantic would take a number for seconds since 1970
        return value
    raise ValueError("write it as 2027-01-31T18:00:00-03:00")


Moment = Annotated[
    AwareDatetime,
    Field(ge=datetime(2000, 1, 1, tzinfo=UTC), lt=datetime(2200, 1, 1, tzinfo=UTC)),
    BeforeValidator(_as_text),
    AfterValidator(lambda moment: moment.astimezone(UTC)),  # as it is read back
]


class In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


Shown = TypeVar("Shown", bound=Out)
Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """Some of a list, and the `before` or `after` that leads on; null at its end."""

    items: list[Item]
    next: int | str | None


def page_of(found: Sequence[Item], limit: int, key: Callable[[Item], int | str]) -> Page[Item]:
    """Of what was found, asked for one more than fits on the page: that one says that the list goes on."""
    items = list(found[:limit])
    return Page(items=items, next=key(items[-1]) if len(found) > limit else None)


def show(response: Response, form: type[Shown], row: object) -> Shown:
    """A row with its ETag, which the next change of it has to name in If-Match."""
    response.headers["ETag"] = etag(row)
    return form.model_validate(row)
