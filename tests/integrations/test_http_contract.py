"""What every integration promises over HTTP, on the same service written for each framework."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import httpx
import pytest

from araponga_infra import InfraSettings, WriteToken
from araponga_infra.integrations.fastapi import Infra
from tests.integrations.domain import Post, make_tables, sqlite_url, titles
from tests.integrations.services import fastapi_app, options_for, serve
from tests.integrations.serving import served_asgi
from tests.servers.fixtures import ReplicatedDatabase, StartTcpProxy
from tests.servers.postgres import PostgresDatabase
from tests.servers.postgres_cluster import PostgresCluster
from tests.servers.processes import wait_until

COMMIT = b"Q\0\0\0\x0bCOMMIT"
COOKIE, HEADER = "araponga_write_token", "Araponga-Write-Token"


@pytest.fixture(params=["fastapi", "starlette", "flask"])
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """On SQLite, and where a test is marked so on PostgreSQL, too."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return sqlite_url(tmp_path)
    url = request.getfixturevalue("postgres_database").url("psycopg")
    make_tables(url)
    return str(url)


on_every_database = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def client(framework: str, database: str) -> Iterator[httpx.Client]:
    with serve(framework, InfraSettings(database)) as client:
        yield client


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == response.status_code
    assert document["type"] == "about:blank"
    return response.status_code, document["code"]


@on_every_database
def test_a_write_is_committed_and_answered_with_its_etag(client: httpx.Client, database: str) -> None:
    response = client.post("/posts", json={"title": "Feira"})
    assert (response.status_code, response.headers["etag"]) == (201, '"1"')
    assert titles(database) == ["Feira"]
    assert client.get("/posts").json() == ["Feira"]


@on_every_database
def test_a_failing_commit_is_not_answered_with_success(client: httpx.Client) -> None:
    response = client.post("/comments")
    assert response.status_code == 500
    assert "saved" not in response.text


def test_if_match_that_matches(client: httpx.Client) -> None:
    tag = client.post("/posts", json={"title": "Feira"}).headers["etag"]
    assert client.put("/posts/1", json={"title": "Bazar"}, headers={"If-Match": tag}).status_code == 204
    assert client.get("/posts").json() == ["Bazar"]


def test_a_stale_if_match(client: httpx.Client) -> None:
    client.post("/posts", json={"title": "Feira"})
    response = client.put("/posts/1", json={"title": "Bazar"}, headers={"If-Match": '"9"'})
    assert problem(response) == (412, "precondition_failed")
    assert client.get("/posts").json() == ["Feira"]


def test_without_if_match(client: httpx.Client) -> None:
    client.post("/posts", json={"title": "Feira"})
    assert problem(client.put("/posts/1", json={"title": "Bazar"})) == (428, "precondition_required")


def test_an_unreadable_if_match(client: httpx.Client) -> None:
    client.post("/posts", json={"title": "Feira"})
    response = client.put("/posts/1", json={"title": "Bazar"}, headers={"If-Match": "three"})
    assert problem(response) == (400, "invalid_if_match")


def test_several_if_match_lines_are_one_list(client: httpx.Client) -> None:
    client.post("/posts", json={"title": "Feira"})
    lines = [("If-Match", '"8"'), ("If-Match", '"1"')]
    assert client.put("/posts/1", json={"title": "Bazar"}, headers=lines).status_code == 204


@on_every_database
def test_a_conflict_at_commit(client: httpx.Client, database: str) -> None:
    client.post("/posts", json={"title": "Feira"})
    response = client.post("/posts/1/overtaken")
    assert problem(response) == (409, "conflict")
    assert "Post" not in response.text
    assert titles(database) == ["faster"]


@on_every_database
def test_a_unit_of_work(client: httpx.Client) -> None:
    client.post("/posts", json={"title": "Feira"})
    assert [client.post("/posts/1/likes").json() for _ in range(2)] == [1, 2]


