"""What FastAPI and Starlette have that Flask has not: a lifespan, dependencies, websockets, streams."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from araponga_infra import (
    AsyncInfrastructure,
    ConcurrencyConflictError,
    EventRouter,
    InfraSettings,
    InvalidArgumentError,
    NotConfiguredError,
    WriteToken,
)
from araponga_infra.events.processor import Phase
from araponga_infra.integrations.fastapi import IfMatch, Infra, LastWrite, ReadSession, WriteSession, install
from araponga_infra.integrations.write_tokens import TokenCarrier
from tests.integrations.domain import Base, Post, Posted, handled, router, sqlite_url, titles
from tests.servers.processes import wait_until

EMBEDDED = InfraSettings.embedded()


def test_the_parts_are_open_in_the_host_s_own_lifespan(tmp_path: Path) -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, int]]:
        async with araponga.infra.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        seen.append("up")
        yield {"answer": 42}
        async with araponga.infra.read() as session:
            seen.append(f"down, {len((await session.scalars(select(Post))).all())} post(s)")

    app = FastAPI(lifespan=lifespan)
    araponga = install(app, settings=EMBEDDED)

    @app.post("/posts")
    async def add(session: WriteSession) -> None:
        session.add(Post(title="Feira"))

    with TestClient(app) as client:
        assert client.post("/posts").status_code == 200
    assert seen == ["up", "down, 1 post(s)"]
    with pytest.raises(NotConfiguredError, match="not started"):
        _ = araponga.infra


def test_an_application_can_be_started_again() -> None:
    app = FastAPI()
    install(app, settings=EMBEDDED)
    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/health/ready").status_code == 200


def test_the_environment_is_read_when_the_application_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ARAPONGA_DATABASE_URL", "nonsense")
    app = FastAPI()
    araponga = install(app)
    monkeypatch.setenv("ARAPONGA_DATABASE_URL", sqlite_url(tmp_path))
    with TestClient(app):
        assert str(tmp_path) in str(araponga.infra.engine.url)


def test_a_malformed_variable_prevents_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARAPONGA_DATABASE_URL", "nonsense")
    app = FastAPI()
    install(app)
    with pytest.raises(InvalidArgumentError, match="ARAPONGA_DATABASE_URL"), TestClient(app):
        pass


def test_handlers_run_in_a_process_that_consumes() -> None:
    app = FastAPI()
    araponga = install(app, settings=EMBEDDED, routers=[router])

    @app.post("/posted")
    async def posted(infra: Infra) -> None:
        await infra.events.publish(Posted("consumed"))

    with TestClient(app) as client:
        client.post("/posted")
        wait_until(lambda: handled[-1:] == ["consumed"], 20, "the event to be handled")
    assert not araponga.is_open


def test_as_many_handlers_run_at_a_time_as_it_was_told() -> None:
    together, met, own = threading.Barrier(7), list[str](), EventRouter()

    @own.subscribe(Posted)
    def meet(posted: Posted) -> None:
        together.wait(20)
        met.append(posted.title)

    app = FastAPI()
    araponga = install(app, settings=EMBEDDED, routers=[own], max_concurrency=together.parties)

    @app.post("/posts")
    async def post() -> None:
        await araponga.infra.events.publish_many([Posted(str(number)) for number in range(together.parties)])

    with TestClient(app) as client:
        client.post("/posts")
        wait_until(lambda: len(met) == together.parties, 30, "all of them to meet")


def test_a_concurrency_of_none_prevents_the_start() -> None:
    app = FastAPI()
    install(app, settings=EMBEDDED, max_concurrency=0)
    with pytest.raises(InvalidArgumentError, match="max_concurrency=0"), TestClient(app):
        pass


def test_a_handler_that_runs_while_the_application_stops_has_the_parts() -> None:
    begun, used = threading.Event(), list[object]()
    own = EventRouter()

    @own.subscribe(Posted)
    async def use(posted: Posted) -> None:
        begun.set()
        await asyncio.to_thread(wait_until, lambda: processor._phase is Phase.STOPPING, 30, "the stop")
        await araponga.infra.cache.set("seen", posted.title)
        used.append(await araponga.infra.cache.get("seen"))

    app = FastAPI()
    araponga = install(app, settings=EMBEDDED, routers=[own])

    @app.post("/posts")
    async def post() -> None:
        await araponga.infra.events.publish(Posted("Feira"))

    with TestClient(app) as client:
        processor = araponga.infra.events
        client.post("/posts")
        assert begun.wait(30)
    assert used == ["Feira"]


def test_a_handler_that_the_host_registered_before_stays() -> None:
    app = FastAPI()

    @app.exception_handler(ConcurrencyConflictError)
    async def own(_request: Any, _error: ConcurrencyConflictError) -> JSONResponse:
        return JSONResponse("mine", 418)

    install(app, settings=EMBEDDED)

    @app.get("/conflict")
    async def conflict() -> None:
        raise ConcurrencyConflictError

    with TestClient(app) as client:
        assert client.get("/conflict").status_code == 418


def test_probes_can_be_moved_and_left_out() -> None:
    moved, without = FastAPI(), FastAPI()
    install(moved, settings=EMBEDDED, health_path="/internal/")
    install(without, settings=EMBEDDED, health_path=None)
    with TestClient(moved) as client:
        assert client.get("/internal/live").status_code == 200
    with TestClient(without) as client:
        assert client.get("/health/live").status_code == HTTPStatus.NOT_FOUND


def test_probes_before_the_start() -> None:
    app = FastAPI()
    install(app, settings=EMBEDDED)
    client = TestClient(app)
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").status_code == 503
    client.close()


def test_probes_are_not_part_of_the_documented_interface() -> None:
    app = FastAPI()
    install(app, settings=EMBEDDED)
    assert app.openapi()["paths"] == {}


def test_if_match_is_part_of_it() -> None:
    app = FastAPI()
    install(app, settings=EMBEDDED)

    @app.put("/posts")
    async def edit(if_match: IfMatch) -> None: ...

    [parameter] = app.openapi()["paths"]["/posts"]["put"]["parameters"]
    assert (parameter["name"], parameter["in"]) == ("If-Match", "header")


def test_without_install_or_without_a_lifespan_the_error_says_so() -> None:
    async def touch(infra: Infra) -> None: ...

    bare, stopped = FastAPI(), FastAPI()
    install(stopped, settings=EMBEDDED)
    for app, advice in ((bare, "install"), (stopped, "lifespan")):
        app.get("/touch")(touch)
        client = TestClient(app)
        with pytest.raises(NotConfiguredError, match=advice):
            client.get("/touch")
        client.close()


def test_install_refuses_what_it_cannot_serve() -> None:
    with pytest.raises(InvalidArgumentError, match="FastAPI or Starlette"):
        install(object())  # type: ignore[arg-type]
    app = FastAPI()
    with TestClient(app) as client:
        client.get("/")
    with pytest.raises(InvalidArgumentError, match="started already"):
        install(app)
    with pytest.raises(InvalidArgumentError, match="write_token_cookie"):
        install(FastAPI(), write_token_cookie="two words")
    with pytest.raises(InvalidArgumentError, match="health_timeout"):
        install(FastAPI(), health_timeout=0)


def test_an_endpoint_that_raises_rolls_back(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    app = FastAPI()
    install(app, settings=InfraSettings(url))

    @app.post("/posts")
    async def add(session: WriteSession) -> None:
        session.add(Post(title="Feira"))
        await session.flush()
        raise ZeroDivisionError

    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.post("/posts").status_code == 500
    assert titles(url) == []


def test_background_tasks_run_after_the_commit(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    app, seen = FastAPI(), list[list[str]]()
    install(app, settings=InfraSettings(url))

    @app.post("/posts")
    async def add(session: WriteSession, tasks: BackgroundTasks) -> None:
        session.add(Post(title="Feira"))
        tasks.add_task(lambda: seen.append(titles(url)))

    with TestClient(app) as client:
        client.post("/posts")
    assert seen == [["Feira"]]


def test_a_streamed_body_opens_a_session_of_its_own(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    app = FastAPI()
    install(app, settings=InfraSettings(url))

    @app.get("/stream")
    async def stream(infra: Infra, last_write: LastWrite) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            async with infra.read(after=last_write) as session:
                async for title in await session.stream_scalars(select(Post.title)):
                    yield f"{title}\n"

        return StreamingResponse(lines())

    @app.post("/posts")
    async def add(session: WriteSession) -> None:
        session.add(Post(title="Feira"))

    with TestClient(app) as client:
        client.post("/posts")
        assert client.get("/stream").text == "Feira\n"


def test_a_read_session_has_been_given_back_when_the_response_is_sent(tmp_path: Path) -> None:
    app, checked_out = FastAPI(), list[int]()
    araponga = install(app, settings=InfraSettings(sqlite_url(tmp_path)))

    @app.get("/posts")
    async def read(session: ReadSession) -> StreamingResponse:
        await session.scalars(select(Post))

        async def lines() -> AsyncIterator[str]:
            checked_out.append(araponga.infra.engine.pool.checkedout())  # type: ignore[attr-defined]
            yield "done"

        return StreamingResponse(lines())

    with TestClient(app) as client:
        client.get("/posts")
    assert checked_out == [0]


def test_websockets_have_the_parts_too(tmp_path: Path) -> None:
    app = FastAPI()
    install(app, settings=InfraSettings(sqlite_url(tmp_path)))

    @app.websocket("/ws")
    async def talk(socket: WebSocket, session: ReadSession) -> None:
        await socket.accept()
        await socket.send_json((await session.scalars(select(Post.title))).all())
        await socket.close()

    with TestClient(app) as client, client.websocket_connect("/ws") as socket:
        assert socket.receive_json() == []


def test_a_conflict_in_a_websocket_is_left_to_the_server() -> None:
    app = FastAPI()
    install(app, settings=EMBEDDED)

    @app.websocket("/ws")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        raise ConcurrencyConflictError

    with TestClient(app) as client, pytest.raises(ConcurrencyConflictError), client.websocket_connect("/ws") as socket:
        socket.receive_json()


def test_a_mounted_application_uses_the_outer_one_s_parts(tmp_path: Path) -> None:
    outer, inner = Starlette(), FastAPI()
    araponga = install(outer, settings=InfraSettings(sqlite_url(tmp_path)))
    seen: list[AsyncInfrastructure] = []

    @inner.get("/touch")
    async def touch(infra: Infra) -> None:
        seen.append(infra)

    outer.mount("/inner", inner)
    with TestClient(outer) as client:
        assert client.get("/inner/touch").status_code == 200
        assert seen == [araponga.infra]


@pytest.mark.parametrize("wrapping", [[], [Middleware(GZipMiddleware)]], ids=["bare", "behind a middleware"])
def test_a_mounted_application_answers_conflicts_too(wrapping: list[Middleware]) -> None:
    inner, innermost = FastAPI(), FastAPI()

    @inner.exception_handler(ConcurrencyConflictError)
    async def its_own(_request: Request, _error: Exception) -> PlainTextResponse:
        return PlainTextResponse("mine", 409)

    @inner.put("/edit")
    @innermost.put("/edit")
    async def edit(if_match: IfMatch) -> None:
        raise ConcurrencyConflictError

    inner.mount("/innermost", innermost)
    outer = Starlette(routes=[Mount("/inner", inner, middleware=wrapping)])
    install(outer, settings=EMBEDDED)
    with TestClient(outer) as client:
        for path in ("/inner/edit", "/inner/innermost/edit"):
            assert client.put(path).status_code == 428
        matching = {"If-Match": '"1"'}
        assert client.put("/inner/edit", headers=matching).text == "mine"
        assert client.put("/inner/innermost/edit", headers=matching).json()["code"] == "conflict"


def test_the_cookie_is_secure_over_tls() -> None:
    carrier = TokenCarrier.checked("token", "Token", 60)
    assert carrier.set_cookie(WriteToken(7), is_secure=True).endswith("; SameSite=Lax; Secure")
