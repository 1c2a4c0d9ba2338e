"""What it costs to watch queries: a get by key without this package, with nobody watching, and captured.

Run as `python -m benchmarks.queries`; `--write` keeps the result in docs/benchmarks/queries.md. In each round every
mode runs in a process of its own, one after the other. Each figure is that of the best round, the one that was least
disturbed by what else the machine did.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

import sqlalchemy
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from araponga_infra.queries import QueryInspector
from tests.servers import PostgresServer

ROUNDS = 12
SECONDS = 0.4
STATEMENTS_PER_CAPTURE = 20
WEB_STACK = 40
"""Calls between the server and the handler in a usual web application."""

MODES = {
    "plain": "SQLAlchemy alone",
    "attached": "an inspector exists, no capture is open",
    "captured": "captured, 20 statements at a time",
    "captured deep": "captured, below 40 further calls",
}


class Base(DeclarativeBase): ...


class Post(Base):
    __tablename__ = "post"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


def core(engine: Engine) -> Callable[[], object]:
    """SELECT by key on an open connection"""
    connection, statement = engine.connect(), select(Post.id, Post.title).where(Post.id == 1)
    return lambda: connection.execute(statement).one()


def orm(engine: Engine) -> Callable[[], object]:
    """get by key in a session of its own"""

    def get() -> object:
        with Session(engine) as session:
            return session.get_one(Post, 1)

    return get


def per_second(work: Callable[[], object], mode: str, engine: Engine) -> float:
    watch: Callable[[], AbstractContextManager[object]] = nullcontext
    if mode != "plain":
        inspector = QueryInspector(engine)
        watch = inspector.capture if mode.startswith("captured") else nullcontext

    def batch() -> None:
        with watch():
            for _ in range(STATEMENTS_PER_CAPTURE):
                work()

    def below(calls: int) -> None:
        if calls:
            below(calls - 1)
        else:
            batch()

    calls = WEB_STACK if mode.endswith("deep") else 0
    below(calls)
    done, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < SECONDS:
        below(calls)
        done += STATEMENTS_PER_CAPTURE
    return done / elapsed


def child(mode: str, url: str, kind: str) -> None:
    engine = create_engine(url)
    print(per_second({"core": core, "orm": orm}[kind](engine), mode, engine))


def measure(url: str, kind: str) -> dict[str, float]:
    seen: dict[str, list[float]] = {mode: [] for mode in MODES}
    for _ in range(ROUNDS):
        for mode, figures in seen.items():
            command = [sys.executable, "-m", "benchmarks.queries", "--child", mode, url, kind]
            figures.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return {mode: max(figures) for mode, figures in seen.items()}


def prepare(url: str) -> str:
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(Post(id=1, title="Feira"))
    engine.dispose()
    return url


def table(results: dict[str, dict[str, float]]) -> str:
    lines = ["| work | mode | per second | ratio | added |", "|-|-|-:|-:|-:|"]
    for work, figures in results.items():
        plain = figures["plain"]
        for mode, figure in figures.items():
            added = (1 / figure - 1 / plain) * 1e6
            lines.append(f"| {work} | {MODES[mode]} | {figure:,.0f} | {figure / plain:.2f} | {added:+.1f} us |")
    return "\n".join(lines)


def main() -> None:
    with ExitStack() as opened:
        temporary = opened.enter_context(tempfile.TemporaryDirectory())
        server = opened.enter_context(PostgresServer.create())
        database = opened.enter_context(server.temporary_database())
        sqlite = prepare(f"sqlite:///{temporary}/bench.db")
        postgresql = prepare(database.url("psycopg"))
        results = {
            f"{name}, {kind.__doc__}": measure(url, kind.__name__)
            for name, url in (("SQLite", sqlite), ("PostgreSQL", postgresql))
            for kind in (core, orm)
        }
    page = (
        f"# What watching queries costs\n\nPython {platform.python_version()}, SQLAlchemy {sqlalchemy.__version__}, "
        f"{platform.machine()}; best of {ROUNDS} rounds. `python -m benchmarks.queries --write` writes this page.\n\n"
        f"{table(results)}\n"
    )
    print(page)
    if "--write" in sys.argv:
        folder = Path(__file__).parents[1] / "docs" / "benchmarks"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "queries.md").write_text(page, encoding="utf-8")
        (folder / "queries.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main()
