"""A worker process: what it runs, and how it stops."""

from __future__ import annotations

import runpy
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from araponga_infra import EventRouter, InfraSettings, Infrastructure, InvalidArgumentError
from araponga_infra.cli import run_worker
from araponga_infra.cli.signals import NotInMainThreadError
from tests.cli.conftest import Start, notes, wait_for_note
from tests.servers.fixtures import StartTcpProxy
from tests.servers.postgres import PostgresDatabase
from tests.servers.processes import wait_until

OVER = 20.0
"""Below the grace that a processor has by itself."""


@pytest.fixture
def publish(service: Path, database_url: str) -> Any:
    """Publishes orders to whoever subscribes in the shop's store."""
    ordered = runpy.run_path(str(service / "shop.py"))["Ordered"]

    def publish(*orders: Any) -> None:
        with Infrastructure(InfraSettings(database_url), consume=False) as infra:
            for what, seconds in orders:
                infra.events.publish(ordered(what, seconds))

    return publish


def ended(process: subprocess.Popen[str], number: signal.Signals | None = None) -> tuple[int, str]:
    if number is not None:
        process.send_signal(number)
    _, log = process.communicate(timeout=OVER)
    return process.returncode, log


def is_handling(process: subprocess.Popen[str]) -> None:
    """Wait until the worker says that its subscriptions are recorded and it takes events."""
    assert process.stderr is not None
    for line in process.stderr:
        if "handling events" in line:
            return
    raise AssertionError(f"the worker ended with status {process.wait(OVER)}")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("shop:router", "end bread"),
        ("shop:Holder.router", "end bread"),
        ("shop:make_router", "end bread"),
        ("shop:make_infrastructure", "end bread"),
        ("shop:make_processor", "end bread"),
        ("shop:sync_session_router", "bread 42"),
        ("shop:async_router", "bread 42"),
        ("shop:make_async_infrastructure", "bread 42"),
    ],
)
def test_events_run(start: Start, publish: Any, service: Path, target: str, expected: str) -> None:
    worker = start("events", "run", target)
    is_handling(worker)
    publish(("bread", 0))
    wait_for_note(service, expected)
    status, log = ended(worker, signal.SIGTERM)
    assert status == 0, log
    assert "stopped" in log


def test_a_running_handler_is_let_finish(start: Start, publish: Any, service: Path) -> None:
    worker = start("events", "run", "shop:router", "--concurrency", "1")
    is_handling(worker)
    publish(("cake", 1), ("never begun", 0))
    wait_for_note(service, "begin cake")
    assert ended(worker, signal.SIGTERM)[0] == 0
    assert notes(service) == ["begin cake", "end cake"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_takes_longer_than_the_grace_is_given_back(
    start: Start, publish: Any, service: Path, database_url: str, number: signal.Signals
) -> None:
    worker = start("events", "run", "shop:router", "--grace", "0.2")
    is_handling(worker)
    publish(("a cathedral", 3600))
    wait_for_note(service, "begin a cathedral")
    status, log = ended(worker, number)
    assert status == 0, log
    with Infrastructure(InfraSettings(database_url), consume=False) as infra:
        stats = infra.events.stats()
    assert (stats.queued + stats.retrying, stats.running, stats.dead) == (1, 0, 0)


def test_a_handler_that_ignores_its_cancellation_does_not_keep_the_process(
    start: Start, publish: Any, service: Path
) -> None:
    worker = start("events", "run", "shop:stubborn_router", "--grace", "0.2")
    is_handling(worker)
    publish(("a cathedral", 0))
    wait_for_note(service, "begin a cathedral")
    status, log = ended(worker, signal.SIGTERM)
    assert status == 0
    assert "ignore their cancellation" in log


def test_a_second_interrupt_ends_it_at_once(start: Start, publish: Any, service: Path) -> None:
    worker = start("events", "run", "shop:router", "--grace", "3600")
    is_handling(worker)
    publish(("a cathedral", 3600))
    wait_for_note(service, "begin a cathedral")
    worker.send_signal(signal.SIGINT)
    assert worker.stderr is not None
    assert any("asked to stop" in line for line in worker.stderr)
    assert ended(worker, signal.SIGINT)[0] == 130


def test_a_worker_in_code(service: Path, environment: dict[str, str], publish: Any) -> None:
    (service / "worker.py").write_text(
        "import logging\nfrom araponga_infra.cli import run_worker\nfrom shop import router\n"
        "logging.basicConfig(level='INFO')\nrun_worker(routers=[router], max_concurrency=20)\nprint('after')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "error", "worker.py"], cwd=service, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as worker:  # fmt: skip
        is_handling(worker)
        publish(("bread", 0))
        wait_for_note(service, "end bread")
        worker.send_signal(signal.SIGTERM)
        output, _ = worker.communicate(timeout=OVER)
    assert (worker.returncode, output) == (0, "after\n")


def test_run_worker_refuses_what_it_cannot_run(service: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="no handler"):
        run_worker(routers=[EventRouter()], settings=InfraSettings.embedded())
    shop = runpy.run_path(str(service / "shop.py"))
    with pytest.raises(InvalidArgumentError, match="two workers"):
        run_worker(routers=[shop["mixed_router"]], settings=InfraSettings.embedded())
    with pytest.raises(InvalidArgumentError, match="grace"):
        run_worker(routers=[shop["router"]], settings=InfraSettings.embedded(), grace=-1)


def test_run_worker_outside_the_main_thread(service: Path) -> None:
    router, errors = runpy.run_path(str(service / "shop.py"))["router"], list[Exception]()

    def run() -> None:
        try:
            run_worker(routers=[router], settings=InfraSettings.embedded())
        except NotInMainThreadError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert len(errors) == 1


@pytest.mark.parametrize("router", ["router", "async_router"])
def test_a_worker_whose_database_hangs_at_the_start_can_be_stopped(
    start: Start,
    environment: dict[str, str],
    postgres_database: PostgresDatabase,
    tcp_proxy: StartTcpProxy,
    router: str,
) -> None:
    proxy = tcp_proxy(postgres_database.server.port)
    proxy.black_hole()
    environment["ARAPONGA_DATABASE_URL"] = postgres_database.url(port=proxy.port)
    worker = start("events", "run", f"shop:{router}")
    wait_until(lambda: proxy.connections > 0, OVER, "the worker to connect")
    status, log = ended(worker, signal.SIGTERM)
    assert status == 0, log
    assert "handling events" not in log


def test_a_probe_of_a_database_that_hangs_ends_all_the_same(
    postgres_database: PostgresDatabase, tcp_proxy: StartTcpProxy, environment: dict[str, str]
) -> None:
    proxy = tcp_proxy(postgres_database.server.port)
    proxy.black_hole()
    environment["ARAPONGA_DATABASE_URL"] = postgres_database.url(port=proxy.port)
    probe = subprocess.run(
        [sys.executable, "-m", "araponga_infra.cli", "health", "--ready", "--timeout", "0.5"],
        env=environment, capture_output=True, text=True, timeout=OVER, check=False,
    )  # fmt: skip
    assert probe.returncode == 1, probe.stderr
    assert "not ready" in probe.stdout
    assert "Traceback" not in probe.stderr
