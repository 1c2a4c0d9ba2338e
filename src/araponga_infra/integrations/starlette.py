"""Starlette: the parts opened with the application, errors as problem details, the write token, health endpoints."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from araponga_infra.clock import Clock, Duration, to_seconds
from araponga_infra.concurrency import IfMatch, parse_if_match
from araponga_infra.errors import InvalidArgumentError, NotConfiguredError
from araponga_infra.events import EventRouter
from araponga_infra.extras import import_extra
from araponga_infra.health import Health
from araponga_infra.infrastructure import AsyncInfrastructure
from araponga_infra.integrations.probes import (
    ALIVE_BUT_CLOSED,
    NOT_READY_BUT_CLOSED,
    ProbeAnswer,
    live_answer,
    ready_answer,
)
from araponga_infra.integrations.problems import MAPPED_ERRORS, PROBLEM_MEDIA_TYPE, BadIfMatchError, problem_of
from araponga_infra.integrations.write_tokens import (
    DEFAULT_COOKIE,
    DEFAULT_HEADER,
    TokenCarrier,
    note_commits,
    track_writes,
)
from araponga_infra.sessions import AsyncReadOnlySession, WriteToken
from araponga_infra.settings import InfraSettings
from araponga_infra.telemetry import Observer

import_extra("starlette", extra="fastapi", needed_for="araponga_infra.integrations.starlette")

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Host, Mount
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

__all__ = ["Araponga", "if_match_of", "infra_of", "install", "last_write_of", "read_session", "write_session"]

_logger = logging.getLogger("araponga_infra.integrations")
_SCOPE_KEY = "araponga_infra"
_TOKEN_TIMEOUT_SECONDS = 2.0


class Araponga:
    """What `install` put into an application; a handle for tests, scripts and background tasks of the host."""

    def __init__(self, configured: _Configured, carrier: TokenCarrier, health_timeout_seconds: float) -> None:
        self._configured = configured
        self._infra: AsyncInfrastructure | None = None
        self._asking: set[asyncio.Future[WriteToken | None]] = set()
        self.carrier = carrier
        self._health_timeout_seconds = health_timeout_seconds

    @property
    def infra(self) -> AsyncInfrastructure:
        """The parts.

        Raises:
            NotConfiguredError: the application's lifespan is not running.
        """
        if self._infra is None:
            raise NotConfiguredError(
                "the application is not started, so nothing is open: run its lifespan, as servers do "
                "(in tests: `with TestClient(app) as client:`)"
            )
        return self._infra

    @property
    def is_open(self) -> bool:
        return self._infra is not None

    @property
    def has_replicas(self) -> bool:
        """Whether reads go elsewhere than writes; if not, no token is ever needed."""
        return self._infra is not None and bool(self._infra.settings.database_readonly_urls)

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None, None]:
        """The parts, open for as long as the application runs."""
        try:
            async with self._configured.infrastructure() as infra:
                self._infra = infra
                if self.has_replicas:
                    note_commits(infra.engine.sync_engine)
                yield
        finally:
            self._infra = None  # no sooner: handlers that run while it closes use the parts

    async def health(self) -> Health:
        """The state of every part, within the time limit of a probe."""
        return await self.infra.health(timeout=self._health_timeout_seconds)

    async def write_token(self) -> WriteToken | None:
        """The primary's position now. A response that could not get it goes out without: what it wrote is committed."""
        asking = asyncio.ensure_future(self._ask_token())
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        await asyncio.wait([asking], timeout=_TOKEN_TIMEOUT_SECONDS)
        if asking.done():
            return asking.result()
        asking.cancel()  # not awaited: a driver may take seconds to give up a connection whose other side is gone
        _warn_no_token("no answer in time")
        return None

    async def _ask_token(self) -> WriteToken | None:
        try:
            return await self.infra.replicas.write_token()
        except Exception as error:
            _warn_no_token(type(error).__name__)
            return None


def _warn_no_token(reason: str) -> None:
    _logger.warning(
        "no write token: %s; this client's next read may come from a replica that has not seen its write", reason
    )


