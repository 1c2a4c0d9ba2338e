"""One log line per request with what it asked of the database; for ASGI and WSGI, without any framework."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager
from contextvars import copy_context
from typing import Any, TypeAlias
from urllib.parse import quote

from araponga_infra.errors import InvalidArgumentError
from araponga_infra.queries.capture import capture
from araponga_infra.queries.inspector import QueryInspector
from araponga_infra.queries.records import report_findings
from araponga_infra.queries.report import QueryReport
from araponga_infra.telemetry import Observer, reporter

__all__ = ["QueryLogMiddleware", "QueryLogWSGIMiddleware"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]
StartResponse: TypeAlias = Callable[..., Any]
WsgiApp: TypeAlias = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

_LONGEST_PATH = 200
_MOST_LISTED = 5


class _RequestLog:
    """What both forms share: where captures come from and how a request is told."""

    def __init__(
        self,
        inspector: QueryInspector[Any] | None,
        max_queries: int | None,
        logger: logging.Logger | None,
        observer: Observer | None,
    ) -> None:
        if max_queries is not None and max_queries < 0:
            raise InvalidArgumentError(f"max_queries={max_queries!r} must be 0 or more, or None")
        self._logger = logger or logging.getLogger("araponga_infra.queries.requests")
        self._max_queries = max_queries
        self._report = reporter(observer)
        self.capture: Callable[[], AbstractContextManager[QueryReport]] = inspector.capture if inspector else capture

    def write(self, report: QueryReport, *, method: str, route: str, status: str) -> None:
        """One line; a warning where somebody should look. The observer is told of the findings alone."""
        if self._report is not None:
            report_findings(report, self._report)
        count, repeated, slow = len(report), report.n_plus_one, report.slow
        is_too_many = self._max_queries is not None and count > self._max_queries
        level = logging.WARNING if repeated or slow or is_too_many else logging.INFO
        if not self._logger.isEnabledFor(level):
            return
        facts: dict[str, Any] = {
            "event": "queries.request", "method": method, "route": route, "status": status, "queries": count,
            "seconds": round(report.seconds, 6),
            "n_plus_one": [str(found) for found in repeated[:_MOST_LISTED]],
            "slow": [f"{each.seconds:.3f} s {each.shape} from {each.place}" for each in slow[:_MOST_LISTED]],
        }  # fmt: skip
        text = f"{method} {route} {status}: {count} queries in {report.seconds:.3f} s"
        if is_too_many:
            text += f", at most {self._max_queries} expected"
        text = "; ".join(
            [text, *(f"N+1: {each}" for each in facts["n_plus_one"]), *(f"slow: {s}" for s in facts["slow"])]
        )
        self._logger.log(level, "%s", text, extra={"araponga": facts})


class QueryLogMiddleware:
    """ASGI middleware: logs each HTTP request's queries, time in the database, N+1 and slow statements.

    A line is INFO, and WARNING if the request has an N+1, a slow statement or more than `max_queries`. It names the
    route's template where the framework tells it, else the path; never a query string or a value. The record has
    the attribute `araponga`, a dict, for structured logs. What the request starts is counted with it: background
    tasks that run before the application returns, thread pools.

    Args:
        app: the application.
        inspector: whose engine is watched and how; every engine of the process unless you name one.
        max_queries: how many are still fine.
        logger: `araponga_infra.queries.requests` unless you name one.
        observer: told of each N+1 and each slow statement when its request ends; for an inspector that has an
            observer of its own, leave it out.

    Examples:
        `app.add_middleware(QueryLogMiddleware, max_queries=20)` in FastAPI and Starlette.
    """

    def __init__(
        self,
        app: AsgiApp,
        *,
        inspector: QueryInspector[Any] | None = None,
        max_queries: int | None = None,
        logger: logging.Logger | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._app = app
        self._log = _RequestLog(inspector, max_queries, logger, observer)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = "failed"

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        with self._log.capture() as report:
            try:
                await self._app(scope, receive, note_status)
            finally:
                self._log.write(report, method=scope["method"], route=_asgi_route(scope), status=status)


def _asgi_route(scope: Mapping[str, Any]) -> str:
    template = getattr(scope.get("route"), "path", None)
    if isinstance(template, str):
        return template
    path = str(scope["path"])
    for name, value in dict(scope.get("path_params") or {}).items():
        path = path.replace(f"/{value}", f"/{{{name}}}", 1)
    return _printable(path)


def _printable(path: str) -> str:
    """A path may hold line breaks, which would forge lines of the log."""
    return quote(path, safe="/{}:@-._~!$&'()*+,;=")[:_LONGEST_PATH]


class QueryLogWSGIMiddleware:
    """The same for WSGI: `app.wsgi_app = QueryLogWSGIMiddleware(app.wsgi_app)` in Flask.

    The line is written when the server has closed the response, so that a streamed body counts.

    Args:
        app: the application.
        inspector: whose engine is watched and how; every engine of the process unless you name one.
        max_queries: how many are still fine.
        logger: `araponga_infra.queries.requests` unless you name one.
    """

    def __init__(
        self,
        app: WsgiApp,
        *,
        inspector: QueryInspector[Any] | None = None,
        max_queries: int | None = None,
        logger: logging.Logger | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._app = app
        self._log = _RequestLog(inspector, max_queries, logger, observer)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        response = _WatchedResponse(self._log, environ)

        def note_status(status: str, *arguments: Any) -> Any:
            response.note(status)
            return start_response(status, *arguments)

        return response.open(self._app, note_status)


class _WatchedResponse:
    """A WSGI response that ends its capture when the server closes it.

    The request runs in a copy of the thread's context: where a response is never closed, no capture stays behind.
    """

    def __init__(self, log: _RequestLog, environ: dict[str, Any]) -> None:
        self._log = log
        self._environ = environ
        self._context = copy_context()
        self._capture = log.capture()
        self._body: Iterable[bytes] = ()
        self._status = "failed"
        self._route = _printable(f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}")

    def note(self, status: str) -> None:
        """Flask has matched the route by now, and takes its request out of the environment before the end."""
        self._status = status.partition(" ")[0]
        self._route = _flask_route(self._environ) or self._route

    def open(self, app: WsgiApp, start_response: StartResponse) -> _WatchedResponse:
        self._report = self._context.run(self._capture.__enter__)
        try:
            self._body = self._context.run(app, self._environ, start_response)
        except BaseException:
            self._end()
            raise
        return self

    def __iter__(self) -> Iterator[bytes]:
        chunks = iter(self._body)
        while (chunk := self._context.run(next, chunks, None)) is not None:
            yield chunk

    def close(self) -> None:
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                self._context.run(close)
        finally:
            self._end()

    def _end(self) -> None:
        self._context.run(self._capture.__exit__, None, None, None)
        method = str(self._environ["REQUEST_METHOD"])
        self._log.write(self._report, method=method, route=self._route, status=self._status)


def _flask_route(environ: Mapping[str, Any]) -> str | None:
    """Werkzeug leaves its request in the environment, and Flask the matched rule on it."""
    rule = getattr(getattr(environ.get("werkzeug.request"), "url_rule", None), "rule", None)
    return rule if isinstance(rule, str) else None
