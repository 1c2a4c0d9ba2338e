"""What read-only sessions and replicas cost next to a plain session, and next to advanced-alchemy's routing.

Run as `python -m benchmarks.sessions`; `--write` keeps the result in docs/benchmarks/sessions.*. Every figure comes
from one run, by the wall clock: in each of many short rounds all modes take turns, each round begins with another mode,
garbage is collected before each turn, and a figure is the mean of the quickest tenth of its rounds, so that what else
the machine does falls out.
"""

from __future__ import annotations

import gc
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
from sqlalchemy import create_engine, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from araponga_infra import ReadOnlySessionFactory, ReplicaSet
from tests.servers import PostgresCluster, PostgresServer

ROUNDS, LONG_ROUNDS = 600, 60
SECONDS = 0.005
WARM_UP = 5
ROWS = 10_000
ONE = text("SELECT 1")
Work = Callable[[], object]
Results = dict[str, dict[str, dict[str, float]]]


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


def seconds_of(work: Work, calls: int) -> float:
    """Seconds of one call. Rows that were loaded leave garbage, which is not to be collected at the next one's cost."""
    gc.collect()
    started = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - started) / calls


def compare(modes: dict[str, Work], *, rounds: int = ROUNDS) -> dict[str, dict[str, float]]:
    """The first mode is what the others are compared with."""
    names = list(modes)
    for work in modes.values():
        seconds_of(work, WARM_UP)
    gc.freeze()
    calls = max(1, round(SECONDS / max(seconds_of(work, WARM_UP) for work in modes.values())))
    seen: dict[str, list[float]] = {name: [] for name in modes}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            seen[name].append(seconds_of(modes[name], calls))
    gc.unfreeze()
    return {name: _figures(seen[names[0]], taken) for name, taken in seen.items()}


def _figures(plain: list[float], taken: list[float]) -> dict[str, float]:
    ratios = sorted(one / other for one, other in zip(plain, taken, strict=True))
    return {
        "microseconds": _quickest(taken) * 1e6,
        "speed": _quickest(plain) / _quickest(taken),
        "median_of_ratios": statistics.median(ratios),
    }


def _quickest(taken: list[float]) -> float:
    return statistics.mean(sorted(taken)[: len(taken) // 10])


@contextmanager
def sessions(url: str) -> Iterator[dict[str, Callable[[], Session]]]:
    engine, shared = create_engine(url), create_engine(url)
    with ReadOnlySessionFactory(url) as own, ReadOnlySessionFactory(shared) as guarded:
        yield {"plain session": sessionmaker(engine), "read-only, by URL": own, "read-only, host's engine": guarded}
    engine.dispose()
    shared.dispose()


def on_one_server(url: str) -> Results:
    works = {
        "get by key": (get_by_key, ROUNDS),
        f"load {ROWS:,} rows": (load_rows, LONG_ROUNDS),
        "session creation": (create_only, ROUNDS),
    }
    with sessions(url) as makers:
        return {
            title: compare({name: work(make) for name, make in makers.items()}, rounds=rounds)
            for title, (work, rounds) in works.items()
        }


def on_the_pair(primary: str, standby: str) -> dict[str, dict[str, float]]:
    plain = create_engine(standby)
    routed = RoutingSyncSessionMaker(RoutingConfig(primary_connection_string=primary, read_replicas=[standby]))
    with ReplicaSet(primary, [standby], max_wait=5) as replicas:
        with replicas.write.begin() as session:
            session.execute(update(Post).where(Post.id == 77).values(body="written"))
        token = replicas.write_token()

        def read(make: Callable[[], object]) -> Work:
            def work() -> None:
                with make() as session:  # type: ignore[attr-defined]
                    session.get_one(Post, 77)

            return work

        def one_more_round_trip() -> None:
            with Session(plain) as session:
                session.execute(ONE)
                session.get_one(Post, 77)

        figures = compare(
            {
                "plain session on the standby": read(lambda: Session(plain)),
                "replicas.read()": read(replicas.read),
                "replicas.read(after=token)": read(lambda: replicas.read(after=token)),
                "advanced-alchemy routing": read(routed),
                "plain session and one more round trip": one_more_round_trip,
            }
        )
    routed.close_all()
    plain.dispose()
    return figures


def table(figures: dict[str, dict[str, float]]) -> list[str]:
    lines = ["| mode | us | speed, plain = 1 | median of the rounds' ratios |", "|-|-:|-:|-:|"]
    return lines + [
        f"| {name} | {row['microseconds']:,.1f} | {row['speed']:.2f} | {row['median_of_ratios']:.2f} |"
        for name, row in figures.items()
    ]


def report(results: Results) -> str:
    tables = [line for title, figures in results.items() for line in (f"\n## {title}\n", *table(figures))]
    return (
        "# What read-only sessions and replicas cost\n\n"
        f"Python {platform.python_version()}, SQLAlchemy {sqlalchemy.__version__}, psycopg 3, {platform.machine()}, "
        "PostgreSQL over loopback; one run of `python -m benchmarks.sessions --write`, by the wall clock.\n\n"
        "In each round all modes take turns, and each round begins with another one. Times are the mean of the "
        f"quickest tenth of {ROUNDS} short rounds ({LONG_ROUNDS} of loading), in which the machine did little else. "
        "Speed is the ratio to the plain session of the same run: 0.90 is 10 % slower. The median of the ratios round "
        "by round, which has the rest of the machine in it, stands beside it.\n\n"
        "![speed next to a plain session](sessions.svg)\n" + "\n".join(tables) + "\n"
    )


def plot(results: Results) -> str:
    """A bar per mode, as an SVG that needs no library."""
    bar, left, width = 22, 300, 300
    drawn: list[str] = []
    for title, figures in results.items():
        top = len(drawn) * bar
        drawn.append(f'<text x="8" y="{top + 16}" font-weight="bold">{title}</text>')
        for name, row in figures.items():
            top = len(drawn) * bar
            end = left + row["speed"] * width
            drawn.append(
                f'<text x="{left - 8}" y="{top + 16}" text-anchor="end">{name}</text>'
                f'<rect x="{left}" y="{top + 3}" width="{end - left:.0f}" height="16" fill="#4a7c59"/>'
                f'<text x="{end + 6:.0f}" y="{top + 16}">{row["speed"]:.2f}</text>'
            )
    size = f'width="{left + width + 90}" height="{len(drawn) * bar + 8}"'
    style = 'font-family="sans-serif" font-size="12"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(drawn)}</svg>\n'


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
    page = report(results)
    print(page)
    if "--write" in sys.argv:
        folder = Path(__file__).parents[1] / "docs" / "benchmarks"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sessions.md").write_text(page, encoding="utf-8")
        (folder / "sessions.svg").write_text(plot(results), encoding="utf-8")
        (folder / "sessions.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
