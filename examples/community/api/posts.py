"""Posts: published in one COMMIT with the event that follows from it, edited with If-Match, liked by many at once."""

from datetime import datetime

from fastapi import APIRouter, Response

from araponga_infra.integrations.fastapi import IfMatch, Infra

from ..domain import CommunityPost, PostPublished
from ..repositories import like
from .dependencies import Posts, Reading
from .fields import Body, Id, In, Name, Out, Reference, Title, show
from .problems import CHANGE, CONFLICT, NOT_FOUND

router = APIRouter(prefix="/posts", tags=["posts"])


class PostEdit(In):
    title: Title
    body: Body = ""


class PostIn(PostEdit):
    territory_id: Reference
    author: Name


class PostOut(Out):
    id: int
    territory_id: int
    author: str
    title: str
    body: str
    likes: int
    published_at: datetime


@router.post("", status_code=201)
async def publish_post(body: PostIn, posts: Posts, infra: Infra, response: Response) -> PostOut:
    post = await posts.add(CommunityPost(**body.model_dump()))
    infra.events.publish_in(posts.session, PostPublished(post.id, post.territory_id))
    return show(response, PostOut, post)  # COMMIT comes before the 201 leaves


@router.get("/{post_id}", responses=NOT_FOUND)
async def read_post(post_id: Id, reads: Reading, response: Response) -> PostOut:
    return show(response, PostOut, await reads.one(CommunityPost, post_id))


@router.put("/{post_id}", responses=CHANGE)
async def edit_post(post_id: Id, body: PostEdit, posts: Posts, if_match: IfMatch, response: Response) -> PostOut:
    return show(response, PostOut, await posts.edit(post_id, if_match, **body.model_dump()))


@router.delete("/{post_id}", status_code=204, responses=CHANGE)
async def delete_post(post_id: Id, posts: Posts, if_match: IfMatch) -> None:
    await posts.remove(post_id, if_match)


@router.post("/{post_id}/likes", responses=NOT_FOUND | CONFLICT)
async def like_post(post_id: Id, infra: Infra) -> dict[str, int]:
    """A hot row and no If-Match: the conflict is ours to retry."""
    return {"likes": await infra.concurrency.execute(like, post_id)}
