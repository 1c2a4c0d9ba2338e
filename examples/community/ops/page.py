"""The page itself: sign in, look, redrive, discard."""

import secrets
from dataclasses import dataclass
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from sqlalchemy.exc import SQLAlchemyError

from araponga_infra import AsyncInfrastructure, DeadLetter, DeadLetterNotFoundError, EventStats
from araponga_infra.integrations.fastapi import Infra

from ..pages import templates
from .access import COOKIE, SIGNED_IN_SECONDS, Access
from .roll_call import Instance, instances

LETTERS = 50
HOME = "/ops"


@dataclass(frozen=True)
class Overview:
    """What the page shows, read from the database at one moment."""

    instances: list[Instance]
    stats: EventStats
    letters: tuple[DeadLetter, ...]
    has_more_letters: bool


class OpsPage:
    """A router with the page's addresses."""

    def __init__(self, token: str) -> None:
        self._access = Access(token)
        self.router = APIRouter(prefix=HOME, include_in_schema=False)
        self.router.add_api_route("", self.show, methods=["GET"])
        self.router.add_api_route("/style.css", _style, methods=["GET"])
        self.router.add_api_route("/sign-in", self.sign_in, methods=["POST"])
        self.router.add_api_route("/sign-out", self.sign_out, methods=["POST"])
        self.router.add_api_route("/dead-letters/{action}", self.act, methods=["POST"])

    async def show(self, request: Request, infra: Infra) -> Response:
        cookie = request.cookies.get(COOKIE)
        if not self._access.is_signed_in(cookie):
            return _html("ops_sign_in.html", 401, has_failed=False)
        try:
            overview = await _overview(infra)
        except SQLAlchemyError as error:
            return _html("ops.html", 503, overview=None, failure=type(error).__name__)
        return _html(
            "ops.html",
            overview=overview,
            answered_by=request.app.state.settings.instance,
            form_token=self._access.form_token(cookie),
            message=request.query_params.get("message", ""),
        )

    async def sign_in(self, request: Request) -> Response:
        visit = self._access.sign_in((await _form(request)).get("token", ""))
        if visit is None:
            return _html("ops_sign_in.html", 401, has_failed=True)
        answer = RedirectResponse(HOME, 303)
        is_secure = request.url.scheme == "https"
        answer.set_cookie(
            COOKIE, visit, SIGNED_IN_SECONDS, path=HOME, secure=is_secure, httponly=True, samesite="strict"
        )
        return answer

    async def sign_out(self, request: Request) -> Response:
        if not self._is_own_form(request, await _form(request)):
            return _html("ops_sign_in.html", 403, has_failed=False)
        answer = RedirectResponse(HOME, 303)
        answer.delete_cookie(COOKIE, path=HOME)
        return answer

    async def act(self, request: Request, infra: Infra, action: str) -> Response:
        form = await _form(request)
        if not self._is_own_form(request, form):
            return _html("ops_sign_in.html", 403, has_failed=False)
        return RedirectResponse(f"{HOME}?message={await _act(infra, action, form.get('id', ''))}", 303)

    def _is_own_form(self, request: Request, form: dict[str, str]) -> bool:
        return self._access.is_own_form(request.cookies.get(COOKIE), form.get("form_token", ""))


async def _overview(infra: AsyncInfrastructure) -> Overview:
    page = await infra.events.dead_letters.list(limit=LETTERS)
    return Overview(await instances(infra), await infra.events.stats(), page.items, page.next is not None)


async def _act(infra: AsyncInfrastructure, action: str, letter: str) -> str:
    letters = infra.events.dead_letters
    try:
        match action:
            case "redrive":
                await letters.redrive(letter)
            case "redrive-all":
                await letters.redrive_all()
            case "discard":
                await letters.discard(letter)
            case _:
                return "unknown"
    except DeadLetterNotFoundError:
        return "gone"
    return action


async def _form(request: Request) -> dict[str, str]:
    """A form as browsers send it, of which only the last value of each name counts."""
    sent = parse_qs((await request.body()).decode(errors="replace"))
    return {name: values[-1] for name, values in sent.items()}


async def _style() -> Response:
    style = "".join(templates.get_template(name).render() for name in ("shared.css", "ops.css"))
    return Response(style, media_type="text/css", headers={"Cache-Control": "max-age=60"})


def _html(template: str, status: int = 200, **shown: object) -> HTMLResponse:
    """Nothing of it is kept, framed or mixed with what comes from elsewhere."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; style-src 'self'; img-src data:; script-src 'nonce-{nonce}'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
    headers = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": policy,
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
    return HTMLResponse(templates.get_template(template).render(nonce=nonce, **shown), status, headers)
