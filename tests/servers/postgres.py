"""A PostgreSQL server for the tests, and fresh databases on it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote
from uuid import uuid4

from .finding import PostgresInstallation, find_postgres
from .processes import ServerProcess, ServerStartError
from .run_folder import ReservedPort, copies_folder, release, reserve_port
from .unprivileged import readable_installation, server_user

__all__ = ["PASSWORD", "PASSWORD_USER", "PostgresDatabase", "PostgresServer"]

SUPERUSER = "araponga"
DATABASE = "araponga"
PASSWORD_USER = "araponga_password"
PASSWORD = "correct horse/battery@staple"

HOST = "127.0.0.1"
START_TIMEOUT_SECONDS = 60.0
_SHMCTL_REMOVE = 0

# Nothing is synced: the tests kill processes, never the operating system, and what a process has written stays in the
# system's page cache. Pages are still logged in full, because SIGKILL can tear a page in two.
_SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
shared_buffers = 32MB
# As files in the data folder, which go with it, also after SIGKILL.
dynamic_shared_memory_type = mmap
fsync = off
max_prepared_transactions = 20
wal_level = replica
max_wal_senders = 10
wal_keep_size = 256MB
max_wal_size = 512MB
hot_standby = on
wal_retrieve_retry_interval = 100ms
# Vacuum at a time of its own choosing conflicts with queries on the standby.
autovacuum = off
jit = off
timezone = UTC
log_timezone = UTC
log_line_prefix = '%m [%p] '
"""

_ACCESS = f"""
host all {PASSWORD_USER} {HOST}/32 scram-sha-256
host all all {HOST}/32 trust
host replication all {HOST}/32 trust
"""


