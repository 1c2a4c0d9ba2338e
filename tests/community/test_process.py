"""The service as processes: embedded by one command, and on servers with a second instance and a worker."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from araponga_infra import AsyncInfrastructure, InfraSettings
from examples.community.domain import PostPublished
from examples.community.handlers import router
from tests.community.conftest import migrate_and_seed
from tests.servers.fixtures import ReplicatedDatabase
from tests.servers.postgres import PostgresDatabase
from tests.servers.postgres_cluster import PostgresCluster
from tests.servers.processes import wait_until

UNDONE = "SELECT count(*) FROM araponga_deliveries"
ROOT = Path(__file__).parents[2]
SERVICE = ["-m", "examples.community"]
WORKER = ["-m", "araponga_infra.cli", "events", "run", "examples.community.handlers:router"]


@contextmanager
def running(arguments: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that ends by SIGTERM, with what it has begun done and no error."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", *arguments], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            output, log = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGTERM), log
    assert "Traceback" not in log, log
    assert output == ""


@contextmanager
def serving(environment: dict[str, str], *options: str) -> Iterator[httpx.Client]:
    with running([*SERVICE, "--port", "0", *options], environment) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        with httpx.Client(base_url=address, timeout=30) as client:
            yield client


def test_one_command_shows_a_page_and_leaves_nothing(plain_environment: dict[str, str], tmp_path: Path) -> None:
    environment = plain_environment | {"TMPDIR": str(tmp_path)}
    with serving(environment) as client:
        assert "Vale do Itamambuca" in client.get("/").text
        assert client.get("/health/live").json()["status"] == "live"
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_is_killed_between_work_and_acknowledgement_fills_no_inbox_twice(
    plain_environment: dict[str, str], postgres_database: PostgresDatabase
) -> None:
    settings = InfraSettings(postgres_database.url())
    asyncio.run(migrate_and_seed(settings))
    asyncio.run(announce_first_post(settings))
    environment = plain_environment | {"ARAPONGA_DATABASE_URL": postgres_database.url()}
    killed = subprocess.run(
        [sys.executable, "-m", "tests.community.mortal_worker"], cwd=ROOT, env=environment, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    with running(WORKER, environment):
        wait_until(lambda: postgres_database.execute(UNDONE) == [(0,)], 30, "the next worker to take over")
    filled = postgres_database.execute("SELECT member, count(*) FROM notification GROUP BY member ORDER BY member")
    assert filled == [("ana", 1), ("bento", 1), ("celia", 1)]


async def announce_first_post(settings: InfraSettings) -> None:
    async with AsyncInfrastructure(settings, routers=[router], consume=False) as infra:
        await infra.events.dead_letters.purge(0)
        await infra.events.publish(PostPublished(1, 1))


def test_two_instances_and_a_worker_are_one_service(
    plain_environment: dict[str, str],
    replicated_database: ReplicatedDatabase,
    postgres_pair: PostgresCluster,
    redis_url: str,
) -> None:
    environment = plain_environment | {
        "ARAPONGA_DATABASE_URL": replicated_database.primary.url(),
        "ARAPONGA_DATABASE_READONLY_URL": replicated_database.standby.url(),
        "ARAPONGA_REDIS_URL": redis_url,
        "COMMUNITY_CONSUME": "0",
    }
    with (
        serving(environment | {"COMMUNITY_INSTANCE": "one"}, "--migrate") as one,
        serving(environment | {"COMMUNITY_INSTANCE": "two"}, "--migrate") as two,
        running(WORKER, environment),
    ):
        assert one.get("/feed").headers["Araponga-Instance"] == "one"
        assert two.get("/feed").headers["Araponga-Instance"] == "two"
        assert one.get("/territories/1").status_code == two.get("/territories/1").status_code == 404
        founded = one.post("/territories", json={"name": "Vale"})
        assert founded.json()["id"] == 1
        wait_until(lambda: two.get("/territories/1").is_success, 30, "the other instance to forget its 404")

        one.post("/memberships", json={"territory_id": 1, "member": "ana"}).raise_for_status()
        postgres_pair.wait_for_catch_up()
        postgres_pair.standby.pause_replay()
        post = {"territory_id": 1, "author": "ana", "title": "Feira"}
        published = one.post("/posts", json=post).raise_for_status()
        assert len(one.get("/feed").json()["items"]) == 1, "this client sees its own write"
        token = {"Cookie": f"araponga_write_token={published.cookies['araponga_write_token']}"}
        assert len(httpx.get(two.base_url.join("/feed"), headers=token).json()["items"]) == 1, "on any instance"
        assert httpx.get(two.base_url.join("/feed")).json()["items"] == [], "others read from the standby, which lags"
        postgres_pair.standby.resume_replay()

        inbox = "/members/ana/notifications"
        wait_until(lambda: len(two.get(inbox).json()["items"]) == 1, 30, "the worker to fill the inbox")
        edited = two.put("/posts/1", json={"title": "Bazar"}, headers={"If-Match": published.headers["ETag"]})
        assert edited.headers["ETag"] == '"2"'
