"""Flask: one object that gives an application the four parts.

    araponga = Araponga(routers=[router], consume=False)

    def create_app() -> Flask:
        app = Flask(__name__)
        araponga.init_app(app)
        return app

Nothing is opened before a worker's first use, so that a server may load the application and fork afterwards.
"""

from __future__ import annotations

import atexit
import logging
import os
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from araponga_infra.clock import Clock, Duration, to_seconds
from araponga_infra.concurrency import IfMatch, parse_if_match
from araponga_infra.errors import ClosedError, InvalidArgumentError, NotConfiguredError
from araponga_infra.events import EventRouter
from araponga_infra.extras import import_extra
from araponga_infra.health import Health
from araponga_infra.infrastructure import Infrastructure
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
    RequestWrites,
    TokenCarrier,
    note_commits,
    track_writes,
)
from araponga_infra.sessions import ReadOnlySession, WriteToken
from araponga_infra.settings import InfraSettings
from araponga_infra.telemetry import Observer

import_extra("flask", extra="flask", needed_for="araponga_infra.integrations.flask")

from flask import Flask, Response, current_app, g, has_app_context, has_request_context, request

__all__ = ["Araponga"]

_logger = logging.getLogger("araponga_infra.integrations")
_EXTENSION = "araponga_infra"
_STATE = "_araponga_infra"


class Araponga:
    """The four parts in a Flask application.

    Conflicts are answered with 409, If-Match with 412 and 428, an unknown outcome of COMMIT with 503, as
    `application/problem+json`; an answer that the host registered for one of these errors stays. A response to a
    request that committed something carries the write token, when there are replicas.

    Args:
        app: calls `init_app` at once.
        settings: where things are; None: the environment, read by `init_app`.
        embedded: with no database named, run on a SQLite file in a temporary folder, one for each worker process.
        routers: the event handlers that this service knows.
        consume: whether its processes run them, each from its first request on; False: they only publish.
        max_concurrency: how many of them a process runs at a time; checked by `init_app`.
        clock: the time, for tests.
        observer: told of everything the parts report.
        write_token_cookie: the cookie's name.
        write_token_header: the header's name, in requests and responses, for clients that keep no cookies.
        write_token_max_age: how long a browser keeps the token; longer than any replica lags.
        health_path: where `/live` and `/ready` are added; None: nowhere.
        health_timeout: the limit of a probe's questions, below the orchestrator's own.

    Raises:
        InvalidArgumentError: an argument out of range.

    One object serves any number of applications, threads and forked workers. Under gevent or eventlet use their patched
    drivers, as for SQLAlchemy itself.
    """

    def __init__(
        self,
        app: Flask | None = None,
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
    ) -> None:
        self._settings = settings
        self._is_embedded = embedded
        self._routers = tuple(routers)
        self._consume = consume
        self._max_concurrency = max_concurrency
        self._clock = clock
        self._observer = observer
        self._carrier = TokenCarrier.checked(write_token_cookie, write_token_header, write_token_max_age)
        self._health_path = health_path
        self._health_timeout_seconds = to_seconds(health_timeout, "health_timeout", allow_zero=False)
        self._apps: weakref.WeakSet[Flask] = weakref.WeakSet()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Install into `app`: settings are read and checked, nothing is opened.

        Raises:
            InvalidArgumentError: a variable of the environment is malformed, or the application has one already.
        """
        if _EXTENSION in app.extensions:
            raise InvalidArgumentError("app has an Araponga already: call init_app once for each application")
        settings = self._settings or InfraSettings.from_env(embedded=self._is_embedded)
        infra = Infrastructure(
            settings, routers=self._routers, consume=self._consume, max_concurrency=self._max_concurrency,
            clock=self._clock, observer=self._observer,
        )  # fmt: skip
        app.extensions[_EXTENSION] = _Installed(infra)
        atexit.register(infra.close)
        self._apps.add(app)
        app.before_request(self._begin)
        app.after_request(self._add_token)
        app.teardown_appcontext(_close_sessions)
        for kind in MAPPED_ERRORS:
            if kind not in app.error_handler_spec[None][None]:
                app.register_error_handler(kind, _answer_problem)
        if self._health_path is not None:
            self._add_probes(app, self._health_path.rstrip("/"))

    @property
    def infra(self) -> Infrastructure:
        """The parts: `.cache`, `.events`, `.concurrency`, `.replicas`, `.write()`, `.read()`.

        Raises:
            NotConfiguredError: outside an application context, with none or several applications to choose from.
        """
        return self._installed().here()

    @property
    def read(self) -> ReadOnlySession:
        """This request's read-only session, on a replica that has seen this client's last write.

        Made at the first use in a request (or application context) and closed at its end. It sees what the request
        itself has committed before that first use.
        """
        scope = _scope()
        if scope.session is None:
            scope.session = scope.closing.enter_context(self.infra.read(after=self._newest_write(scope)))
        return scope.session

    @property
    def last_write(self) -> WriteToken | str | None:
        """The newest write that this client must see, for `infra.read(after=...)`: this request's, or what it sent."""
        return self._newest_write(_scope())

    @property
    def if_match(self) -> IfMatch:
        """The request's If-Match, for `expect_version`.

        Raises:
            PreconditionRequiredError: there is none; answered with 428.
        """
        try:
            return parse_if_match(", ".join(request.headers.getlist("If-Match")))
        except InvalidArgumentError as error:
            raise BadIfMatchError(str(error)) from None

    def close(self, app: Flask) -> None:
        """Close what this process has open for `app`; done by itself when the process ends."""
        infra = _installed_in(app).infra
        atexit.unregister(infra.close)
        infra.close()

    def _installed(self) -> _Installed:
        if has_app_context():
            return _installed_in(current_app)
        if len(self._apps) == 1:
            return _installed_in(next(iter(self._apps)))
        raise NotConfiguredError(
            f"no application context, and init_app was called on {len(self._apps)} applications: "
            "use it inside `with app.app_context():`"
        )

    def _begin(self) -> None:
        _scope().writes = track_writes()
        if self._consume and self._routers:
            self._installed().start_consuming()

    def _add_token(self, response: Response) -> Response:
        token = self._new_token(_scope())
        if token is not None:
            response.headers[self._carrier.header] = str(token)
            response.headers.add("Set-Cookie", self._carrier.set_cookie(token, is_secure=request.is_secure))
        return response

    def _newest_write(self, scope: _Scope) -> WriteToken | str | None:
        token = self._new_token(scope)
        if token is not None or not has_request_context():
            return token
        return request.headers.get(self._carrier.header) or request.cookies.get(self._carrier.cookie)

    def _new_token(self, scope: _Scope) -> WriteToken | None:
        """The token of what this request has committed so far; asked for once, unless it commits again."""
        if scope.writes is not None and scope.writes.take():
            scope.token = _ask_token(self.infra)
        return scope.token

    def _answer(self, told: Callable[[Health], ProbeAnswer], closed: ProbeAnswer) -> ProbeAnswer:
        try:
            return told(self.infra.health(timeout=self._health_timeout_seconds))
        except ClosedError:
            return closed

    def _add_probes(self, app: Flask, path: str) -> None:
        def live() -> Response:
            return _probe(self._answer(live_answer, ALIVE_BUT_CLOSED))

        def ready() -> Response:
            return _probe(self._answer(ready_answer, NOT_READY_BUT_CLOSED))

        app.add_url_rule(f"{path}/live", "araponga_infra.live", live)
        app.add_url_rule(f"{path}/ready", "araponga_infra.ready", ready)