@dataclass(frozen=True)
class _Configured:
    settings: InfraSettings | None
    is_embedded: bool
    routers: tuple[EventRouter, ...]
    consume: bool
    max_concurrency: int
    clock: Clock | None
    observer: Observer | None

    def infrastructure(self) -> AsyncInfrastructure:
        """Read the environment only now, when the application starts: importing its module needs none."""
        settings = self.settings or InfraSettings.from_env(embedded=self.is_embedded)
        return AsyncInfrastructure(
            settings, routers=self.routers, consume=self.consume, max_concurrency=self.max_concurrency,
            clock=self.clock, observer=self.observer,
        )  # fmt: skip


def install(
    app: Starlette,
    *,
    settings: InfraSettings | None = None,
    embedded: bool = False,
    routers: Sequence[EventRouter] = (),
    consume: bool = True,
    max_concurrency: int = 5,
    clock: Clock | None = None,
    observer: Observer | None = None,
    write_token_cookie: str = DEFAULT_COOKIE,
    write_token_header: str = DEFAULT_HEADER,
    write_token_max_age: Duration = 300,
    health_path: str | None = "/health",
    health_timeout: Duration = 0.8,
) -> Araponga:
    """Give an application the four parts.

    They are opened before the application's own lifespan and closed after it. Conflicts are answered with 409, If-Match
    with 412 and 428, an unknown outcome of COMMIT with 503, as `application/problem+json`; an answer that the host
    registered for one of these errors stays. A response to a request that committed something carries the write token,
    when there are replicas; reads of the same client then see that write.

    Args:
        app: a FastAPI or Starlette application that has not started. Install on the outermost one; those that are
            mounted when it starts answer these errors, too.
        settings: where things are; None: the environment, read when the application starts.
        embedded: with no database named, run on a SQLite file in a temporary folder that is gone at the end.
        routers: the event handlers that this service knows.
        consume: whether this process runs them; one that only publishes passes False.
        max_concurrency: how many of them it runs at a time; checked when the application starts.
        clock: the time, for tests.
        observer: told of everything the parts report.
        write_token_cookie: the cookie's name.
        write_token_header: the header's name, in requests and responses, for clients that keep no cookies.
        write_token_max_age: how long a browser keeps the token; longer than any replica lags.
        health_path: where `/live` and `/ready` are added; None: nowhere.
        health_timeout: the limit of a probe's questions, below the orchestrator's own.

    Raises:
        InvalidArgumentError: an application of another kind or one that runs already, or an argument out of range.
    """
    if not isinstance(app, Starlette):
        raise InvalidArgumentError(f"app is a {type(app).__name__}: pass the FastAPI or Starlette application itself")
    if app.middleware_stack is not None:
        raise InvalidArgumentError("app has started already: install before it serves its first request")
    araponga = Araponga(
        _Configured(settings, embedded, tuple(routers), consume, max_concurrency, clock, observer),
        TokenCarrier.checked(write_token_cookie, write_token_header, write_token_max_age),
        to_seconds(health_timeout, "health_timeout", allow_zero=False),
    )
    app.router.lifespan_context = _around(app.router.lifespan_context, araponga)
    _add_answers(app)
    app.add_middleware(_Middleware, araponga=araponga)
    if health_path is not None:
        _add_probes(app, araponga, health_path)
    return araponga


def infra_of(connection: HTTPConnection) -> AsyncInfrastructure:
    """The parts, in a request or websocket of an application that `install` was called on.

    Raises:
        NotConfiguredError: `install` was not called on the application, or its lifespan does not run.
    """
    return _state_of(connection).araponga.infra


def last_write_of(connection: HTTPConnection) -> str | None:
    """The token of the client's last write, as it sent it back: for `infra.read(after=...)`."""
    return _state_of(connection).last_write


def if_match_of(connection: HTTPConnection) -> IfMatch:
    """The request's If-Match, for `expect_version`.

    Raises:
        PreconditionRequiredError: there is none; answered with 428.
        BadIfMatchError: it cannot be read; answered with 400.
    """
    try:
        return parse_if_match(", ".join(connection.headers.getlist("if-match")))
    except InvalidArgumentError as error:
        raise BadIfMatchError(str(error)) from None


