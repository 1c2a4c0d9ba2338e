"""The feed: the newest posts of all territories or of one, on a replica that has seen this client's last write."""

from datetime import datetime

from fastapi import APIRouter

from ..queries import LARGEST_ID, feed
from ..reads import Reads
from .dependencies import KnownTerritory, Reading
from .fields import Before, Limit, Out, Page, page_of
from .problems import NOT_FOUND

router = APIRouter(tags=["feed"])


class FeedItem(Out):
    id: int
    territory: str
    author: str
    title: str
    likes: int
    published_at: datetime


@router.get("/feed")
async def read_feed(reads: Reading, before: Before = LARGEST_ID, limit: Limit = 20) -> Page[FeedItem]:
    return await page(reads, before=before, limit=limit)


@router.get("/territories/{territory_id}/feed", responses=NOT_FOUND)
async def read_feed_of_territory(
    territory_id: KnownTerritory, reads: Reading, before: Before = LARGEST_ID, limit: Limit = 20
) -> Page[FeedItem]:
    return await page(reads, territory_id=territory_id, before=before, limit=limit)


async def page(
    reads: Reads, *, territory_id: int | None = None, before: int = LARGEST_ID, limit: int = 20
) -> Page[FeedItem]:
    posts = await reads.all(feed(territory_id=territory_id, before=before, limit=limit + 1))
    found = [
        FeedItem(
            id=post.id, territory=post.territory.name, author=post.author, title=post.title, likes=post.likes,
            published_at=post.published_at,
        )
        for post in posts
    ]  # fmt: skip
    return page_of(found, limit, lambda item: item.id)