class _Installed:
    """One application's parts, made ready once in each process that uses them."""

    def __init__(self, infra: Infrastructure) -> None:
        self.infra = infra
        self._watched_in: int | None = None
        self._consuming_in: int | None = None

    def here(self) -> Infrastructure:
        """The parts, with COMMITs noted where reads may go elsewhere than writes."""
        if self.infra.settings.database_readonly_urls and self._watched_in != os.getpid():
            note_commits(self.infra.engine)
            self._watched_in = os.getpid()
        return self.infra

    def start_consuming(self) -> None:
        """Start the event processor, which lives in the process that asks: a forked worker needs its own."""
        if self._consuming_in != os.getpid():
            _ = self.here().events
            self._consuming_in = os.getpid()


@dataclass
class _Scope:
    """What one application context carries along."""

    closing: ExitStack = field(default_factory=ExitStack)
    session: ReadOnlySession | None = None
    writes: RequestWrites | None = None
    token: WriteToken | None = None


def _scope() -> _Scope:
    scope: _Scope | None = g.get(_STATE)
    if scope is None:
        scope = _Scope()
        setattr(g, _STATE, scope)
    return scope


def _installed_in(app: Flask) -> _Installed:
    installed = app.extensions.get(_EXTENSION)
    if not isinstance(installed, _Installed):
        raise NotConfiguredError("init_app was not called on this application: call it where the application is made")
    return installed


def _close_sessions(error: BaseException | None) -> None:
    scope: _Scope | None = g.pop(_STATE, None)
    if scope is not None:
        scope.closing.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)


def _ask_token(infra: Infrastructure) -> WriteToken | None:
    try:
        return infra.replicas.write_token()
    except Exception as error:
        _logger.warning(
            "no write token: %s; this client's next read may come from a replica that has not seen its write",
            type(error).__name__,
        )
        return None


def _answer_problem(error: Exception) -> Response:
    problem = problem_of(error)
    if problem is None:
        raise error
    return Response(problem.body(), problem.status, dict(problem.headers), content_type=PROBLEM_MEDIA_TYPE)


def _probe(answer: ProbeAnswer) -> Response:
    return Response(answer.body, answer.status, {"Cache-Control": "no-store"}, content_type="application/json")
