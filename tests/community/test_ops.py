"""The operations page: off unless asked for, closed to strangers, and true."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from araponga_infra import InfraSettings
from araponga_infra.integrations.fastapi import ReadSession
from examples.community.app import create_app
from examples.community.domain import CommunityPost
from examples.community.settings import CommunitySettings
from tests.community.conftest import migrate_and_seed
from tests.community.operations import TOKEN, leave_dead_letters
from tests.integrations.serving import served_asgi
from tests.servers.processes import wait_until


@pytest.fixture(params=["sqlite", "servers"])
def infra(request: pytest.FixtureRequest, tmp_path: Path) -> InfraSettings:
    if request.param == "servers":
        servers: InfraSettings = request.getfixturevalue("servers")
        return servers
    settings = InfraSettings(f"sqlite:///{tmp_path}/community.db")
    asyncio.run(migrate_and_seed(settings))
    return settings


@pytest.fixture
def instances(infra: InfraSettings) -> Iterator[list[httpx.Client]]:
    asyncio.run(leave_dead_letters(infra, 2))
    with ExitStack() as serving:
        yield [
            serving.enter_context(
                served_asgi(create_app(CommunitySettings(infra, name, consume=False, ops_token=TOKEN)))
            )
            for name in ("one", "two")
        ]


def sign_in(client: httpx.Client) -> None:
    assert client.post("/ops/sign-in", data={"token": TOKEN}).headers["location"] == "/ops"


def form_token(page: str) -> str:
    found = re.search(r'name="form_token" value="([^"]+)"', page)
    assert found is not None, page
    return found[1]


def letters(page: str) -> list[str]:
    return sorted(set(re.findall(r'name="id" value="([^"]+)"', page)))


def named(client: httpx.Client) -> set[str]:
    return set(re.findall(r"<strong>(\w+)</strong>", client.get("/ops").text))


def test_there_is_no_page_unless_a_token_is_set() -> None:
    settings = CommunitySettings.from_env({}, embedded=True)
    with served_asgi(create_app(settings)) as client:
        assert client.get("/ops").status_code == 404
        assert client.post("/ops/sign-in", data={"token": ""}).status_code == 404


def test_a_token_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ValueError, match="COMMUNITY_OPS_TOKEN is shorter") as refused:
        CommunitySettings.from_env({"COMMUNITY_OPS_TOKEN": "hunter2"})
    assert "hunter2" not in str(refused.value)
    assert TOKEN not in repr(CommunitySettings(ops_token=TOKEN))


def test_strangers_see_nothing_and_change_nothing(instances: list[httpx.Client]) -> None:
    one, _ = instances
    page = one.get("/ops")
    assert page.status_code == 401
    assert "print_report" not in page.text
    assert one.post("/ops/sign-in", data={"token": "wrong"}).status_code == 401
    assert one.post("/ops/sign-in", content=b"\xff\xfe").status_code == 401
    one.cookies.set("araponga_ops", "forged", path="/ops")
    assert one.get("/ops").status_code == 401
    assert one.post("/ops/dead-letters/redrive-all", data={"form_token": "forged"}).status_code == 403


def test_the_token_is_in_no_log(instances: list[httpx.Client], caplog: pytest.LogCaptureFixture) -> None:
    one, _ = instances
    with caplog.at_level("DEBUG"):
        sign_in(one)
        one.post("/ops/sign-in", data={"token": f"{TOKEN}."})
        one.post("/ops/dead-letters/discard", data={"token": TOKEN, "id": TOKEN, "form_token": TOKEN})
        one.post("/ops/dead-letters/discard", data={"id": TOKEN, "form_token": form_token(one.get("/ops").text)})
    assert caplog.records != []
    assert TOKEN not in caplog.text


def test_another_site_cannot_act_for_who_is_signed_in(instances: list[httpx.Client]) -> None:
    one, two = instances
    sign_in(one)
    sign_in(two)
    page = one.get("/ops").text
    id, foreign = letters(page)[0], form_token(two.get("/ops").text)
    for form in ({"id": id}, {"id": id, "form_token": ""}, {"id": id, "form_token": foreign}):
        assert one.post("/ops/dead-letters/discard", data=form).status_code == 403
    assert len(letters(one.get("/ops").text)) == 2
    cookie = one.post("/ops/sign-in", data={"token": TOKEN}).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie


def test_a_dead_letter_is_redriven_or_discarded(instances: list[httpx.Client]) -> None:
    one, _ = instances
    sign_in(one)
    page = one.get("/ops").text
    first, second = letters(page)
    assert "&lt;b&gt;no paper&lt;/b&gt;" in page
    token = form_token(page)

    def act(action: str, id: str) -> str:
        answer = one.post(f"/ops/dead-letters/{action}", data={"id": id, "form_token": token})
        return one.get(answer.headers["location"]).text

    assert "It is discarded." in act("discard", first)
    assert "it is gone" in act("discard", first)
    after = act("redrive", second)
    assert "It will be tried again." in after
    assert letters(after) == []
    assert "Nothing was done." in act("drop", second)


def test_each_instance_shows_all_of_them_and_who_signed_in_on_any(instances: list[httpx.Client]) -> None:
    one, two = instances
    sign_in(one)
    two.cookies = one.cookies
    wait_until(lambda: [named(client) for client in instances] == [{"one", "two"}] * 2, 20, "both to name both")
    assert "this one" in two.get("/ops").text


def test_a_repeated_query_is_shown_with_its_line(infra: InfraSettings) -> None:
    app = create_app(CommunitySettings(infra, "one", consume=False, ops_token=TOKEN))

    @app.get("/careless")
    async def careless(session: ReadSession) -> None:
        for number in range(5):
            await session.get(CommunityPost, number)

    with served_asgi(app) as client:
        client.get("/careless").raise_for_status()
        sign_in(client)
        wait_until(lambda: "5 times (query)" in client.get("/ops").text, 20, "the next roll call")
        assert "test_ops.py:" in client.get("/ops").text


def test_the_page_may_run_nothing_but_its_own_script(instances: list[httpx.Client]) -> None:
    one, _ = instances
    sign_in(one)
    page = one.get("/ops")
    policy = page.headers["content-security-policy"]
    nonce = re.search(r"script-src 'nonce-([^']+)'", policy)
    assert nonce is not None
    assert re.findall(r"<script[^>]*>", page.text) == [f'<script nonce="{nonce[1]}">']
    assert "frame-ancestors 'none'" in policy
    assert page.headers["cache-control"] == "no-store"
