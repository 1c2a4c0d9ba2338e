"""Every check of the project. `nox` runs the default ones on this Python; `nox -t full` the whole matrix."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "tests", "docs", "examples"]
nox.options.default_venv_backend = "virtualenv"

PROJECT = nox.project.load_toml("pyproject.toml")
EXTRAS = ",".join(PROJECT["project"]["optional-dependencies"])
PYTHONS = nox.project.python_versions(PROJECT)
ROOT = Path(__file__).parent
SIDE_BY_SIDE = ("--numprocesses", "2", "--dist", "loadfile")
"""In two processes, each with servers of its own: the tests mostly wait, for clocks and for servers."""
HOST_VARIABLES = ("ARAPONGA_DATABASE_URL", "ARAPONGA_DATABASE_READONLY_URL", "ARAPONGA_REDIS_URL")


def group(*names: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(PROJECT, *names)


def interpreter(version: str) -> str:
    """A Python of that version: on PATH, or where pyenv keeps it without putting it on PATH."""
    for candidate in _candidates(version):
        if _runs(candidate, version):
            return candidate
    return version


def _candidates(version: str) -> list[str]:
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    on_path = shutil.which(f"python{version}")
    kept = sorted((str(path) for path in pyenv.glob(f"{version}*/bin/python")), reverse=True)
    return [*([on_path] if on_path else []), *kept]


def _runs(candidate: str, version: str) -> bool:
    import subprocess

    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    answer = subprocess.run([candidate, "-c", ask], capture_output=True, text=True, check=False)
    return answer.stdout.strip() == version


def install(session: nox.Session, *groups: str, extras: str = EXTRAS) -> None:
    """The package as a developer has it, with every extra, and the groups of tools a session needs."""
    session.install("-e", f".[{extras}]" if extras else ".", *group(*groups))


def pytest(session: nox.Session, *arguments: str, options: tuple[str, ...] = ()) -> None:
    """Run these tests, or those named behind `--` on the command line."""
    session.run("pytest", *options, *(session.posargs or arguments), env=dict.fromkeys(HOST_VARIABLES))


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and who may import whom."""
    install(session, "lint", extras="")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """mypy strict, pyright strict, and every public name completely typed."""
    install(session, "types", "test", "browser")
    session.run("mypy")
    session.run("mypy", "tests")
    session.run("mypy", "examples")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "araponga_infra", "--ignoreexternal")


@nox.session
def tests(session: nox.Session) -> None:
    """The suites on this Python, against servers that they start by themselves."""
    install(session, "test")
    pytest(
        session,
        "tests",
        "--ignore=tests/docs",
        "--ignore=tests/examples",
        "--ignore=tests/community",
        options=SIDE_BY_SIDE,
    )


@nox.session
def docs(session: nox.Session) -> None:
    """Every block of README and docs/ runs, every link leads somewhere, and the site is built without a warning."""
    install(session, "test", "site")
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})
    pytest(session, "tests/docs", "tests/docs/external/with_mkdocs.py", options=SIDE_BY_SIDE)


@nox.session
def examples(session: nox.Session) -> None:
    """Every example runs, and prints what it should."""
    install(session, "test")
    pytest(session, "tests/examples", "tests/community", "examples", options=SIDE_BY_SIDE)


@nox.session(tags=["full"])
@nox.parametrize("python", [nox.param(interpreter(version), id=version) for version in PYTHONS])
def matrix(session: nox.Session) -> None:
    """The suites and the examples on every supported Python that is installed."""
    install(session, "test")
    pytest(session, "tests", "examples", options=SIDE_BY_SIDE)


