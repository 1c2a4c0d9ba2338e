"""What a dead run leaves behind is ended by process id; what lives is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from . import reap_abandoned, wait_until
from .processes import is_alive
from .run_folder import copies_folder, release, reserve_port

REPOSITORY = Path(__file__).parents[2]

_RUN = """
import json, os, signal, sys
from tests.servers import PostgresServer, RedisServer
from tests.servers.run_folder import copies_folder
servers = [PostgresServer.create(), RedisServer.create()]
for server in servers:
    {action}
pids = [server._process.pid for server in servers]
print(json.dumps([str(copies_folder()), pids]), flush=True)
{end}
"""


@contextmanager
def _run(end: str, action: str = "pass") -> Iterator[tuple[subprocess.Popen[str], Path, list[int]]]:
    """A test run of its own that starts both servers and then ends somehow."""
    script = _RUN.format(action=action, end=end)
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        folder, pids = json.loads(process.stdout.readline())
        yield process, Path(folder), pids
        process.kill()


def _all_gone(pids: list[int]) -> bool:
    return not any(map(is_alive, pids))


@pytest.mark.parametrize("action", ["pass", "server.pause()", "server.kill(); server.start()"])
def test_servers_of_a_killed_run_are_ended_and_their_folder_is_removed(action: str) -> None:
    with _run("os.kill(os.getpid(), signal.SIGKILL)", action) as (process, folder, pids):
        process.wait(10)
        reap_abandoned()

        assert _all_gone(pids)
        assert not folder.exists()


def test_servers_of_a_living_run_are_left_alone_and_end_with_it() -> None:
    with _run("sys.stdin.read()") as (process, folder, pids):
        reap_abandoned()
        assert all(map(is_alive, pids))
        assert folder.exists()

        process.communicate(timeout=10)
        assert _all_gone(pids)
        assert not folder.exists()


def test_a_forked_child_neither_ends_the_servers_nor_keeps_them_alive() -> None:
    child_waits = """
if os.fork() == 0:
    os.close(1)
    if os.fork() == 0:
        signal.alarm(30)  # it outlives the test, but not for long
        signal.pause()
    sys.exit()
os.wait()
sys.stdin.readline()
os._exit(1)
"""
    with _run(child_waits) as (process, folder, pids):
        assert all(map(is_alive, pids))
        process.communicate("\n", timeout=10)
        reap_abandoned()

        assert _all_gone(pids)
        assert not folder.exists()


def test_a_process_that_took_over_a_recorded_pid_is_not_touched() -> None:
    root = copies_folder().parent
    folder = root / "session-0-stale" / "redis-1"
    folder.mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        folder.joinpath("process.json").write_text(json.dumps({"pid": stranger.pid, "end_signal": 15}))
        reap_abandoned()

        assert not folder.exists()
        assert stranger.poll() is None


def test_a_run_that_died_before_it_recorded_anything_is_removed() -> None:
    folder = copies_folder().parent / "session-0-empty"
    folder.joinpath("postgres-1", "data").mkdir(parents=True)
    folder.joinpath("postgres-2").mkdir()
    folder.joinpath("postgres-2", "process.json").touch()
    reap_abandoned()

    assert not folder.exists()


def test_reserved_ports_differ_until_they_are_released() -> None:
    reserved = [reserve_port("test") for _ in range(20)]
    assert len({port.number for port in reserved}) == 20
    assert all(port.folder.is_dir() for port in reserved)

    for port in reserved:
        release(port)
    assert not any(port.folder.exists() for port in reserved)


def test_a_wait_in_vain_says_for_what() -> None:
    with pytest.raises(TimeoutError, match=r"0\.01 s in vain for: the moon"):
        wait_until(lambda: False, 0.01, "the moon")


def test_the_folders_admit_other_users_but_do_not_list_for_them() -> None:
    for folder in (copies_folder(), copies_folder().parent):
        assert folder.stat().st_mode & 0o777 == 0o711
        assert folder.stat().st_uid == os.getuid()
