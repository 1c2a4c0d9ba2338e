"""Programs and folders that the server's user cannot read are copied or replaced; others are used as they are."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from . import unprivileged
from .finding import PostgresInstallation
from .unprivileged import ServerUser, is_open_to_everyone, readable_installation, server_user, temporary_root

MYSELF = ServerUser(os.getuid(), os.getgid())


@pytest.fixture
def installation(tmp_path: Path) -> PostgresInstallation:
    programs = tmp_path / "pgsql" / "bin"
    programs.mkdir(parents=True)
    programs.joinpath("postgres").touch(mode=0o755)
    tmp_path.joinpath("pgsql", "lib").mkdir()
    programs.joinpath("postmaster").symlink_to("postgres")
    return PostgresInstallation.around(programs)


def test_a_folder_is_open_only_if_every_folder_above_it_is(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir(mode=0o755)
    tmp_path.chmod(0o700)
    assert not is_open_to_everyone(inner)
    assert is_open_to_everyone(Path("/"))


def test_programs_closed_to_the_user_are_copied_whole_with_their_links(
    installation: PostgresInstallation, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    copies = tmp_path / "copies"
    copies.mkdir()
    copied = readable_installation(installation, MYSELF, copies)

    assert copies in copied.programs.parents
    assert copied.program("postmaster").readlink() == Path("postgres")
    assert copied.programs.parent.joinpath("lib").is_dir()
    assert readable_installation(installation, MYSELF, copies) == copied


def test_programs_are_used_where_they_are_by_the_user_who_found_them(
    installation: PostgresInstallation, tmp_path: Path
) -> None:
    assert readable_installation(installation, None, tmp_path) == installation


def test_only_root_needs_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert server_user() is None
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    user = server_user()
    assert user is not None
    assert user.uid != 0


def test_a_machine_without_an_unprivileged_user_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(unprivileged, "_CANDIDATES", ("no-such-user",))
    with pytest.raises(RuntimeError, match="no user named no-such-user"):
        server_user()


def test_a_temporary_folder_closed_to_the_server_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert temporary_root() == tmp_path
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert is_open_to_everyone(temporary_root())