def test_without_replicas_no_token_is_asked_for_or_sent(client: httpx.Client) -> None:
    response = client.post("/posts", json={"title": "Feira"})
    assert "set-cookie" not in response.headers
    assert HEADER not in response.headers


def test_the_client_s_own_token_is_at_hand(client: httpx.Client) -> None:
    assert client.get("/last-write").json() is None
    assert client.get("/last-write", headers={HEADER: "0/7"}).json() == "0/7"
    assert client.get("/last-write", headers={"Cookie": f"{COOKIE}=0/8"}).json() == "0/8"
    both = {"Cookie": f"{COOKIE}=0/8", HEADER: "0/7"}
    assert client.get("/last-write", headers=both).json() == "0/7"


@pytest.mark.parametrize("token", ["", "garbage", "0/" + "F" * 5000, '"; DROP', "FFFFFFFFF/0"])
def test_a_malformed_token_is_ignored(client: httpx.Client, token: str) -> None:
    client.post("/posts", json={"title": "Feira"})
    assert client.get("/posts", headers={HEADER: token}).json() == ["Feira"]


@on_every_database
def test_probes(client: httpx.Client) -> None:
    wait_until(lambda: client.get("/health/ready").is_success, 20, "the service to be ready: a busy machine is slow")
    ready, live = client.get("/health/ready"), client.get("/health/live")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert (live.status_code, live.json()["status"]) == (200, "live")
    assert ready.headers["cache-control"] == "no-store"
    assert {part["state"] for part in ready.json()["parts"].values()} == {"healthy"}


def test_a_service_whose_database_is_gone_is_alive_and_not_ready(
    framework: str, postgres_database: PostgresDatabase, tcp_proxy: StartTcpProxy
) -> None:
    proxy = tcp_proxy(postgres_database.server.port)
    with serve(framework, InfraSettings(postgres_database.url("psycopg", port=proxy.port))) as client:
        assert client.get("/health/ready").status_code == 200
        proxy.black_hole()
        ready, live = client.get("/health/ready"), client.get("/health/live")
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        assert live.status_code == 200
        proxy.restore()
        wait_until(lambda: client.get("/health/ready").status_code == 200, 10, "the service to be ready again")


def test_an_unknown_outcome_of_commit(
    framework: str, postgres_database: PostgresDatabase, tcp_proxy: StartTcpProxy
) -> None:
    make_tables(postgres_database.url("psycopg"))
    proxy = tcp_proxy(postgres_database.server.port)
    with serve(framework, InfraSettings(postgres_database.url("psycopg", port=proxy.port))) as client:
        client.post("/posts", json={"title": "first"})
        lost = proxy.cut_when(lambda sent: sent.startswith(COMMIT))
        response = client.post("/posts", json={"title": "second"})
        assert lost.happened
        assert problem(response) == (503, "outcome_unknown")
        assert "retry-after" not in response.headers
        assert titles(postgres_database.url("psycopg")) == ["first", "second"]


# With a standby


@pytest.fixture
def replicated(
    framework: str, replicated_database: ReplicatedDatabase, postgres_pair: PostgresCluster
) -> Iterator[httpx.Client]:
    make_tables(replicated_database.primary.url("psycopg"))
    postgres_pair.wait_for_catch_up()
    settings = InfraSettings(replicated_database.primary.url("psycopg"), (replicated_database.standby.url("psycopg"),))
    with serve(framework, settings) as client:
        yield client


def test_a_write_sends_the_token_as_header_and_cookie(replicated: httpx.Client) -> None:
    response = replicated.post("/posts", json={"title": "Feira"})
    token = response.headers[HEADER]
    WriteToken.parse(token)
    cookie = SimpleCookie(response.headers["set-cookie"])[COOKIE]
    assert cookie.value == token
    assert (cookie["path"], cookie["httponly"], cookie["samesite"], cookie["max-age"]) == ("/", True, "Lax", "300")
    assert not cookie["secure"]


@pytest.mark.parametrize("path", ["/posts/1/likes", "/core"])
def test_units_of_work_and_plain_connections_count_as_writes(replicated: httpx.Client, path: str) -> None:
    replicated.post("/posts", json={"title": "Feira"})
    assert HEADER in replicated.post(path).headers


