"""What is wrong with a request, as problem details (RFC 9457): always that form, never what is inside."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, TypeAlias

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, NoResultFound, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFreeError
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

MEDIA_TYPE = "application/problem+json"
_FOREIGN_KEY = ("23503", "SQLITE_CONSTRAINT_FOREIGNKEY")
_CODES = {400: "unreadable", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}

Responses: TypeAlias = dict[int | str, dict[str, Any]]

_DOCUMENT = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
    },
}


def _documented(*statuses: int) -> Responses:
    return {status: _response(HTTPStatus(status).phrase) for status in statuses}


def _response(description: str) -> dict[str, Any]:
    return {"description": description, "content": {MEDIA_TYPE: {"schema": _DOCUMENT}}}


EVERYWHERE: Responses = {
    **_documented(422, 503),
    "4XX": _response("The request cannot be done"),
    "5XX": _response("The service cannot answer"),
}
NOT_FOUND = _documented(404)
CONFLICT = _documented(409)
CHANGE = NOT_FOUND | CONFLICT | _documented(412, 428)


def problem(
    status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: object
) -> Response:
    title = HTTPStatus(status).phrase
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code, **more}
    return Response(json.dumps(document), status, {"Cache-Control": "no-store", **(headers or {})}, MEDIA_TYPE)


def answer_problems(app: FastAPI) -> None:
    """Conflicts and If-Match are answered by `install`; here is the rest."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(NoResultFound, _not_found)
    app.add_exception_handler(IntegrityError, _contradiction)
    app.add_exception_handler(DataError, _unfit)
    for unavailable in (OperationalError, InterfaceError, NoConnectionFreeError):
        app.add_exception_handler(unavailable, _unavailable)
    app.add_exception_handler(Exception, _unexpected)


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Without `input`: what was sent may be large, secret, or no text at all.
    errors = [{"where": ".".join(map(str, each["loc"])), "what": each["msg"]} for each in error.errors()]
    return problem(422, "invalid", f"{len(errors)} part(s) of the request cannot be used; see errors.", errors=errors)


async def _plain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (allowed := _documented_methods(request)):
        headers["Allow"] = allowed
    code = _CODES.get(error.status_code, "refused")
    return problem(error.status_code, code, str(error.detail), headers=headers)


def _documented_methods(request: Request) -> str:
    """All of that path: the router names those of its first route alone."""
    paths: dict[str, dict[str, object]] = request.app.openapi()["paths"]
    matching = (paths[path] for path in paths if compile_path(path)[0].match(request.scope["path"]))
    return ", ".join(sorted(method.upper() for operations in matching for method in operations))


async def _not_found(_request: Request, _error: Exception) -> Response:
    return problem(404, "not_found", "There is nothing of that id.")


async def _contradiction(_request: Request, error: Exception) -> Response:
    """A constraint refused it, and the transaction is rolled back."""
    cause = getattr(error, "orig", None)
    if {getattr(cause, "sqlstate", None), getattr(cause, "sqlite_errorname", None)} & set(_FOREIGN_KEY):
        return problem(422, "unknown_reference", "It refers to something that is not there; nothing was saved.")
    return problem(409, "already_exists", "It is there already; nothing was saved.")


async def _unfit(_request: Request, _error: Exception) -> Response:
    return problem(422, "invalid", "The database cannot hold a value of the request; nothing was saved.")


async def _unavailable(_request: Request, _error: Exception) -> Response:
    return problem(503, "unavailable", "The database cannot be asked right now; nothing was saved.")


async def _unexpected(_request: Request, _error: Exception) -> Response:
    return problem(500, "internal", "Something went wrong here. It has been logged.")
