"""What read-only sessions and replicas cost next to a plain session, and next to advanced-alchemy's routing.

Run as `python -m benchmarks.sessions`; `--write` keeps the result in docs/benchmarks/sessions.md. Every figure comes
from one run: in each round all modes take turns, and a figure is the mean of the quickest fifth of its rounds, so that
what else the machine does falls out.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import sqlalchemy
from advanced_alchemy.config.routing import RoutingConfig
from advanced_alchemy.routing import RoutingSyncSessionMaker
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from araponga_infra import ReadOnlySessionFactory, ReplicaSet
from tests.servers import PostgresCluster, PostgresServer

ROUNDS = 30
SECONDS = 0.08
ROWS = 10_000
Work = Callable[[], object]


class Base(DeclarativeBase): ...


class Post(Base):
    __tablename__ = "post"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    body: Mapped[str]


def prepare(url: str) -> None:
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all(Post(id=number, title=f"title {number}", body="b" * 40) for number in range(1, ROWS + 1))
    engine.dispose()


def get_by_key(make: Callable[[], Session]) -> Work:
    def work() -> None:
        with make() as session:
            session.get_one(Post, 77)

    return work


def load_rows(make: Callable[[], Session]) -> Work:
    def work() -> None:
        with make() as session:
            session.scalars(select(Post)).all()

    return work


def create_only(make: Callable[[], Session]) -> Work:
    def work() -> None:
        with make():
            pass

    return work


def seconds_of(work: Work) -> float:
    """Seconds of one call, over enough calls to see it."""
    done, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < SECONDS:
        work()
        done += 1
    return elapsed / done


def compare(modes: dict[str, Work]) -> dict[str, dict[str, float]]:
    """The first mode is what the others are compared with."""
    for work in modes.values():
        work()
    seen: dict[str, list[float]] = {name: [] for name in modes}
    names = list(modes)
    for number in range(ROUNDS):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            seen[name].append(seconds_of(modes[name]))
    best = {name: statistics.mean(sorted(figures)[: ROUNDS // 5]) for name, figures in seen.items()}
    plain = best[names[0]]
    return {name: {"microseconds": figure * 1e6, "speed": plain / figure} for name, figure in best.items()}


@contextmanager
def sessions(url: str) -> Iterator[dict[str, Callable[[], Session]]]:
    engine, shared = create_engine(url), create_engine(url)
    with ReadOnlySessionFactory(url) as own, ReadOnlySessionFactory(shared) as guarded:
        yield {"plain session": sessionmaker(engine), "read-only, by URL": own, "read-only, host's engine": guarded}
    engine.dispose()
    shared.dispose()


def on_one_server(url: str) -> dict[str, dict[str, dict[str, float]]]:
    works = {"get by key": get_by_key, f"load {ROWS:,} rows": load_rows, "session creation": create_only}
    with sessions(url) as makers:
        return {
            title: compare({name: work(make) for name, make in makers.items()})
            for title, work in works.items()
        }  # fmt: skip


def on_the_pair(primary: str, standby: str) -> dict[str, dict[str, float]]:
    plain = create_engine(standby)
    routed = RoutingSyncSessionMaker(RoutingConfig(primary_connection_string=primary, read_replicas=[standby]))
    with ReplicaSet(primary, [standby], max_wait=5) as replicas:
        token = replicas.write_token()

        def read(make: Callable[[], object]) -> Work:
            def work() -> None:
                with make() as session:  # type: ignore[attr-defined]
                    session.get_one(Post, 77)

            return work

        def unseen_token() -> None:
            with replicas.read(after=replicas.write_token()) as session:
                session.get_one(Post, 77)

        def two_round_trips() -> None:
            replicas.write_token()
            with replicas.read() as session:
                session.get_one(Post, 77)

        figures = compare(
            {
                "plain session on the standby": read(lambda: Session(plain)),
                "replicas.read()": read(replicas.read),
                "replicas.read(after=token)": read(lambda: replicas.read(after=token)),
                "advanced-alchemy routing": read(routed),
                "write_token(), then read()": two_round_trips,
                "write_token(), then read(after=it)": unseen_token,
            }
        )
    routed.close_all()
    plain.dispose()
    return figures


def table(figures: dict[str, dict[str, float]]) -> list[str]:
    lines = ["| mode | us | speed, plain = 1 |", "|-|-:|-:|"]
    return lines + [f"| {name} | {row['microseconds']:,.1f} | {row['speed']:.2f} |" for name, row in figures.items()]


def main() -> None:
    with ExitStack() as opened:
        temporary = opened.enter_context(tempfile.TemporaryDirectory())
        server = opened.enter_context(PostgresServer.create())
        cluster = PostgresCluster.create(server)
        opened.enter_context(cluster.standby)
        sqlite = f"sqlite:///{temporary}/bench.db"
        database = opened.enter_context(server.temporary_database())
        postgresql = database.url("psycopg")
        prepare(sqlite)
        prepare(postgresql)
        cluster.wait_for_catch_up()
        standby = postgresql.replace(f":{server.port}/", f":{cluster.standby.port}/")
        results = {
            f"{name}: {title}": figures
            for name, url in (("SQLite", sqlite), ("PostgreSQL", postgresql))
            for title, figures in on_one_server(url).items()
        }
        results["Primary and standby: get by key"] = on_the_pair(postgresql, standby)
    parts = [line for title, figures in results.items() for line in (f"\n## {title}\n", *table(figures))]
    page = (
        "# What read-only sessions and replicas cost\n\n"
        f"Python {platform.python_version()}, SQLAlchemy {sqlalchemy.__version__}, psycopg 3, {platform.machine()}; "
        f"the quickest fifth of {ROUNDS} rounds. Speed is the ratio to the plain session of the same run: 0.90 is 10 % "
        "slower. "
        "`python -m benchmarks.sessions --write` writes this page.\n" + "\n".join(parts) + "\n"
    )
    print(page)
    if "--write" in sys.argv:
        folder = Path(__file__).parents[1] / "docs" / "benchmarks"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sessions.md").write_text(page, encoding="utf-8")
        (folder / "sessions.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
