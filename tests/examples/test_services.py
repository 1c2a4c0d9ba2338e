"""The example services as processes of their own: behind their servers, with a worker, a standby and Redis."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.servers.fixtures import ReplicatedDatabase
from tests.servers.postgres_cluster import PostgresCluster
from tests.servers.processes import wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
CREATE_TABLES = """
import os
from araponga_infra import Infrastructure
from community.domain import Base, TerritoryMembership, TerritoryRow
with Infrastructure.from_env(consume=False) as infra:
    Base.metadata.create_all(infra.engine)
    with infra.write() as session:
        session.add(TerritoryRow(id=1, name="Vale do Itamambuca", memberships=[TerritoryMembership(member="ana")]))
"""
SERVERS = {
    "fastapi": ["-m", "uvicorn", "fastapi_service:app", "--fd", "{fd}"],
    "flask": ["-m", "gunicorn", "--preload", "-w", "2", "-b", "fd://{fd}", "flask_service:create_app()"],
}


@pytest.fixture
def environment(
    plain_environment: dict[str, str],
    replicated_database: ReplicatedDatabase,
    postgres_pair: PostgresCluster,
    redis_url: str,
) -> dict[str, str]:
    environment = plain_environment | {
        "ARAPONGA_DATABASE_URL": replicated_database.primary.url(),
        "ARAPONGA_DATABASE_READONLY_URL": replicated_database.standby.url(),
        "ARAPONGA_REDIS_URL": redis_url,
    }
    subprocess.run([sys.executable, "-c", CREATE_TABLES], cwd=EXAMPLES, env=environment, check=True, timeout=60)
    postgres_pair.wait_for_catch_up()
    return environment


@contextmanager
def running(
    arguments: list[str], environment: dict[str, str], *, pass_fds: tuple[int, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with status 0 when it is asked to."""
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=EXAMPLES, env=environment, pass_fds=pass_fds, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            log = process.stderr.read() if process.stderr else ""
    assert process.returncode in (0, -signal.SIGTERM), log
    assert "Traceback" not in log


@contextmanager
def serving(framework: str, environment: dict[str, str]) -> Iterator[httpx.Client]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        arguments = [each.format(fd=listener.fileno()) for each in SERVERS[framework]]
        with running(arguments, environment, pass_fds=(listener.fileno(),)):
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with httpx.Client(base_url=url, timeout=30) as client:
                assert client.get("/health/ready").json()["status"] == "ready"
                yield client


@pytest.mark.parametrize("framework", ["fastapi", "flask"])
def test_a_service_with_its_worker(
    framework: str, environment: dict[str, str], replicated_database: ReplicatedDatabase, postgres_pair: PostgresCluster
) -> None:
    with serving(framework, environment) as client, running(["worker.py"], environment):
        postgres_pair.standby.pause_replay()
        created = client.post("/posts", json={"territory_id": 1, "title": "Feira"})
        assert created.status_code == 201
        post = f"/posts/{created.json()['id']}"
        assert [each["title"] for each in client.get("/feed").json()] == ["Feira"], "this client sees its own write"
        assert httpx.get(client.base_url.join("/feed")).json() == [], "others read from the standby, which lags"
        postgres_pair.standby.resume_replay()

        edit = {"territory_id": 1, "title": "Feira de trocas"}
        assert client.put(post, json=edit).status_code == 428
        edited = client.put(post, json=edit, headers={"If-Match": created.headers["etag"]})
        assert edited.is_success
        assert edited.headers["etag"] == '"2"'
        assert client.put(post, json=edit, headers={"If-Match": created.headers["etag"]}).status_code == 412
        assert client.post(f"{post}/likes").json() == {"likes": 1}

        assert client.get("/territories/1").json() == {"id": 1, "name": "Vale do Itamambuca", "version": 1}
        assert client.get("/territories/2").status_code == 404
        notified = "SELECT count(*) FROM notification WHERE text LIKE 'New in your territory: Feira%'"
        wait_until(
            lambda: replicated_database.primary.execute(notified) == [(1,)], 30, "the worker to queue the notification"
        )