@nox.session(tags=["full"])
def wheel(session: nox.Session) -> None:
    """The suites against the built wheel, with `src` out of the way."""
    session.install("build", *group("test"))
    dist = Path(session.create_tmp())
    session.run("python", "-m", "build", "--wheel", "--outdir", str(dist), silent=True)
    [built] = dist.glob("*.whl")
    session.install(f"{built}[{EXTRAS}]")
    where = "import araponga_infra, sys; sys.exit('site-packages' not in araponga_infra.__file__)"
    session.run("python", "-c", where)
    pytest(session, options=SIDE_BY_SIDE)


@nox.session(tags=["full"])
def no_extras(session: nox.Session) -> None:
    """What needs no extra works without any, and what needs one says which."""
    session.install("-e", ".", "pytest", "pytest-timeout")
    pytest(session, "tests/no_extras", "--noconftest")


@nox.session(tags=["full"], python=interpreter(PYTHONS[0]))
def lowest(session: nox.Session) -> None:
    """The suites on the lowest versions that the package allows."""
    lower_bounds = [requirement.replace(">=", "==") for requirement in PROJECT["project"]["dependencies"]]
    pytest_of_their_time = "pytest<9"
    session.install("-e", f".[{EXTRAS}]", *group("test"), *lower_bounds, pytest_of_their_time)
    pytest(session, options=SIDE_BY_SIDE)


@nox.session(tags=["full"])
def build(session: nox.Session) -> None:
    """The wheel and the source distribution, checked."""
    session.install("build", "twine", "check-wheel-contents")
    dist = Path(session.create_tmp()) / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist), silent=True)
    artifacts = sorted(map(str, dist.iterdir()))
    session.run("twine", "check", "--strict", *artifacts)
    session.run("check-wheel-contents", *(name for name in artifacts if name.endswith(".whl")))


@nox.session
def bench(session: nox.Session) -> None:
    """Ratios against the raw library calls and against peers, each measured in one run."""
    install(session, "test", "bench")
    for benchmark in session.posargs or sorted(path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py")):
        session.run("python", "-m", f"benchmarks.{benchmark}", env=dict.fromkeys(HOST_VARIABLES))


@nox.session
def mariadb(session: nox.Session) -> None:
    """The read-only matrix on MariaDB, which Debian's package mariadb-server brings."""
    install(session, "test", "mariadb")
    pytest(session, "tests/sessions/external/with_mariadb.py")


@nox.session
def pgbouncer(session: nox.Session) -> None:
    """Read-only behind PgBouncer in transaction mode, which Debian's package pgbouncer brings."""
    install(session, "test")
    pytest(session, "tests/sessions/external/with_pgbouncer.py")


@nox.session
def browser(session: nox.Session) -> None:
    """The operations page in Chromium, which Debian's packages chromium and chromium-driver bring; with screenshots."""
    install(session, "test", "browser")
    session.env["COMMUNITY_SCREENSHOTS"] = str(Path(session.create_tmp()) / "screenshots")
    pytest(session, "tests/community/external/with_chromium.py")


@nox.session
def multi_instance(session: nox.Session) -> None:
    """Three instances behind nginx (Debian's package of that name) while their servers fail; `-- --write` keeps it."""
    install(session, "test")
    tests = "tests/multi_instance/with_nginx.py"
    session.run("pytest", tests, "--timeout", "900", *session.posargs, env=dict.fromkeys(HOST_VARIABLES))


@nox.session
def deploy(session: nox.Session) -> None:
    """The files under deploy/, each read by the tool that knows its form; nginx is Debian's package of that name."""
    session.install(*group("deploy"))
    pytest(session, "tests/deploy/external/with_tools.py", "--noconftest")


@nox.session
def topologies(session: nox.Session) -> None:
    """The whole contract of the cache on Redis Cluster, failovers by Sentinel, TLS and ACL users."""
    install(session, "test")
    pytest(session, "tests/caching/test_topologies.py", "-m", "soak or not soak")


@nox.session
def soak(session: nox.Session) -> None:
    """The long and heavy tests."""
    install(session, "test")
    pytest(session, "-m", "soak", "--timeout", "3600")
