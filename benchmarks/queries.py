"""What it costs to watch queries: a get by key without this package, with nobody watching, and captured.

Run as `python -m benchmarks.queries`; `--write` keeps the result in docs/benchmarks/queries.md. All modes take turns in
one process, a few milliseconds each, and a ratio is the median over all rounds of the ratio within a round, so that
what else the machine does falls on all alike.
"""

from __future__ import annotations

import json
import platform
import statistics
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
from benchmarks._bars import bars
from tests.servers import PostgresServer

ROUNDS = 100
BATCHES = 15
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


def slices(engine: Engine, work: Callable[[], object]) -> dict[str, Callable[[], float]]:
    """For each mode, a function that measures a few batches: seconds per statement."""
    capture = QueryInspector(engine).capture

    def measured(watch: Callable[[], AbstractContextManager[object]], *, calls: int, is_attached: bool) -> float:
        engine.dialect._has_events = is_attached
        started = time.perf_counter()
        for _ in range(BATCHES):
            below(calls, watch, work)
        return (time.perf_counter() - started) / BATCHES / STATEMENTS_PER_CAPTURE

    return {
        "plain": lambda: measured(nullcontext, calls=0, is_attached=False),
        "attached": lambda: measured(nullcontext, calls=0, is_attached=True),
        "captured": lambda: measured(capture, calls=0, is_attached=True),
        "captured deep": lambda: measured(capture, calls=WEB_STACK, is_attached=True),
    }


def below(calls: int, watch: Callable[[], AbstractContextManager[object]], work: Callable[[], object]) -> None:
    if calls:
        below(calls - 1, watch, work)
        return
    with watch():
        for _ in range(STATEMENTS_PER_CAPTURE):
            work()


def measure(url: str, kind: Callable[[Engine], Callable[[], object]]) -> dict[str, float]:
    """For each mode the ratio to SQLAlchemy alone; for that one, the seconds per statement."""
    engine = create_engine(url)
    modes = slices(engine, kind(engine))
    rounds = [{mode: run() for mode, run in modes.items()} for _ in range(ROUNDS)]
    ratios = {mode: statistics.median(each["plain"] / each[mode] for each in rounds) for mode in modes}
    return ratios | {"plain": statistics.median(each["plain"] for each in rounds)}


def prepare(url: str) -> str:
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(Post(id=1, title="Feira"))
    engine.dispose()
    return url


def table(results: dict[str, dict[str, float]]) -> str:
    lines = ["| work | mode | ratio | added |", "|-|-|-:|-:|"]
    for work, figures in results.items():
        alone = figures["plain"] * 1e6
        lines.append(f"| {work} | {MODES['plain']} | 1.00 | ({alone:.0f} us) |")
        lines += [
            f"| | {name} | {figures[mode]:.2f} | {alone / figures[mode] - alone:+.1f} us |"
            for mode, name in MODES.items()
            if mode != "plain"
        ]
    return "\n".join(lines)


def added(results: dict[str, dict[str, float]]) -> dict[str, float]:
    """Microseconds that a mode adds to a statement."""
    return {
        f"{work}: {mode}": figures["plain"] * 1e6 * (1 / figures[mode] - 1)
        for work, figures in results.items()
        for mode in MODES
        if mode != "plain"
    }


def main() -> None:
    with ExitStack() as opened:
        temporary = opened.enter_context(tempfile.TemporaryDirectory())
        server = opened.enter_context(PostgresServer.create())
        database = opened.enter_context(server.temporary_database())
        sqlite = prepare(f"sqlite:///{temporary}/bench.db")
        postgresql = prepare(database.url("psycopg"))
        results = {
            f"{name}, {kind.__doc__}": measure(url, kind)
            for name, url in (("SQLite", sqlite), ("PostgreSQL", postgresql))
            for kind in (core, orm)
        }
    page = (
        f"# What watching queries costs\n\nPython {platform.python_version()}, SQLAlchemy {sqlalchemy.__version__}, "
        f"{platform.machine()}; median of {ROUNDS} rounds. `python -m benchmarks.queries --write` writes this page.\n\n"
        f"{table(results)}\n\n![microseconds added to a statement](queries.svg)\n"
    )
    print(page)
    if "--write" in sys.argv:
        folder = Path(__file__).parents[1] / "docs" / "benchmarks"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "queries.md").write_text(page, encoding="utf-8")
        (folder / "queries.svg").write_text(bars(added(results), unit="us"), encoding="utf-8")
        (folder / "queries.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
