"""The same, sync: gunicorn 'flask_service:create_app()'"""

from datetime import timedelta

from flask import Flask, abort, request
from flask.typing import ResponseReturnValue
from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from araponga_infra import etag, expect_version
from araponga_infra.integrations.flask import Araponga
from community.domain import Post, PostPublished, Territory, TerritoryRow
from community.handlers import router as event_handlers

# Opens nothing: the first use in each forked worker does.
araponga = Araponga(routers=[event_handlers], consume=False)


def load_territory(territory_id: int) -> Territory | None:
    with araponga.infra.read(fresh=True) as session:
        row = session.get(TerritoryRow, territory_id)
        return Territory(row.id, row.name, row.row_version) if row else None


def create_app() -> Flask:
    app = Flask(__name__)
    araponga.init_app(app)

    @app.get("/territories/<int:territory_id>")
    def read_territory(territory_id: int) -> ResponseReturnValue:
        cache = araponga.infra.cache.region("territory", Territory | None, ttl=timedelta(minutes=10))
        territory = cache.get_or_set(territory_id, lambda: load_territory(territory_id))
        if territory is None:
            abort(404)
        return {"id": territory.id, "name": territory.name, "version": territory.version}

    @app.get("/feed")
    def feed() -> ResponseReturnValue:
        posts = araponga.read.scalars(select(Post).options(selectinload(Post.territory)).limit(50))
        return [{"id": p.id, "title": p.title, "territory": p.territory.name} for p in posts]

    @app.post("/posts")
    def publish_post() -> ResponseReturnValue:
        body = request.get_json()
        with araponga.infra.write() as session:
            post = Post(territory_id=body["territory_id"], title=body["title"])
            session.add(post)
            session.flush()
            araponga.infra.events.publish_in(session, PostPublished(post.id, post.territory_id))
        return {"id": post.id}, 201, {"ETag": etag(post)}  # after COMMIT: needs objects that did not expire

    @app.put("/posts/<int:post_id>")
    def edit_post(post_id: int) -> ResponseReturnValue:
        with araponga.infra.write() as session:
            post = session.get_one(Post, post_id)
            expect_version(post, araponga.if_match)
            post.title = request.get_json()["title"]
        return "", 204, {"ETag": etag(post)}

    @app.post("/posts/<int:post_id>/likes")
    def like_post(post_id: int) -> ResponseReturnValue:
        return {"likes": araponga.infra.concurrency.execute(like, post_id)}

    return app


def like(session: Session, post_id: int) -> int:
    post = session.get_one(Post, post_id)
    post.likes += 1
    return post.likes
