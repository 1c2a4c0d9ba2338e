"""What a deployment is made of besides the servers: nginx, instances of the community API, workers."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from tests.servers.finding import find_program
from tests.servers.processes import ServerProcess, wait_until
from tests.servers.run_folder import release, reserve_port
from tests.servers.unprivileged import server_user

__all__ = ["Instance", "LoadBalancer", "Worker"]

ROOT = Path(__file__).parents[2]
NGINX = ROOT / "deploy" / "nginx" / "nginx.conf"
HOST = "127.0.0.1"
GRACE_SECONDS = 20  # as in deploy/Dockerfile
KEEP_ALIVE_SECONDS = 75
WORKER_GRACE_SECONDS = 25
PATIENCE_SECONDS = 60.0
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class LoadBalancer:
    """nginx with the repository's own configuration, on a free loopback port, in front of a list that may change."""

    def __init__(self) -> None:
        self._reserved = reserve_port("nginx")
        self._folder = self._reserved.folder
        shutil.copy(NGINX, self._folder)
        temporary = "".join(f"{name}_temp_path {self._folder / name};\n" for name in _TEMPORARY)
        log = f"access_log {self._folder / 'access.log'} timed;\n"
        self._folder.joinpath("server.conf").write_text(f"listen {HOST}:{self._reserved.number};\n{log}{temporary}")
        self._write_upstreams([])
        user = server_user()
        if user is not None:
            user.give(self._folder)
        self._process = ServerProcess(
            self._folder,
            [
                str(find_program("nginx")), "-p", str(self._folder), "-c", str(self._folder / "nginx.conf"),
                "-e", str(self._folder / "error.log"), "-g", f"daemon off; pid {self._folder / 'nginx.pid'};",
            ],
            environ=os.environ, user=user, end_signal=signal.SIGTERM,
        )  # fmt: skip

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self._reserved.number}"

    def start(self, instances: Sequence[Instance]) -> None:
        self._write_upstreams(instances)
        self._process.spawn()
        self._process.wait_ready(lambda: _answers(f"{self.address}/health/live"), PATIENCE_SECONDS)

    def send_to(self, instances: Sequence[Instance]) -> None:
        """By reload; returns when the workers that knew another list have answered their last request and are gone."""
        before = set(self._process.children)
        self._write_upstreams(instances)
        self._process.send(signal.SIGHUP)
        wait_until(
            lambda: bool(now := set(self._process.children)) and not now & before, PATIENCE_SECONDS, "nginx to reload"
        )

    def close(self) -> None:
        self._process.end()
        release(self._reserved)

    def _write_upstreams(self, instances: Sequence[Instance]) -> None:
        servers = [f"server {HOST}:{each.port} max_fails=1 fail_timeout=5s;\n" for each in instances]
        self._folder.joinpath("upstreams.conf").write_text("".join(servers))


class _Process:
    """One process of the service, which PostgreSQL knows by its name."""

    kind: str

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self._environment = environment
        self._reserved = reserve_port(self.kind)
        self._process = self._made()

    @property
    def port(self) -> int:
        return self._reserved.number

    def start(self) -> None:
        self._process.spawn()
        self._process.wait_ready(self._is_ready, PATIENCE_SECONDS)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def stop(self) -> None:
        """SIGTERM; returns when it has ended by itself.

        Raises:
            AssertionError: It was not done in its time, or ended with an error.
        """
        self._process.end(patience_seconds=PATIENCE_SECONDS)
        status = self._process.exit_status
        assert status in (0, -signal.SIGTERM), f"{self.name} ended with {status}:\n{self._process.log_tail()}"

    def log(self) -> str:
        """Everything it has said."""
        return self._reserved.folder.joinpath("server.log").read_text(errors="replace")

    def close(self) -> None:
        self._process.end()
        release(self._reserved)

    def _made(self) -> ServerProcess:
        # The folder is among the words of the command, so that a later run recognises what this one left behind.
        python = [sys.executable, "-X", f"folder={self._reserved.folder}", "-m"]
        named = {"PGAPPNAME": self.name, "COMMUNITY_INSTANCE": self.name, "PYTHONPATH": str(ROOT)}
        return ServerProcess(
            self._reserved.folder, [*python, *self._command()], environ={**self._environment, **named},
            end_signal=signal.SIGTERM,
        )  # fmt: skip

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _is_ready(self) -> bool:
        raise NotImplementedError


class Instance(_Process):
    """An instance of the web service, as deploy/Dockerfile starts it."""

    kind = "instance"

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"

    def become(self, name: str) -> None:
        """Another version, on the same port; the present one must have ended."""
        self.name = name
        self._process = self._made()

    def _command(self) -> list[str]:
        return [
            "uvicorn", "--factory", "examples.community.app:create_app", "--host", HOST, "--port", str(self.port),
            "--no-access-log", "--timeout-graceful-shutdown", str(GRACE_SECONDS),
            "--timeout-keep-alive", str(KEEP_ALIVE_SECONDS),
        ]  # fmt: skip

    def _is_ready(self) -> bool:
        return _answers(f"{self.address}/health/ready")


class Worker(_Process):
    """A process that handles events and serves nobody; its port only names its folder."""

    kind = "worker"

    def _command(self) -> list[str]:
        handlers = "examples.community.handlers:router"
        return [
            "araponga_infra.cli",
            "events",
            "run",
            handlers,
            "--concurrency",
            "10",
            "--grace",
            str(WORKER_GRACE_SECONDS),
        ]

    def _is_ready(self) -> bool:
        return "handling events" in self.log()


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5).is_success
    except httpx.TransportError:
        return False
