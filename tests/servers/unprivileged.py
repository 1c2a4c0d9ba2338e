"""PostgreSQL refuses to run as root: whom to run it as then, and how that user gets at its files."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from .finding import PostgresInstallation

__all__ = ["ServerUser", "is_open_to_everyone", "readable_installation", "server_user", "temporary_root"]

_CANDIDATES = ("postgres", "nobody")
_SHARED_TEMPORARY_FOLDERS = ("/tmp", "/var/tmp")


class _PopenArguments(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class ServerUser:
    """The unprivileged user a server runs as when the tests run as root."""

    uid: int
    gid: int

    def popen_arguments(self) -> _PopenArguments:
        """What `subprocess` needs to run a program as this user, without root's groups."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def give(self, path: Path) -> None:
        """Make this user the owner of a folder and all that is in it."""
        for entry in (path, *path.rglob("*")):
            os.chown(entry, self.uid, self.gid, follow_symlinks=False)


def server_user() -> ServerUser | None:
    """The user for servers that refuse root; None when the tests do not run as root.

    Raises:
        RuntimeError: The tests run as root and the machine has none of the usual unprivileged users.
    """
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in _CANDIDATES:
        if entry := known.get(name):
            return ServerUser(entry.pw_uid, entry.pw_gid)
    raise RuntimeError(
        f"PostgreSQL refuses to run as root, and there is no user named {' or '.join(_CANDIDATES)} to run it as. "
        "Create one of them, or run the tests as an ordinary user."
    )


def is_open_to_everyone(path: Path) -> bool:
    """Whether any user may read the file or list the folder, and enter every folder above it."""
    mode = path.stat().st_mode
    return mode & 0o005 == 0o005 and all(folder.stat().st_mode & 0o001 for folder in path.resolve().parents)


def temporary_root() -> Path:
    """The temporary folder for the tests' servers: the usual one, unless the server's user could not enter it."""
    usual = Path(tempfile.gettempdir()).resolve()
    if server_user() is None or is_open_to_everyone(usual):
        return usual
    return next(Path(folder).resolve() for folder in _SHARED_TEMPORARY_FOLDERS if is_open_to_everyone(Path(folder)))


def readable_installation(
    installation: PostgresInstallation, user: ServerUser | None, copies: Path
) -> PostgresInstallation:
    """The same programs at a place the server's user can read: where they are, or a copy.

    Args:
        installation: The programs that were found, for example in a virtual environment that only root may enter.
        user: Who will run them; None is the present user, who found them and can read them.
        copies: An existing folder, open to that user, that may receive the copy.
    """
    needed = (installation.program("postgres"), *installation.parts)
    if user is None or all(map(is_open_to_everyone, needed)):
        return installation
    root = copies / f"programs-{zlib.crc32(bytes(installation.programs)):08x}"
    if not root.exists():
        for part in installation.parts:
            shutil.copytree(part, root / part.relative_to(installation.root), symlinks=True)
        user.give(root)
    return PostgresInstallation(
        programs=root / installation.programs.relative_to(installation.root),
        root=root,
        parts=tuple(root / part.relative_to(installation.root) for part in installation.parts),
    )