def read_session(connection: HTTPConnection) -> AbstractAsyncContextManager[AsyncReadOnlySession]:
    """A read-only session that has seen this client's last write."""
    return infra_of(connection).read(after=last_write_of(connection))


@asynccontextmanager
async def write_session(connection: HTTPConnection) -> AsyncGenerator[AsyncSession, None]:
    """A session on the primary: COMMIT at the end of the block. Build the response after it."""
    async with infra_of(connection).write() as session:
        yield session


class _RequestState:
    """What one request or websocket carries along."""

    __slots__ = ("_scope", "araponga", "writes")

    def __init__(self, araponga: Araponga, scope: Scope) -> None:
        self.araponga = araponga
        self.writes = track_writes()
        self._scope = scope

    @property
    def last_write(self) -> str | None:
        connection, carrier = HTTPConnection(self._scope), self.araponga.carrier
        return connection.headers.get(carrier.header) or connection.cookies.get(carrier.cookie)


def _state_of(connection: HTTPConnection) -> _RequestState:
    state = connection.scope.get(_SCOPE_KEY)
    if not isinstance(state, _RequestState):
        raise NotConfiguredError("install(app) was not called on this application: call it where `app` is made")
    return state


class _Middleware:
    """Takes the client's token in, and hands a new one out where the request has committed something."""

    def __init__(self, app: ASGIApp, araponga: Araponga) -> None:
        self._app = app
        self._araponga = araponga

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope[_SCOPE_KEY] = state = _RequestState(self._araponga, scope)

        async def send_with_token(message: Message) -> None:
            if message["type"] == "http.response.start" and state.writes.take():
                await self._add_token(message, is_secure=scope.get("scheme") == "https")
            await send(message)

        await self._app(scope, receive, send_with_token if self._araponga.has_replicas else send)

    async def _add_token(self, message: Message, *, is_secure: bool) -> None:
        token = await self._araponga.write_token()
        if token is not None:
            carrier, headers = self._araponga.carrier, MutableHeaders(scope=message)
            headers[carrier.header] = str(token)
            headers.append("set-cookie", carrier.set_cookie(token, is_secure=is_secure))


def _around(inner: Lifespan[Any], araponga: Araponga) -> Lifespan[Any]:
    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncGenerator[Any, None]:
        for mounted in _mounted_in(app.routes):
            _add_answers(mounted)
        async with araponga.opened(), inner(app) as state:
            yield state

    return lifespan


def _add_answers(app: Starlette) -> None:
    for kind in MAPPED_ERRORS:
        app.exception_handlers.setdefault(kind, _answer_problem)


def _mounted_in(routes: Sequence[BaseRoute]) -> Iterator[Starlette]:
    """A mounted application answers its own errors; what it does not know of, its outer one sees too late."""
    for route in routes:
        if isinstance(route, (Mount, Host)):
            mounted = getattr(route, "_base_app", route.app)  # without the middleware of the mount itself
            if isinstance(mounted, Starlette):
                yield mounted
            yield from _mounted_in(route.routes)


async def _answer_problem(connection: HTTPConnection, error: Exception) -> Response:
    problem = problem_of(error)
    if problem is None or connection.scope["type"] != "http":
        raise error
    return Response(problem.body(), problem.status, dict(problem.headers), PROBLEM_MEDIA_TYPE)


def _add_probes(app: Starlette, araponga: Araponga, path: str) -> None:
    async def live(_request: Request) -> Response:
        return _probe(live_answer(await araponga.health()) if araponga.is_open else ALIVE_BUT_CLOSED)

    async def ready(_request: Request) -> Response:
        return _probe(ready_answer(await araponga.health()) if araponga.is_open else NOT_READY_BUT_CLOSED)

    root = path.rstrip("/")
    app.router.add_route(f"{root}/live", live, methods=["GET"], include_in_schema=False)
    app.router.add_route(f"{root}/ready", ready, methods=["GET"], include_in_schema=False)


def _probe(answer: ProbeAnswer) -> Response:
    return Response(answer.body, answer.status, {"Cache-Control": "no-store"}, "application/json")
