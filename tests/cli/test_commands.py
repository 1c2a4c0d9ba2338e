"""The commands: what they print, what they change, and their exit status."""

from __future__ import annotations

import json
import os
import pty
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from araponga_infra import InfraSettings, Infrastructure
from araponga_infra.cli.commands import command_line
from tests.cli.conftest import Start

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def imports_undone() -> Iterator[None]:
    path = list(sys.path)
    yield
    sys.path[:] = path
    sys.modules.pop("shop", None)


@pytest.fixture
def run(service: Path, environment: dict[str, str]) -> Run:
    def run(*arguments: str, typed: str | None = None, **variables: str | None) -> Result:
        runner = CliRunner(env={**environment, **variables})
        return runner.invoke(command_line, arguments, input=typed)

    return run


@pytest.fixture
def shop(service: Path) -> dict[str, Any]:
    return runpy.run_path(str(service / "shop.py"))


@pytest.fixture
def order(shop: dict[str, Any], database_url: str) -> Callable[..., None]:
    """Orders things and delivers them as far as they can be."""

    def order(*whats: str) -> None:
        with Infrastructure(InfraSettings(database_url), routers=[shop["router"]], consume=False) as infra:
            infra.events.publish_many([shop["Ordered"](what) for what in whats])
            infra.events.run_until_idle(raise_dead=False)

    return order