class PostgresServer:
    """A PostgreSQL server on a free loopback port, with a superuser ``araponga`` that needs no password.

    Start it with `create`; end it, and remove its data, with `close` or by using it as a context manager. Every wait
    is bounded and ends in an error that carries the end of the server's log.
    """

    def __init__(self, installation: PostgresInstallation) -> None:
        """For `create` only: prepares the folder, starts nothing."""
        self._user = server_user()
        self._reserved: ReservedPort = reserve_port("postgres")
        self._found = installation
        self._programs = readable_installation(installation, self._user, copies_folder())
        self._data = self._reserved.folder / "data"
        self._altered_settings = self._data / "postgresql.auto.conf"
        self._process = ServerProcess(
            self._reserved.folder,
            [str(self._programs.program("postgres")), "-D", str(self._data)],
            environ=_environment(),
            user=self._user,
            end_signal=signal.SIGQUIT,
        )

    @classmethod
    def create(cls, installation: PostgresInstallation | None = None) -> Self:
        """Initialise and start a primary.

        Args:
            installation: The programs to use; by default those that `find_postgres` finds.

        Raises:
            ServerNotFoundError: No PostgreSQL is installed.
            ServerStartError: The server did not come up.
        """
        server = cls(installation or find_postgres())
        with server._closed_on_error():
            server._initialise()
        return server

    @property
    def port(self) -> int:
        """The loopback port, the same over restarts."""
        return self._reserved.number

    @property
    def installation(self) -> PostgresInstallation:
        """The programs it was created with."""
        return self._found

    @property
    def is_running(self) -> bool:
        """Whether the process lives; a paused server runs."""
        return self._process.pid is not None

    @property
    def is_paused(self) -> bool:
        """Whether `pause` stopped it."""
        return self._process.is_paused

    @property
    def is_in_recovery(self) -> bool:
        """Whether it is a standby that was not promoted."""
        return bool(self.execute("SELECT pg_is_in_recovery()")[0][0])

    def url(
        self,
        driver: str | None = None,
        *,
        database: str = DATABASE,
        host: str = HOST,
        port: int | None = None,
        with_password: bool = False,
    ) -> str:
        """A database URL.

        Args:
            driver: The SQLAlchemy driver, such as ``psycopg`` or ``asyncpg``; None leaves it out.
            database: Which database.
            host: Another host, for a proxy.
            port: Another port, for a proxy.
            with_password: As the superuser that logs in by password (`PASSWORD_USER`, `PASSWORD`).
        """
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        user = f"{PASSWORD_USER}:{quote(PASSWORD, safe='')}" if with_password else SUPERUSER
        return f"{scheme}://{user}@{host}:{port or self.port}/{database}"

    def execute(
        self, statement: str, parameters: Sequence[object] = (), *, database: str = DATABASE
    ) -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own, outside a transaction; the rows, if it returns any."""
        # Here, so that the tests that need no server run without the driver.
        import psycopg

        with psycopg.connect(self.url(database=database), autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start it, and wait until it takes connections; nothing happens when it runs.

        Raises:
            ServerStartError: It ended, or did not serve within 60 seconds.
        """
        if not self.is_running:
            self._process.spawn()
        self._process.wait_ready(self._is_ready, START_TIMEOUT_SECONDS)

    def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back; killed if that takes longer than 10 seconds."""
        self._process.end(signal.SIGINT)

    def restart(self) -> None:
        """`stop`, then `start`."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """SIGKILL the server and all its children; returns when none is left and it can be started again."""
        self._process.kill()
        _forget_killed_server(self._data)

    def pause(self) -> None:
        """SIGSTOP the server and all its children: connections stay open, and everything on them hangs."""
        self._process.pause()

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        self._process.resume()

    def create_database(self, name: str) -> PostgresDatabase:
        """Create an empty database."""
        self._execute_named("CREATE DATABASE {}", name)
        return PostgresDatabase(self, name)

    def drop_database(self, name: str) -> None:
        """Drop a database with its connections and prepared transactions, if it exists."""
        # They would block DROP DATABASE, and only a connection to the same database can end them.
        for (transaction,) in self.execute("SELECT gid FROM pg_prepared_xacts WHERE database = %s", [name]):
            self._execute_named("ROLLBACK PREPARED {}", transaction, database=name, literal=True)
        self._execute_named("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    @contextmanager
    def temporary_database(self) -> Iterator[PostgresDatabase]:
        """A fresh database that is dropped at the end, also when the server was paused or killed meanwhile."""
        database = self.create_database(f"test_{uuid4().hex}")
        try:
            yield database
        finally:
            self.ensure_healthy()
            self.drop_database(database.name)

    def ensure_healthy(self) -> None:
        """Resume it, start it and drop what ALTER SYSTEM changed, whatever a test has done to it."""
        self.resume()
        if self._has_altered_settings():
            # Not by ALTER SYSTEM RESET: a setting may keep the server from starting.
            self.stop()
            self._altered_settings.write_text("")
        self.start()

    def close(self) -> None:
        """End it and remove its data; safe to call twice."""
        self._process.end()
        if self._reserved.folder.exists():
            release(self._reserved)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _initialise(self) -> None:
        self._prepare_folder()
        self._run(
            "initdb", "--no-sync", "--no-instructions", f"--username={SUPERUSER}", "--auth=trust", "--encoding=UTF8",
            "--locale=C", f"--pgdata={self._data}",
        )  # fmt: skip
        self._configure(f"port = {self.port}")
        self._data.joinpath("pg_hba.conf").write_text(_ACCESS)
        self.start()
        self.execute(f"CREATE DATABASE {DATABASE}", database="postgres")
        self.execute(f"CREATE ROLE {PASSWORD_USER} LOGIN SUPERUSER PASSWORD '{PASSWORD}'")

    def _prepare_folder(self) -> None:
        self._data.mkdir(mode=0o700)
        if self._user:
            self._user.give(self._data)

    def _configure(self, *lines: str) -> None:
        with self._data.joinpath("postgresql.conf").open("a") as configuration:
            configuration.write("\n".join((_SETTINGS, *lines, "")))

    def _run(self, program: str, *arguments: str) -> None:
        result = subprocess.run(
            [str(self._programs.program(program)), *arguments],
            capture_output=True,
            text=True,
            cwd=self._reserved.folder,
            env=_environment(),
            **(self._user.popen_arguments() if self._user else {}),
        )
        if result.returncode:
            raise ServerStartError(f"{program} ended with {result.returncode}:\n{result.stdout}{result.stderr}")

    def _is_ready(self) -> bool:
        import psycopg

        # The folder is compared because, while this server still tries, another one could sit on the port.
        with suppress(psycopg.OperationalError):
            return self.execute("SHOW data_directory", database="postgres") == [(str(self._data),)]
        return False

    def _has_altered_settings(self) -> bool:
        lines = self._altered_settings.read_text().splitlines()
        return any(line and not line.startswith("#") for line in lines)

    def _execute_named(self, statement: str, name: str, *, database: str = "postgres", literal: bool = False) -> None:
        from psycopg import sql

        quoted = sql.Literal(name) if literal else sql.Identifier(name)
        self.execute(sql.SQL(statement).format(quoted).as_string(), database=database)


@dataclass(frozen=True, slots=True)
class PostgresDatabase:
    """One database on a server."""

    server: PostgresServer
    name: str

    def url(
        self, driver: str | None = None, *, host: str = HOST, port: int | None = None, with_password: bool = False
    ) -> str:
        """Its URL; see `PostgresServer.url`."""
        return self.server.url(driver, database=self.name, host=host, port=port, with_password=with_password)

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run one statement in it, outside a transaction."""
        return self.server.execute(statement, parameters, database=self.name)


def _environment() -> dict[str, str]:
    """Without PGPORT and the like, which would change what the programs do."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return inherited | {"LC_ALL": "C"}


def _forget_killed_server(data: Path) -> None:
    """Remove the lock file and the small System V memory segment that a killed server leaves behind.

    A restart would recycle the segment, but a server that is never started again would leave it until the next boot;
    and a lock file whose pid was handed out again would keep the server from starting.
    """
    lock = data / "postmaster.pid"
    with suppress(FileNotFoundError):
        lines = lock.read_text().splitlines()
        if len(lines) >= 7 and len(words := lines[6].split()) == 2:
            ctypes.CDLL(None).shmctl(int(words[1]), _SHMCTL_REMOVE, None)
        lock.unlink()
