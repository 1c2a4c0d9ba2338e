"""One line per request, whatever the framework."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI
from flask import Flask
from flask import Response as FlaskResponse
from httpx import ASGITransport, AsyncClient
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from araponga_infra import CountingObserver, InvalidArgumentError
from araponga_infra.queries import QueryInspector, QueryLogMiddleware, QueryLogWSGIMiddleware
from araponga_infra.queries.capture import _open

from .models import Post

LOGGER = "araponga_infra.queries.requests"


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, logger=LOGGER):
        yield caplog


def only(logged: pytest.LogCaptureFixture) -> tuple[str, str, dict[str, Any]]:
    (record,) = [record for record in logged.records if record.name == LOGGER]
    return record.levelname, record.getMessage(), record.__dict__["araponga"]


def ask(engine: Engine, times: int = 1) -> None:
    with engine.connect() as connection:
        for _ in range(times):
            connection.execute(text("SELECT 1"))


def names(engine: Engine) -> list[str]:
    with Session(engine) as session:
        return [post.author.name for post in session.scalars(select(Post))]


async def get(app: Any, path: str) -> int:
    async with AsyncClient(transport=ASGITransport(app, raise_app_exceptions=False), base_url="http://test") as client:
        return (await client.get(path)).status_code


@pytest.mark.anyio
class TestAsgi:
    async def test_a_request_is_one_line(self, engine: Engine, logged: pytest.LogCaptureFixture) -> None:
        app = FastAPI()
        app.add_middleware(QueryLogMiddleware)

        @app.get("/posts/{post_id}")
        async def read(post_id: int) -> None:
            ask(engine, 2)

        assert await get(app, "/posts/17?token=secret") == 200
        level, message, facts = only(logged)
        assert level == "INFO"
        assert message.startswith("GET /posts/{post_id} 200: 2 queries in 0.")
        assert "secret" not in message
        assert (facts["queries"], facts["route"], facts["n_plus_one"]) == (2, "/posts/{post_id}", [])

    async def test_an_observer_hears_of_the_findings(self, engine: Engine) -> None:
        counters = CountingObserver()
        app = FastAPI()
        app.add_middleware(QueryLogMiddleware, observer=counters)

        @app.get("/posts")
        def read() -> list[str]:
            return names(engine)

        assert await get(app, "/posts") == 200
        assert list(counters.snapshot()) == ["queries.n_plus_one"]

    async def test_an_n_plus_one_is_a_warning_with_its_line(
        self, engine: Engine, logged: pytest.LogCaptureFixture
    ) -> None:
        app = FastAPI()
        app.add_middleware(QueryLogMiddleware)

        @app.get("/feed")
        def feed() -> list[str]:
            return names(engine)

        await get(app, "/feed")
        level, message, facts = only(logged)
        assert level == "WARNING"
        assert "N+1: 4 times SELECT author.id" in message
        assert "tests/queries/test_middleware.py:" in message
        assert len(facts["n_plus_one"]) == 1

    async def test_too_many_and_slow(self, engine: Engine, logged: pytest.LogCaptureFixture) -> None:
        app = FastAPI()
        app.add_middleware(QueryLogMiddleware, inspector=QueryInspector(engine, slow_after=0), max_queries=1)

        @app.get("/")
        async def read() -> None:
            ask(engine, 2)

        await get(app, "/")
        level, message, facts = only(logged)
        assert level == "WARNING"
        assert "at most 1 expected" in message
        assert len(facts["slow"]) == 2

    async def test_an_inspector_watches_its_own_engine_only(
        self, engine: Engine, logged: pytest.LogCaptureFixture
    ) -> None:
        app, other = FastAPI(), create_engine("sqlite://")
        app.add_middleware(QueryLogMiddleware, inspector=QueryInspector(other))

        @app.get("/")
        async def read() -> None:
            ask(engine)

        await get(app, "/")
        assert only(logged)[2]["queries"] == 0
        other.dispose()

    async def test_background_tasks_belong_to_their_request(
        self, engine: Engine, logged: pytest.LogCaptureFixture
    ) -> None:
        app = FastAPI()
        app.add_middleware(QueryLogMiddleware)

        @app.get("/")
        async def read(tasks: BackgroundTasks) -> None:
            tasks.add_task(ask, engine, 3)

        await get(app, "/")
        assert only(logged)[2]["queries"] == 3

    async def test_requests_side_by_side_are_told_apart(self, engine: Engine, logged: pytest.LogCaptureFixture) -> None:
        app, all_here = FastAPI(), asyncio.Barrier(3)
        app.add_middleware(QueryLogMiddleware)

        @app.get("/{times}")
        async def read(times: int) -> None:
            await all_here.wait()
            ask(engine, times)

        await asyncio.gather(*(get(app, f"/{times}") for times in range(3)))
        counts = [r.__dict__["araponga"]["queries"] for r in logged.records if r.name == LOGGER]
        assert sorted(counts) == [0, 1, 2]

    async def test_a_request_that_fails_is_logged_too(self, engine: Engine, logged: pytest.LogCaptureFixture) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            ask(engine)
            raise ZeroDivisionError

        assert await get(QueryLogMiddleware(app), "/x%0Ay") == 500
        assert only(logged)[1].startswith("GET /x%0Ay failed: 1 queries")

    async def test_path_parameters_are_named_where_only_these_are_known(self, logged: pytest.LogCaptureFixture) -> None:
        async def read(request: Request) -> PlainTextResponse:
            return PlainTextResponse("ok")

        app = Starlette(routes=[Route("/reset/{token}", read)])
        app.add_middleware(QueryLogMiddleware)
        await get(app, "/reset/secret")
        assert only(logged)[2]["route"] == "/reset/{token}"

    async def test_other_protocols_pass(self, logged: pytest.LogCaptureFixture) -> None:
        seen: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["type"])

        async def unused(*_: Any) -> Any: ...

        await QueryLogMiddleware(app)({"type": "lifespan"}, unused, unused)
        assert seen == ["lifespan"]
        assert logged.records == []


class TestWsgi:
    def test_a_request_is_one_line(self, engine: Engine, logged: pytest.LogCaptureFixture) -> None:
        app = Flask("test")
        app.wsgi_app = QueryLogWSGIMiddleware(app.wsgi_app)  # type: ignore[method-assign]

        @app.get("/posts/<int:post_id>")
        def read(post_id: int) -> str:
            return str(names(engine))

        with app.test_client() as client, client.get("/posts/17?token=secret") as response:
            assert response.status_code == 200
        level, message, facts = only(logged)
        assert level == "WARNING"
        assert message.startswith("GET /posts/<int:post_id> 200: 5 queries in 0.")
        assert (facts["queries"], len(facts["n_plus_one"])) == (5, 1)

    def test_an_observer_hears_of_the_findings(self, engine: Engine) -> None:
        counters = CountingObserver()
        app = Flask("test")
        app.wsgi_app = QueryLogWSGIMiddleware(app.wsgi_app, observer=counters)  # type: ignore[method-assign]

        @app.get("/posts")
        def read() -> str:
            return str(names(engine))

        with app.test_client() as client, client.get("/posts"):
            pass
        assert list(counters.snapshot()) == ["queries.n_plus_one"]

    def test_a_streamed_body_counts(self, engine: Engine, logged: pytest.LogCaptureFixture) -> None:
        app = Flask("test")
        app.wsgi_app = QueryLogWSGIMiddleware(app.wsgi_app)  # type: ignore[method-assign]

        @app.get("/")
        def stream() -> FlaskResponse:
            def body() -> Iterator[str]:
                for _ in range(3):
                    ask(engine)
                    yield "x"

            return FlaskResponse(body())

        with app.test_client() as client, client.get("/") as response:
            assert response.data == b"xxx"
        assert only(logged)[2]["queries"] == 3

    def test_an_application_that_raises(self, engine: Engine, logged: pytest.LogCaptureFixture) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            ask(engine)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            QueryLogWSGIMiddleware(app)({"REQUEST_METHOD": "GET", "PATH_INFO": "/a b"}, lambda *_: None)
        assert only(logged)[1].startswith("GET /a%20b failed: 1 queries")

    def test_a_response_that_is_never_closed_leaves_no_capture_behind(
        self, engine: Engine, logged: pytest.LogCaptureFixture
    ) -> None:
        app = Flask("test")
        app.wsgi_app = QueryLogWSGIMiddleware(app.wsgi_app)  # type: ignore[method-assign]

        @app.get("/")
        def read() -> str:
            ask(engine)
            return ""

        with app.test_client() as client:
            responses = [client.get("/") for _ in range(3)]
            assert _open.get() == ()
            for response in responses:
                response.close()
        assert [record.__dict__["araponga"]["queries"] for record in logged.records] == [1, 1, 1]


@pytest.mark.parametrize("middleware", [QueryLogMiddleware, QueryLogWSGIMiddleware])
def test_a_negative_maximum(middleware: type[QueryLogMiddleware]) -> None:
    with pytest.raises(InvalidArgumentError, match="max_queries=-1"):
        middleware(None, max_queries=-1)  # type: ignore[arg-type]
