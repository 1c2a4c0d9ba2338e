"""What Flask has that the others have not: contexts, several applications, and servers that fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask

from araponga_infra import (
    ConcurrencyConflictError,
    EventRouter,
    InfraSettings,
    Infrastructure,
    InvalidArgumentError,
    NotConfiguredError,
    ReadOnlyViolationError,
)
from araponga_infra.integrations.flask import Araponga
from tests.integrations.domain import Post, Posted, make_tables, sqlite_url, titles
from tests.integrations.services import flask_app, options_for
from tests.servers.fixtures import ReplicatedDatabase
from tests.servers.postgres import PostgresDatabase
from tests.servers.postgres_cluster import PostgresCluster
from tests.servers.processes import wait_until

EMBEDDED = InfraSettings.embedded()


@pytest.fixture
def made() -> Iterator[Callable[..., tuple[Flask, Araponga]]]:
    """Makes the service, and closes what it opened."""
    with ExitStack() as closing:

        def make(**options: Any) -> tuple[Flask, Araponga]:
            app, araponga = flask_app(**options)
            closing.callback(araponga.close, app)
            return app, araponga

        yield make


Make = Callable[..., tuple[Flask, Araponga]]


def test_a_process_runs_as_many_handlers_at_a_time_as_it_was_told() -> None:
    together, met, own = threading.Barrier(7), list[str](), EventRouter()

    @own.subscribe(Posted)
    def meet(posted: Posted) -> None:
        together.wait(20)
        met.append(posted.title)

    app = Flask(__name__)
    araponga = Araponga(app, settings=EMBEDDED, routers=[own], max_concurrency=together.parties)
    app.test_client().get("/")  # the first request, from which on it consumes
    araponga.infra.events.publish_many([Posted(str(number)) for number in range(together.parties)])
    wait_until(lambda: len(met) == together.parties, 30, "all of them to meet")
    araponga.close(app)


def test_the_read_session_lives_as_long_as_its_request(made: Make, tmp_path: Path) -> None:
    app, araponga = made(**options_for(InfraSettings(sqlite_url(tmp_path))))
    with app.app_context():
        session = araponga.read
        assert araponga.read is session
        session.connection()
        assert araponga.infra.engine.pool.checkedout() == 1  # type: ignore[attr-defined]
    assert araponga.infra.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    with app.app_context():
        assert araponga.read is not session


def test_what_a_read_session_would_have_written_is_refused_at_its_end(made: Make, tmp_path: Path) -> None:
    app, araponga = made(**options_for(InfraSettings(sqlite_url(tmp_path))))
    with pytest.raises(ReadOnlyViolationError), app.app_context():
        araponga.read.add(Post(title="never"))
    with pytest.raises(ZeroDivisionError), app.app_context():  # noqa: PT012 - the error in flight is what matters
        araponga.read.add(Post(title="never"))
        raise ZeroDivisionError


def test_a_read_after_a_write_of_the_same_request_sees_it(
    made: Make, replicated_database: ReplicatedDatabase, postgres_pair: PostgresCluster
) -> None:
    make_tables(replicated_database.primary.url("psycopg"))
    postgres_pair.wait_for_catch_up()
    urls = replicated_database.primary.url("psycopg"), (replicated_database.standby.url("psycopg"),)
    app, _ = made(**options_for(InfraSettings(*urls)))
    postgres_pair.standby.pause_replay()
    response = app.test_client().post("/write-then-read")
    assert response.get_json() == ["own"]
    assert "Araponga-Write-Token" in response.headers


def test_the_environment_is_read_by_init_app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ARAPONGA_DATABASE_URL", "nonsense")
    araponga = Araponga()
    with pytest.raises(InvalidArgumentError, match="ARAPONGA_DATABASE_URL"):
        araponga.init_app(Flask(__name__))
    monkeypatch.setenv("ARAPONGA_DATABASE_URL", sqlite_url(tmp_path))
    app = Flask(__name__)
    araponga.init_app(app)
    with app.app_context():
        assert str(tmp_path) in str(araponga.infra.engine.url)
    araponga.close(app)


def test_probes_of_a_closed_application_want_no_restart_and_no_traffic(made: Make) -> None:
    app, araponga = made(settings=EMBEDDED)
    araponga.close(app)
    client = app.test_client()
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").status_code == 503


def test_outside_a_context_the_only_application_is_meant(made: Make) -> None:
    _first, araponga = made(settings=EMBEDDED)
    assert araponga.infra.cache is not None
    second = Flask(__name__)
    araponga.init_app(second)
    with pytest.raises(NotConfiguredError, match="2 applications"):
        _ = araponga.infra
    with second.app_context():
        assert araponga.infra.cache is not None
    araponga.close(second)


def test_an_application_without_it() -> None:
    araponga = Araponga(settings=EMBEDDED)
    with pytest.raises(NotConfiguredError, match="0 applications"):
        _ = araponga.infra
    with Flask(__name__).app_context(), pytest.raises(NotConfiguredError, match="init_app"):
        _ = araponga.infra


def test_init_app_twice_is_refused(made: Make) -> None:
    app, araponga = made(settings=EMBEDDED)
    with pytest.raises(InvalidArgumentError, match="already"):
        araponga.init_app(app)


def test_a_handler_that_the_host_registered_before_stays() -> None:
    app = Flask(__name__)
    app.register_error_handler(ConcurrencyConflictError, lambda _error: ("mine", 418))
    araponga = Araponga(app, settings=EMBEDDED)

    @app.get("/conflict")
    def conflict() -> str:
        raise ConcurrencyConflictError

    assert app.test_client().get("/conflict").status_code == 418
    araponga.close(app)


def test_the_cookie_is_secure_over_tls(
    made: Make, replicated_database: ReplicatedDatabase, postgres_pair: PostgresCluster
) -> None:
    make_tables(replicated_database.primary.url("psycopg"))
    postgres_pair.wait_for_catch_up()
    urls = replicated_database.primary.url("psycopg"), (replicated_database.standby.url("psycopg"),)
    app, _ = made(**options_for(InfraSettings(*urls)))
    response = app.test_client().post("/posts", json={"title": "Feira"}, base_url="https://service")
    assert response.headers["Set-Cookie"].endswith("; Secure")


# Forking


def connections_to(database: PostgresDatabase) -> int:
    [(count,)] = database.server.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'", [database.name]
    )
    return int(count)


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child and return its exit status."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


FORKING = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")


@FORKING
@pytest.mark.parametrize("is_used_before", [False, True])
def test_workers_forked_from_one_application(
    made: Make, postgres_database: PostgresDatabase, is_used_before: bool
) -> None:
    url = postgres_database.url("psycopg")
    make_tables(url)
    app, _ = made(**options_for(InfraSettings(url)))
    if is_used_before:
        assert app.test_client().post("/posts", json={"title": "parent"}).status_code == 201
    else:
        assert connections_to(postgres_database) == 0

    def work() -> None:
        client = app.test_client()
        assert client.post("/posts", json={"title": "child"}).status_code == 201
        assert "child" in client.get("/posts").get_json()
        assert client.get("/health/ready").status_code == 200

    assert [in_child(work) for _ in range(2)] == [0, 0]
    assert app.test_client().post("/posts", json={"title": "after"}).status_code == 201
    assert titles(url) == (["parent"] if is_used_before else []) + ["child", "child", "after"]


@FORKING
def test_a_forked_worker_sends_tokens_for_its_own_writes(
    made: Make, replicated_database: ReplicatedDatabase, postgres_pair: PostgresCluster
) -> None:
    make_tables(replicated_database.primary.url("psycopg"))
    postgres_pair.wait_for_catch_up()
    urls = replicated_database.primary.url("psycopg"), (replicated_database.standby.url("psycopg"),)
    app, _ = made(**options_for(InfraSettings(*urls)))

    def work() -> None:
        response = app.test_client().post("/posts", json={"title": "Feira"})
        assert "Araponga-Write-Token" in response.headers

    work()
    assert in_child(work) == 0


PREFORK_APP = """
from flask import Flask
from araponga_infra.integrations.flask import Araponga
from tests.integrations.domain import router

