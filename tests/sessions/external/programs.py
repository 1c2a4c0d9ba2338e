"""PgBouncer and MariaDB for sessions of their own: from PATH, or where Debian's packages put them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.finding import find_program
from tests.servers.processes import ServerProcess
from tests.servers.run_folder import ReservedPort, release, reserve_port
from tests.servers.unprivileged import server_user

_START_SECONDS = 30.0


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _running(reserved: ReservedPort, command: list[str], end_signal: signal.Signals) -> Iterator[int]:
    user = server_user()
    if user is not None:
        user.give(reserved.folder)
    process = ServerProcess(reserved.folder, command, environ=os.environ, user=user, end_signal=end_signal)
    try:
        process.spawn()
        process.wait_ready(lambda: _accepts(reserved.number), _START_SECONDS)
        yield reserved.number
    finally:
        process.end()
        release(reserved)


@contextmanager
def pgbouncer(server_port: int, *settings: str) -> Iterator[int]:
    """A PgBouncer in transaction mode in front of a server; gives its port."""
    reserved = reserve_port("pgbouncer")
    configuration = reserved.folder / "pgbouncer.ini"
    lines = (
        "[databases]",
        f"* = host=127.0.0.1 port={server_port}",
        "[pgbouncer]",
        "listen_addr = 127.0.0.1",
        f"listen_port = {reserved.number}",
        "unix_socket_dir =",
        "auth_type = any",
        "pool_mode = transaction",
        "default_pool_size = 1",
        "server_reset_query_always = 0",
        *settings,
    )
    configuration.write_text("\n".join(lines).replace("* = ", "* = user=araponga ") + "\n")
    with _running(reserved, [str(find_program("pgbouncer")), str(configuration)], signal.SIGINT) as port:
        yield port


@contextmanager
def mariadb() -> Iterator[str]:
    """A MariaDB with an empty database and a user without a password; gives a URL without its driver."""
    reserved = reserve_port("mariadb")
    data = reserved.folder / "data"
    data.mkdir()
    user = server_user()
    if user is not None:
        user.give(reserved.folder)
    server = str(find_program("mariadbd"))
    shared = Path(server).parents[1] / "share" / "mysql"
    common = [server, "--no-defaults", f"--datadir={data}", f"--tmpdir={reserved.folder}"]
    common += [f"--lc-messages-dir={shared}", f"--character-sets-dir={shared / 'charsets'}"]
    tables = "CREATE DATABASE mysql;\nUSE mysql;\n" + _system_tables(shared)
    arguments = user.popen_arguments() if user is not None else {}
    subprocess.run(
        [*common, "--bootstrap", "--skip-grant-tables"],
        input=tables.encode(),
        check=True,
        capture_output=True,
        timeout=120,
        **arguments,
    )
    listening = [*common, f"--port={reserved.number}", "--bind-address=127.0.0.1", "--skip-grant-tables"]
    command = [*listening, "--skip-networking=0", f"--socket={reserved.folder / 'socket'}"]
    with _running(reserved, command, signal.SIGTERM) as port:
        yield f"root@127.0.0.1:{port}"


def _system_tables(folder: Path) -> str:
    names = ("mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql")
    return "\n".join((folder / name).read_text() for name in names if (folder / name).exists())