def dead(run: Run, *arguments: str) -> list[dict[str, Any]]:
    result = run("dead-letters", "list", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_stats(run: Run, order: Callable[..., None]) -> None:
    order("bread", "broken plate", "broken cup")
    shown = run("events", "stats")
    assert shown.exit_code == 0, shown.output
    assert "cli.ordered  deliver       0        0         0     2               0" in shown.output
    document = json.loads(run("events", "stats", "--json").stdout)
    assert (document["dead"], document["handlers"][0]["handler"]) == (2, "deliver")


def test_listing_and_showing(run: Run, order: Callable[..., None]) -> None:
    assert "no dead letters" in run("dead-letters", "list").output
    order("broken plate")
    listed = run("dead-letters", "list").output
    assert "attempts_exhausted" in listed
    [letter] = dead(run)
    shown = run("dead-letters", "show", letter["id"])
    assert "out of stock" in shown.output
    assert "broken plate" in shown.output
    assert json.loads(run("dead-letters", "show", "--json", letter["id"]).stdout) == letter


def test_pages_and_filters(run: Run, order: Callable[..., None]) -> None:
    order("broken 1", "broken 2", "broken 3")
    first = run("dead-letters", "list", "--limit", "2", "--json")
    *letters, hint = first.output.splitlines()
    cursor = hint.rpartition("--after ")[2]
    assert len(letters) == 2
    assert len(dead(run, "--after", cursor)) == 1
    assert len(dead(run, "--handler", "deliver", "--event", "cli.ordered", "--reason", "attempts_exhausted")) == 3
    assert dead(run, "--handler", "another") == []
    assert run("dead-letters", "list", "--reason", "bad luck").exit_code == 2


def test_redriving_one(run: Run, order: Callable[..., None]) -> None:
    order("broken plate", "broken cup")
    first, second = dead(run)
    assert "1 redriven" in run("dead-letters", "redrive", first["id"]).output
    assert [each["id"] for each in dead(run)] == [second["id"]]
    order()
    assert len(dead(run)) == 2


def test_redriving_all_that_match(run: Run, order: Callable[..., None]) -> None:
    order("broken plate", "broken cup")
    assert "0 redriven" in run("dead-letters", "redrive", "--all", "--handler", "another").output
    assert "2 redriven" in run("dead-letters", "redrive", "--all", "--reason", "attempts_exhausted").output
    assert dead(run) == []


def test_discarding(run: Run, order: Callable[..., None]) -> None:
    order("broken plate", "broken cup", "broken jar")
    first, *_ = dead(run)
    assert run("dead-letters", "discard", first["id"], typed="n\n").exit_code == 1
    assert len(dead(run)) == 3
    assert "1 discarded" in run("dead-letters", "discard", first["id"], typed="y\n").output
    assert "0 discarded" in run("dead-letters", "discard", "--all", "--yes", "--older-than", "3600").output
    assert "2 discarded" in run("dead-letters", "discard", "--all", "--yes").output
    assert dead(run) == []


@pytest.mark.parametrize("command", ["redrive", "discard"])
def test_ids_or_all_but_not_both(run: Run, command: str) -> None:
    assert run("dead-letters", command).exit_code == 2
    assert run("dead-letters", command, "--all", "1").exit_code == 2
    assert run("dead-letters", command, "--handler", "deliver", "1").exit_code == 2


def test_an_unknown_id(run: Run) -> None:
    for command in (["show"], ["redrive"], ["discard", "--yes"]):
        result = run("dead-letters", *command, "4711")
        assert result.exit_code == 1
        assert "4711" in result.output
        assert "Traceback" not in result.output


@pytest.mark.parametrize("name", ["make_processor", "make_infrastructure", "make_async_infrastructure"])
def test_the_store_of_an_application(run: Run, order: Callable[..., None], service: Path, name: str) -> None:
    order("broken plate")
    where = ("--app", f"shop:{name}", "--app-dir", str(service))
    assert json.loads(run("events", "stats", "--json", *where).stdout)["dead"] == 1
    assert "1 redriven" in run("dead-letters", "redrive", "--all", *where).output
    assert json.loads(run("events", "stats", "--json").stdout)["queued"] == 1, "no handler ran meanwhile"


def test_a_router_has_no_store(run: Run, service: Path) -> None:
    result = run("events", "stats", "--app", "shop:router", "--app-dir", str(service))
    assert result.exit_code == 2
    assert "a router has no store" in result.output


def on_a_terminal(environment: dict[str, str], *arguments: str) -> tuple[str, str]:
    """What the command wrote, and what was shown meanwhile."""
    controller, terminal = pty.openpty()
    ran = subprocess.run(
        [sys.executable, "-m", "araponga_infra.cli", "dead-letters", *arguments],
        env=environment | {"TERM": "xterm"}, stdout=subprocess.PIPE, stderr=terminal, text=True, timeout=60, check=True,
    )  # fmt: skip
    os.close(terminal)
    shown = os.read(controller, 65536).decode()
    os.close(controller)
    return ran.stdout, shown


@pytest.mark.parametrize(
    ("command", "done", "steps"),
    [
        (("redrive", "--all"), "redriven", ["200/1050", "400/1050", "600/1050", "800/1050", "1000/1050", "1050/1050"]),
        (("discard", "--all", "--yes"), "discarded", ["500/1050", "1000/1050", "1050/1050"]),
    ],
)
def test_a_bar_on_a_terminal_grows_batch_by_batch_to_its_total(
    order: Callable[..., None], environment: dict[str, str], command: tuple[str, ...], done: str, steps: list[str]
) -> None:
    order(*["broken plate"] * 1050)
    written, shown = on_a_terminal(environment, *command)
    assert written == f"1050 {done}\n"
    seen = list(dict.fromkeys(re.findall(r"(\d+/\d+)", shown)))
    assert seen in (steps, ["0/1050", *steps])


def test_a_bar_does_not_pass_its_total_when_more_die_meanwhile(
    order: Callable[..., None], environment: dict[str, str], service: Path
) -> None:
    order("broken plate", "broken cup")
    where = ("--app", "shop:make_busy_processor", "--app-dir", str(service))
    written, shown = on_a_terminal(environment, "redrive", "--all", *where)
    assert written == "3 redriven\n"
    assert "2/2" in shown
    assert "3/2" not in shown


def test_a_running_number_where_the_total_is_not_known(order: Callable[..., None], environment: dict[str, str]) -> None:
    order(*["broken plate"] * 250)
    written, shown = on_a_terminal(environment, "redrive", "--all", "--reason", "attempts_exhausted")
    assert written == "250 redriven\n"
    assert re.findall(r"redriving: (\d+)", shown) == ["200", "250"]


@pytest.mark.parametrize("name", ["make_interrupted_processor", "make_interrupted_async_processor"])
@pytest.mark.parametrize(
    ("command", "done", "in_two_batches"),
    [(("redrive", "--all"), "redriven", 400), (("discard", "--all", "--yes"), "discarded", 1000)],
)
def test_ctrl_c_ends_between_two_batches_and_the_next_call_goes_on(
    run: Run,
    start: Start,
    order: Callable[..., None],
    name: str,
    command: tuple[str, ...],
    done: str,
    in_two_batches: int,
) -> None:
    order(*["broken plate"] * 1050)
    process = start("dead-letters", *command, "--app", f"shop:{name}")
    written, said = process.communicate(timeout=60)
    assert (process.returncode, written) == (130, "")
    assert said == f"interrupted: {in_two_batches} {done}, the others are as they were; call again to go on\n"
    left = json.loads(run("events", "stats", "--json").stdout)
    assert left["dead"] == 1050 - in_two_batches
    assert left["queued"] == (in_two_batches if done == "redriven" else 0)
    assert f"{1050 - in_two_batches} {done}" in run("dead-letters", *command).output
    assert dead(run) == []


def test_a_second_ctrl_c_does_not_wait_for_the_batch(run: Run, start: Start, order: Callable[..., None]) -> None:
    order(*["broken plate"] * 450)
    process = start("dead-letters", "redrive", "--all", "--app", "shop:make_twice_interrupted_processor")
    written, said = process.communicate(timeout=60)
    assert (process.returncode, written) == (1, "")
    assert "Aborted!" in said
    assert "Traceback" not in said
    left = json.loads(run("events", "stats", "--json").stdout)
    assert (left["dead"], left["queued"]) == (250, 200), "the batch is rolled back"


def test_ctrl_c_ends_between_two_ids(run: Run, start: Start, order: Callable[..., None]) -> None:
    order("broken plate", "broken cup", "broken jar")
    ids = [each["id"] for each in dead(run)]
    process = start("dead-letters", "redrive", *ids, "--app", "shop:make_interrupted_processor")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "2 redriven" in said
    assert [each["id"] for each in dead(run)] == ids[2:]


def test_health(run: Run, service: Path) -> None:
    ready, live = run("health", "--ready"), run("health", "--live")
    assert (ready.exit_code, live.exit_code) == (0, 0), ready.output
    assert "healthy" in ready.output
    gone = {"ARAPONGA_DATABASE_URL": "postgresql://nobody:secret@127.0.0.1:1/nothing"}
    result = run("health", "--ready", "--timeout", "1", **gone)
    assert result.exit_code == 1
    assert "not ready" in result.output
    assert "secret" not in result.output
    assert run("health", "--live", "--timeout", "1", **gone).exit_code == 0


def test_no_database(run: Run) -> None:
    result = run("events", "stats", ARAPONGA_DATABASE_URL=None)
    assert result.exit_code == 1
    assert "ARAPONGA_DATABASE_URL" in result.output


def test_a_malformed_variable(run: Run) -> None:
    result = run("events", "stats", ARAPONGA_DATABASE_URL="nonsense")
    assert result.exit_code == 2
    assert "ARAPONGA_DATABASE_URL" in result.output
    assert "nonsense" not in result.output


def test_a_database_that_does_not_answer(run: Run) -> None:
    result = run("events", "stats", ARAPONGA_DATABASE_URL="postgresql://nobody:secret@127.0.0.1:1/nothing")
    assert result.exit_code == 1
    assert "the database" in result.output
    assert "secret" not in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("shop:empty_router",), "no handler"),
        (("shop:mixed_router",), "two workers"),
        (("shop:make_infrastructure", "--concurrency", "3"), "--concurrency"),
        (("shop:number",), "EventRouter"),
        (("shop:make_idle_infrastructure",), "consume=False"),
        (("shop:make_empty_infrastructure",), "include routers"),
        (("shop:router", "--concurrency", "0"), "concurrency"),
    ],
)
def test_what_events_run_refuses(run: Run, service: Path, arguments: tuple[str, ...], advice: str) -> None:
    result = run("events", "run", *arguments, "--app-dir", str(service))
    assert result.exit_code == 2, result.output
    assert advice in result.output


def test_help_says_what_there_is(run: Run) -> None:
    shown = run("--help").output
    assert all(name in shown for name in ("events", "dead-letters", "health"))


def test_without_the_extra_the_command_says_which_one() -> None:
    hide = "import sys; sys.modules['click'] = None; from araponga_infra.cli import main; main()"
    ran = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr == ("the command araponga-infra needs the extra 'cli': pip install 'araponga_infra[cli]'\n")
