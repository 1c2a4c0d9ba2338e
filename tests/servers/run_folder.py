"""The temporary folders of the tests' servers, and the clean-up after a run that could not clean up itself.

Layout, below the system's temporary folder::

    araponga-tests-<uid>/            one per user
      lock                           held while a session opens, a port is reserved, or dead sessions are reaped
      session-<pid>-xxxx/            one per test process, which holds the kernel's lock on `owner` as long as it lives
        owner
        postgres-<port>/             one per server: its data, log and process record; reserves the port as well
        redis-<port>/
        programs-xxxx/               a copy of server programs, where the server's user cannot read the installed ones

A session whose `owner` can be locked by someone else is dead: its servers are ended by the recorded process id, and
its folder is removed. The kernel's lock needs no guess about reused process ids.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import random
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .processes import end_recorded
from .unprivileged import temporary_root

__all__ = ["ReservedPort", "copies_folder", "reap_abandoned", "release", "reserve_port"]

# Below the range the kernel hands to outgoing connections (Linux 32768, macOS 49152): no client can sit on the port
# of a server that a test has killed and is about to start again. A Redis of a cluster also listens 10,000 above.
_PORTS = range(15_000, 22_768)
_ENTER_ONLY = 0o711


@dataclass(frozen=True, slots=True)
class ReservedPort:
    """A free loopback port and the folder of the server that will listen on it."""

    number: int
    folder: Path


@dataclass(frozen=True, slots=True)
class _Session:
    folder: Path
    owner: int


_present: _Session | None = None
_present_lock: int | None = None


def reserve_port(kind: str) -> ReservedPort:
    """Reserve a free loopback port, and create the folder for the server that will use it."""
    session = _open_session()
    with _locked(_root()):
        number = next(filter(_is_free, random.sample(_PORTS, len(_PORTS))))
        folder = session.folder / f"{kind}-{number}"
        folder.mkdir()
        folder.chmod(_ENTER_ONLY)
    return ReservedPort(number, folder)


def release(reserved: ReservedPort) -> None:
    """Give back the port, and remove the server's folder. The server must have ended."""
    shutil.rmtree(reserved.folder)


def copies_folder() -> Path:
    """The folder for copies of server programs, removed with the session."""
    return _open_session().folder


def reap_abandoned() -> None:
    """End the servers, and remove the folders, of test processes that are dead."""
    root = _root()
    with _locked(root):
        for session in root.glob("session-*"):
            if _is_abandoned(session):
                _end_session(session)


def _open_session() -> _Session:
    """The session of this process; a forked child opens one of its own."""
    global _present, _present_lock
    if _present is None or _present.owner != os.getpid():
        root = _root()
        with _locked(root):
            folder = Path(tempfile.mkdtemp(prefix=f"session-{os.getpid()}-", dir=root))
            folder.chmod(_ENTER_ONLY)
            _present_lock = _try_lock(folder / "owner")
        _present = _Session(folder, os.getpid())
        atexit.register(_close_session, _present)
    return _present


def _close_session(session: _Session) -> None:
    # A forked child runs the parent's exit handlers too; the servers are not its own.
    if session.owner == os.getpid():
        _end_session(session.folder)


def _end_session(folder: Path) -> None:
    for server in filter(Path.is_dir, folder.iterdir()):
        end_recorded(server)
    shutil.rmtree(folder, ignore_errors=True)


def _forget_lock_in_child() -> None:
    """A forked child that outlives the test process must not make it look alive."""
    global _present_lock
    if _present_lock is not None:
        os.close(_present_lock)
        _present_lock = None


os.register_at_fork(after_in_child=_forget_lock_in_child)


def _root() -> Path:
    root = temporary_root() / f"araponga-tests-{os.getuid()}"
    with suppress(FileExistsError):
        root.mkdir()
    if root.is_symlink() or root.stat().st_uid != os.getuid():
        raise RuntimeError(f"{root} belongs to somebody else: remove it, or set TMPDIR to a folder of your own.")
    root.chmod(_ENTER_ONLY)
    return root


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _try_lock(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _is_abandoned(session: Path) -> bool:
    lock = _try_lock(session / "owner")
    if lock is not None:
        os.close(lock)
    return lock is not None


def _is_free(number: int) -> bool:
    if any(_root().glob(f"session-*/*-{number}")):
        return False
    with socket.socket() as probe:
        # Else connections of an earlier server that wait out their end would make the port look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError:
            return False
    return True
