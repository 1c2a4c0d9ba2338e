"""The service behind the load balancer: uvicorn fastapi_service:app"""

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Response
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from araponga_infra import etag, expect_version
from araponga_infra.integrations.fastapi import IfMatch, Infra, ReadSession, WriteSession, install
from community.domain import Post, PostPublished, Territory
from community.handlers import router as event_handlers
from community.territories import TerritoryCacheService

app = FastAPI(title="Araponga")
# lifespan + error mapping (409 conflict, 412 / 428 If-Match, 503 when the outcome of COMMIT is unknown) + write-token
# cookie + /health/live, /health/ready. consume=False: this process only publishes, worker.py handles.
install(app, routers=[event_handlers], consume=False)


def territory_service(infra: Infra) -> TerritoryCacheService:
    return TerritoryCacheService(infra)


Territories = Annotated[TerritoryCacheService, Depends(territory_service)]


class PostIn(BaseModel):
    territory_id: int
    title: str


class PostOut(BaseModel):
    id: int
    title: str
    territory: str


@app.get("/territories/{territory_id}")
async def read_territory(territory_id: int, territories: Territories) -> Territory:
    territory = await territories.get(territory_id)
    if territory is None:
        raise HTTPException(404)
    return territory


@app.get("/feed")
async def feed(session: ReadSession) -> list[PostOut]:
    """On a replica that has seen this client's last write, by its cookie."""
    posts = await session.scalars(select(Post).options(selectinload(Post.territory)).limit(50))
    return [PostOut(id=p.id, title=p.title, territory=p.territory.name) for p in posts]


@app.post("/posts", status_code=201)
async def publish_post(body: PostIn, session: WriteSession, infra: Infra, response: Response) -> dict[str, int]:
    post = Post(territory_id=body.territory_id, title=body.title)
    session.add(post)
    await session.flush()  # the id, the row version
    infra.events.publish_in(session, PostPublished(post.id, post.territory_id))  # plain function, as session.add is
    response.headers["ETag"] = etag(post)
    return {"id": post.id}  # WriteSession commits before the 201 leaves


@app.put("/posts/{post_id}")
async def edit_post(post_id: int, body: PostIn, session: WriteSession, if_match: IfMatch, response: Response) -> None:
    post = await session.get_one(Post, post_id)
    expect_version(post, if_match)  # 412, never retried
    post.title = body.title
    await session.flush()  # someone was faster between: 409
    response.headers["ETag"] = etag(post)


async def like(session: AsyncSession, post_id: int) -> int:
    post = await session.get_one(Post, post_id)
    post.likes += 1
    return post.likes


@app.post("/posts/{post_id}/likes")
async def like_post(post_id: int, infra: Infra) -> dict[str, int]:
    """A hot row and no If-Match: here the conflict is ours to retry, so no WriteSession but a unit of work."""
    return {"likes": await infra.concurrency.execute(like, post_id)}