@pytest.mark.parametrize(("method", "path"), [("GET", "/posts"), ("POST", "/comments"), ("POST", "/refused")])
def test_what_commits_nothing_sends_no_token(replicated: httpx.Client, method: str, path: str) -> None:
    replicated.post("/posts", json={"title": "Feira"})
    response = replicated.request(method, path)
    if response.status_code == 200:
        assert HEADER not in response.headers
        assert "set-cookie" not in response.headers


def test_a_browser_reads_its_own_write(replicated: httpx.Client, postgres_pair: PostgresCluster) -> None:
    postgres_pair.standby.pause_replay()
    replicated.post("/posts", json={"title": "Feira"})
    assert replicated.get("/posts").json() == ["Feira"]
    replicated.cookies.clear()
    assert replicated.get("/posts").json() == [], "without its token it reads from the standby, which lags"


def test_a_client_without_cookies_reads_its_own_write(replicated: httpx.Client, postgres_pair: PostgresCluster) -> None:
    postgres_pair.standby.pause_replay()
    token = replicated.post("/posts", json={"title": "Feira"}).headers[HEADER]
    replicated.cookies.clear()
    assert replicated.get("/posts", headers={HEADER: token}).json() == ["Feira"]


def test_a_token_that_cannot_be_had_costs_no_response(
    framework: str,
    replicated_database: ReplicatedDatabase,
    postgres_pair: PostgresCluster,
    tcp_proxy: StartTcpProxy,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_tables(replicated_database.primary.url("psycopg"))
    postgres_pair.wait_for_catch_up()
    proxy = tcp_proxy(postgres_pair.primary.port)
    lost = proxy.cut_when(lambda sent: b"pg_current_wal" in sent, "before_forward", times=100)
    settings = InfraSettings(
        replicated_database.primary.url("psycopg", port=proxy.port), (replicated_database.standby.url("psycopg"),)
    )
    with serve(framework, settings) as client:
        response = client.post("/posts", json={"title": "Feira"})
    assert lost.happened
    assert response.status_code == 201
    assert "set-cookie" not in response.headers
    assert "no write token" in caplog.text
    assert titles(replicated_database.primary.url("psycopg")) == ["Feira"]


def test_a_write_below_a_middleware_that_runs_the_application_in_a_task_of_its_own(
    replicated_database: ReplicatedDatabase, postgres_pair: PostgresCluster
) -> None:
    make_tables(replicated_database.primary.url("psycopg"))
    postgres_pair.wait_for_catch_up()
    urls = replicated_database.primary.url("psycopg"), (replicated_database.standby.url("psycopg"),)
    app = fastapi_app(**options_for(InfraSettings(*urls)))

    @app.middleware("http")
    async def pass_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    with served_asgi(app) as client:
        assert HEADER in client.post("/posts", json={"title": "Feira"}).headers


def test_a_primary_that_hangs_after_the_commit_holds_up_no_response(
    replicated_database: ReplicatedDatabase, postgres_pair: PostgresCluster, tcp_proxy: StartTcpProxy
) -> None:
    make_tables(replicated_database.primary.url("psycopg"))
    postgres_pair.wait_for_catch_up()
    proxy = tcp_proxy(postgres_pair.primary.port)
    urls = replicated_database.primary.url("psycopg", port=proxy.port), (replicated_database.standby.url("psycopg"),)
    app = fastapi_app(**options_for(InfraSettings(*urls)))

    @app.post("/last")
    async def write_and_lose_the_primary(infra: Infra) -> str:
        async with infra.write() as session:
            session.add(Post(title="Feira"))
        await asyncio.to_thread(proxy.black_hole)
        return "committed"

    with served_asgi(app) as client:
        response = client.post("/last")
        proxy.restore()
    assert response.json() == "committed"
    assert HEADER not in response.headers
    assert titles(replicated_database.primary.url("psycopg")) == ["Feira"]