araponga = Araponga(routers=[router])

def create_app():
    app = Flask(__name__)
    araponga.init_app(app)
    app.add_url_rule("/", "hello", lambda: "hello")
    return app
"""


def test_a_prefork_server_with_handlers_in_its_workers(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    postgres_database: PostgresDatabase,
    plain_environment: dict[str, str],
) -> None:
    (tmp_path / "prefork.py").write_text(PREFORK_APP)
    monkeypatch.chdir(tmp_path)
    path = Path("gunicorn.sock")  # relative, since the kernel takes about 100 characters
    environment = plain_environment | {
        "ARAPONGA_DATABASE_URL": postgres_database.url(),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])]),
    }
    command = [sys.executable, "-m", "gunicorn", "--preload", "-w", "2", "-b", f"unix:{path}", "prefork:create_app()"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            wait_until(path.exists, 30, "gunicorn to listen")
            assert connections_to(postgres_database) == 0
            transport = httpx.HTTPTransport(uds=str(path))
            with httpx.Client(transport=transport, base_url="http://service", timeout=20) as client:
                assert client.get("/").text == "hello"
            with Infrastructure(InfraSettings(postgres_database.url()), consume=False) as infra:
                infra.events.publish(Posted("to a worker"))
                wait_until(lambda: infra.events.stats().queued + infra.events.stats().running == 0, 20, "a worker")
                assert infra.events.stats().dead == 0
        finally:
            server.send_signal(signal.SIGTERM)
            _, log = server.communicate(timeout=30)
    assert server.returncode == 0, log
    assert "Traceback" not in log
