"""One service, written for each framework; the contract runs against all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, Any

import httpx
from fastapi import Body, FastAPI
from fastapi import Response as FastApiResponse
from flask import Flask
from flask import request as flask_request
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from araponga_infra import InfraSettings, etag, expect_version
from araponga_infra.integrations import fastapi, flask, starlette
from araponga_infra.integrations.fastapi import IfMatch, Infra, LastWrite, ReadSession, WriteSession
from tests.integrations.domain import Comment, Post, Posted, router
from tests.integrations.serving import served_asgi, served_wsgi

Title = Annotated[str, Body(embed=True)]
Serve = Callable[..., AbstractContextManager[httpx.Client]]


def like(session: Session, post_id: int) -> int:
    post = session.get_one(Post, post_id)
    post.likes += 1
    return post.likes


async def like_async(session: AsyncSession, post_id: int) -> int:
    post = await session.get_one(Post, post_id)
    post.likes += 1
    return post.likes


# FastAPI


def fastapi_app(**options: Any) -> FastAPI:
    app = FastAPI()
    fastapi.install(app, **options)

    @app.get("/posts")
    async def read(session: ReadSession) -> list[str]:
        return list(await session.scalars(select(Post.title).order_by(Post.id)))

    @app.post("/posts", status_code=201)
    async def add(title: Title, session: WriteSession, infra: Infra, response: FastApiResponse) -> dict[str, int]:
        session.add(post := Post(title=title))
        infra.events.publish_in(session, Posted(title))
        await session.flush()
        response.headers["ETag"] = etag(post)
        return {"id": post.id}

    @app.put("/posts/{post_id}", status_code=204)
    async def edit(post_id: int, title: Title, session: WriteSession, if_match: IfMatch) -> None:
        post = await session.get_one(Post, post_id)
        expect_version(post, if_match)
        post.title = title

    @app.post("/posts/{post_id}/overtaken")
    async def overtaken(post_id: int, session: WriteSession, infra: Infra) -> None:
        post = await session.get_one(Post, post_id)
        async with infra.engine.begin() as other:
            await other.execute(update(Post).values(title="faster", row_version=7))
        post.title = "slower"

    @app.post("/posts/{post_id}/likes")
    async def add_like(post_id: int, infra: Infra) -> int:
        return await infra.concurrency.execute(like_async, post_id)

    @app.post("/comments")
    async def comment_on_nothing(session: WriteSession) -> str:
        session.add(Comment(post_id=999))
        return "saved"

    @app.post("/core")
    async def core(infra: Infra) -> None:
        async with infra.engine.begin() as connection:
            await connection.execute(update(Post).values(title="core"))

    @app.post("/refused")
    async def refused(infra: Infra) -> None:
        async with infra.engine.connect() as connection:
            await connection.execute(update(Post).values(title="never"))
            await connection.rollback()

    @app.get("/last-write")
    async def last_write(token: LastWrite) -> str | None:
        return token

    return app


# Starlette


def starlette_app(**options: Any) -> Starlette:
    app = Starlette()
    starlette.install(app, **options)

    async def posts(request: Request) -> Response:
        if request.method == "GET":
            async with starlette.read_session(request) as session:
                return JSONResponse(list(await session.scalars(select(Post.title).order_by(Post.id))))
        title = (await request.json())["title"]
        async with starlette.infra_of(request).write() as session:
            session.add(post := Post(title=title))
            starlette.infra_of(request).events.publish_in(session, Posted(title))
        return JSONResponse({"id": post.id}, 201, {"ETag": etag(post)})

    async def edit(request: Request) -> Response:
        title = (await request.json())["title"]
        async with starlette.infra_of(request).write() as session:
            post = await session.get_one(Post, request.path_params["post_id"])
            expect_version(post, starlette.if_match_of(request))
            post.title = title
        return Response(status_code=204)

    async def overtaken(request: Request) -> Response:
        infra = starlette.infra_of(request)
        async with infra.write() as session:
            post = await session.get_one(Post, request.path_params["post_id"])
            async with infra.engine.begin() as other:
                await other.execute(update(Post).values(title="faster", row_version=7))
            post.title = "slower"
        return Response()

    async def add_like(request: Request) -> Response:
        infra = starlette.infra_of(request)
        return JSONResponse(await infra.concurrency.execute(like_async, request.path_params["post_id"]))

    async def comment_on_nothing(request: Request) -> Response:
        async with starlette.infra_of(request).write() as session:
            session.add(Comment(post_id=999))
        return Response("saved")

    async def core(request: Request) -> Response:
        async with starlette.infra_of(request).engine.begin() as connection:
            await connection.execute(update(Post).values(title="core"))
        return Response()

    async def refused(request: Request) -> Response:
        async with starlette.infra_of(request).engine.connect() as connection:
            await connection.execute(update(Post).values(title="never"))
            await connection.rollback()
        return Response()

    async def last_write(request: Request) -> Response:
        return JSONResponse(starlette.last_write_of(request))

    app.add_route("/posts", posts, methods=["GET", "POST"])
    app.add_route("/posts/{post_id:int}", edit, methods=["PUT"])
    app.add_route("/posts/{post_id:int}/overtaken", overtaken, methods=["POST"])
    app.add_route("/posts/{post_id:int}/likes", add_like, methods=["POST"])
    app.add_route("/comments", comment_on_nothing, methods=["POST"])
    app.add_route("/core", core, methods=["POST"])
    app.add_route("/refused", refused, methods=["POST"])
    app.add_route("/last-write", last_write, methods=["GET"])
    return app


# Flask


def flask_app(**options: Any) -> tuple[Flask, flask.Araponga]:
    app = Flask(__name__)
    araponga = flask.Araponga(app, **options)

    @app.get("/posts")
    def read() -> Any:
        return list(araponga.read.scalars(select(Post.title).order_by(Post.id)))

    @app.post("/posts")
    def add() -> Any:
        title = flask_request.get_json()["title"]
        with araponga.infra.write() as session:
            session.add(post := Post(title=title))
            araponga.infra.events.publish_in(session, Posted(title))
        return {"id": post.id}, 201, {"ETag": etag(post)}

    @app.put("/posts/<int:post_id>")
    def edit(post_id: int) -> Any:
        with araponga.infra.write() as session:
            post = session.get_one(Post, post_id)
            expect_version(post, araponga.if_match)
            post.title = flask_request.get_json()["title"]
        return "", 204

    @app.post("/posts/<int:post_id>/overtaken")
    def overtaken(post_id: int) -> Any:
        with araponga.infra.write() as session:
            post = session.get_one(Post, post_id)
            with araponga.infra.engine.begin() as other:
                other.execute(update(Post).values(title="faster", row_version=7))
            post.title = "slower"
        return ""

    @app.post("/posts/<int:post_id>/likes")
    def add_like(post_id: int) -> Any:
        return str(araponga.infra.concurrency.execute(like, post_id))

    @app.post("/comments")
    def comment_on_nothing() -> Any:
        with araponga.infra.write() as session:
            session.add(Comment(post_id=999))
        return "saved"

    @app.post("/core")
    def core() -> Any:
        with araponga.infra.engine.begin() as connection:
            connection.execute(update(Post).values(title="core"))
        return ""

    @app.post("/refused")
    def refused() -> Any:
        with araponga.infra.engine.connect() as connection:
            connection.execute(update(Post).values(title="never"))
            connection.rollback()
        return ""

    @app.get("/last-write")
    def last_write() -> Any:
        token = araponga.last_write
        return f'"{token}"' if token is not None else "null"

    @app.post("/write-then-read")
    def write_then_read() -> Any:
        with araponga.infra.write() as session:
            session.execute(text("SELECT 1"))
            session.add(Post(title="own"))
        return list(araponga.read.scalars(select(Post.title).order_by(Post.id)))

    return app, araponga


# Serving them


@contextmanager
def serve_flask(**options: Any) -> Iterator[httpx.Client]:
    app, araponga = flask_app(**options)
    try:
        with served_wsgi(app) as client:
            yield client
    finally:
        araponga.close(app)


def options_for(settings: InfraSettings, **more: Any) -> dict[str, Any]:
    return {"settings": settings, "routers": [router], "consume": False, **more}


def serve(framework: str, settings: InfraSettings, **more: Any) -> AbstractContextManager[httpx.Client]:
    options = options_for(settings, **more)
    if framework == "flask":
        return serve_flask(**options)
    return served_asgi(fastapi_app(**options) if framework == "fastapi" else starlette_app(**options))
