"""A Redis server for the tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .finding import find_redis_server
from .processes import ServerProcess
from .run_folder import release, reserve_port

__all__ = ["RedisOptions", "RedisServer"]

_HOST = "127.0.0.1"
_START_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """How a Redis server is set up.

    Attributes:
        password: What clients must give; None asks for nothing.
        maxmemory: The memory limit, such as ``"8mb"``; None is unlimited.
        maxmemory_policy: What happens at the limit.
        persistent: Log and sync every write, so that it survives `kill`; otherwise a restart is empty.
        replica_of: The server to replicate.
        settings: Further lines of the configuration file.
    """

    password: str | None = None
    maxmemory: str | None = None
    maxmemory_policy: str = "noeviction"
    persistent: bool = False
    replica_of: RedisServer | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    def configuration(self) -> dict[str, str]:
        """The lines of the configuration file that these options stand for."""
        lines = {"maxmemory-policy": self.maxmemory_policy, "appendonly": "yes" if self.persistent else "no"}
        if self.password is not None:
            lines["requirepass"] = _quoted(self.password)
        if self.maxmemory is not None:
            lines["maxmemory"] = self.maxmemory
        if self.replica_of is not None:
            lines |= self.replica_of.replication_lines()
        return {**lines, **self.settings}


class RedisServer:
    """A Redis server on a free loopback port.

    Start it with `create`; end it, and remove its data, with `close` or by using it as a context manager. Every wait
    is bounded and ends in an error that carries the end of the server's log.
    """

    def __init__(self, options: RedisOptions) -> None:
        """For `create` only: prepares the folder, starts nothing."""
        program = find_redis_server()
        self.options = options
        self._reserved = reserve_port("redis")
        self._configuration_file = self._reserved.folder / "redis.conf"
        self._initial_configuration: dict[str, str] = {}
        self._process = ServerProcess(
            self._reserved.folder,
            [str(program), str(self._configuration_file)],
            environ=os.environ,
            end_signal=signal.SIGTERM,
        )

    @classmethod
    def create(cls, options: RedisOptions | None = None) -> Self:
        """Start a server.

        Raises:
            ServerNotFoundError: No Redis is installed.
            ServerStartError: The server did not come up.
        """
        server = cls(options or RedisOptions())
        try:
            server.start()
        except BaseException:
            server.close()
            raise
        return server

    @property
    def port(self) -> int:
        """The loopback port, the same over restarts."""
        return self._reserved.number

    @property
    def is_running(self) -> bool:
        """Whether the process lives; a paused server runs."""
        return self._process.pid is not None

    @property
    def is_paused(self) -> bool:
        """Whether `pause` stopped it."""
        return self._process.is_paused

    def url(self, db: int = 0, *, host: str = _HOST, port: int | None = None) -> str:
        """A Redis URL, with the password if there is one.

        Args:
            db: The database number.
            host: Another host, for a proxy.
            port: Another port, for a proxy.
        """
        password = f":{quote(self.options.password, safe='')}@" if self.options.password is not None else ""
        return f"redis://{password}{host}:{port or self.port}/{db}"

    def execute(self, *command: str | bytes | float) -> Any:
        """Run one command on a connection of its own, without retries."""
        with redis.Redis(
            host=_HOST,
            port=self.port,
            password=self.options.password,
            socket_timeout=10,
            decode_responses=True,
            retry=Retry(NoBackoff(), 0),
            single_connection_client=True,
        ) as client:
            return client.execute_command(*command)

    def start(self) -> None:
        """Start it, and wait until it answers; nothing happens when it runs.

        Raises:
            ServerStartError: It ended, or did not serve within 30 seconds.
        """
        if not self.is_running:
            self._write_configuration()
            self._process.spawn()
        self._process.wait_ready(self._is_ready, _START_TIMEOUT_SECONDS)
        self._initial_configuration = self._initial_configuration or self._present_configuration()

    def stop(self) -> None:
        """Orderly shutdown; killed if that takes longer than 10 seconds."""
        self._process.end()

    def restart(self) -> None:
        """`stop`, then `start`: empty, unless it is persistent."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """SIGKILL; returns when it is gone and can be started again."""
        self._process.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, and everything on them hangs."""
        self._process.pause()

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        self._process.resume()

    def flush(self) -> None:
        """Remove every key of every database."""
        self.execute("FLUSHALL")

    def ensure_healthy(self) -> None:
        """Resume it, start it, undo CONFIG SET and CLIENT PAUSE, whatever a test has done to it."""
        self.resume()
        self.start()
        self.execute("CLIENT UNPAUSE")
        if self._present_configuration() != self._initial_configuration:
            self.restart()

    def close(self) -> None:
        """End it and remove its data; safe to call twice."""
        self._process.end()
        if self._reserved.folder.exists():
            release(self._reserved)

    def replication_lines(self) -> dict[str, str]:
        """What the configuration of a replica of this server says."""
        lines = {"replicaof": f"{_HOST} {self.port}"}
        return lines if self.options.password is None else lines | {"masterauth": _quoted(self.options.password)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_configuration(self) -> None:
        lines = {
            "bind": _HOST,
            "port": str(self.port),
            "dir": str(self._reserved.folder),
            # The title must keep the path by which an abandoned server is recognised.
            "set-proc-title": "no",
            "save": '""',
            "appendfsync": "always",
            "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": "0",
            **self.options.configuration(),
        }
        self._configuration_file.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))

    def _is_ready(self) -> bool:
        # A process id, because, while this server still tries, another one could sit on the port. BusyLoadingError,
        # a replica that waits for its first copy, is a ConnectionError as well.
        with suppress(redis.ConnectionError, redis.TimeoutError):
            return bool(self.execute("INFO", "server")["process_id"] == self._process.pid)
        return False

    def _present_configuration(self) -> dict[str, str]:
        return dict(self.execute("CONFIG GET", "*"))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
