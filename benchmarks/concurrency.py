"""What units of work cost without a conflict and with nothing but conflicts, next to SQLAlchemy and to locking by hand.

Run as `python -m benchmarks.concurrency`; `--write` keeps the result in docs/benchmarks/concurrency.*. Every figure
comes from one run: in each round all modes take turns, and a ratio is the median of the rounds' ratios, so that what
else the machine does falls on all alike.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy
import tenacity
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.pool import StaticPool

from araponga_infra.concurrency import ConcurrencyConflictError, ConcurrencyHelper, RowVersion, VersionedSession
from tests.servers import PostgresServer

WORKERS, EACH, HOT_ROUNDS = 16, 50, 5
CALLS, OVERHEAD_ROUNDS = 200, 100
ROWS, FLUSH_ROUNDS = 500, 40
Work = Callable[[], object]


class Base(DeclarativeBase): ...


class Counter(RowVersion, Base):
    __tablename__ = "counter"
    id: Mapped[int] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(default=0)


class ByHand(Base):
    """SQLAlchemy's own version counter."""

    __tablename__ = "by_hand"
    id: Mapped[int] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(default=0)
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


def increment(session: Session, cls: Any = Counter) -> None:
    session.get_one(cls, 1).count += 1


def nothing(_session: Session) -> None: ...


def seconds(work: Work) -> float:
    """Of the processor: nothing here waits, and other programs shall not be counted."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def rounds_of(modes: dict[str, Work], count: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in modes}
    for number in range(count + 1):
        for name, work in modes.items():
            elapsed = seconds(work)
            if number:
                taken[name].append(elapsed)
    return taken


def embedded() -> Engine:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Counter(id=number) for number in range(1, ROWS + 1)])
        session.add_all([ByHand(id=number) for number in range(1, ROWS + 1)])
        session.commit()
    return engine


def overhead() -> dict[str, float]:
    """Microseconds of `execute` over `with sessionmaker.begin()`, the same work inside."""
    engine = embedded()
    make = sessionmaker(engine)
    helper = ConcurrencyHelper(make)

    def begin(work: Callable[[Session], None]) -> Work:
        def run() -> None:
            for _ in range(CALLS):
                with make.begin() as session:
                    work(session)

        return run

    def execute(work: Callable[[Session], None]) -> Work:
        def run() -> None:
            for _ in range(CALLS):
                helper.execute(work)

        return run

    figures: dict[str, float] = {}
    for name, work in (("an empty unit", nothing), ("read, change, COMMIT", increment)):
        taken = rounds_of({"begin": begin(work), "execute": execute(work)}, OVERHEAD_ROUNDS)
        pairs = zip(taken["execute"], taken["begin"], strict=True)
        figures[name] = statistics.median((ours - theirs) / CALLS * 1e6 for ours, theirs in pairs)
        figures[f"{name}: begin()"] = statistics.median(taken["begin"]) / CALLS * 1e6
    engine.dispose()
    return figures


def flushes() -> dict[str, float]:
    """A flush of 500 changed rows as a ratio to SQLAlchemy's own versioned flush; above 1 is faster."""
    engine = embedded()
    helper = ConcurrencyHelper(sessionmaker(engine))

    def change(session: Session, cls: Any) -> None:
        rows = session.scalars(select(cls)).all()
        for row in rows:
            row.count += 1
        flushed.append(seconds(session.flush))

    flushed: list[float] = []

    def plain(cls: Any, kind: type[Session]) -> Work:
        def run() -> None:
            with kind(engine) as session, session.begin():
                change(session, cls)

        return run

    modes: dict[str, Work] = {
        "SQLAlchemy's version_id_col": plain(ByHand, Session),
        "RowVersion, Session": plain(Counter, Session),
        "RowVersion, VersionedSession": plain(Counter, VersionedSession),
        "RowVersion, execute": lambda: helper.execute(change, Counter),
    }
    taken: dict[str, list[float]] = {name: [] for name in modes}
    for _ in range(FLUSH_ROUNDS):
        for name, work in modes.items():
            work()
            taken[name].append(flushed[-1])
    engine.dispose()
    own = taken["SQLAlchemy's version_id_col"]
    return {name: statistics.median(a / b for a, b in zip(own, times, strict=True)) for name, times in taken.items()}


@dataclass
class HotRow:
    """16 threads x 50 increments of one row."""

    per_second: list[float]
    given_up: int = 0
    most_attempts: int = 0


def hot_row(url: str) -> dict[str, HotRow]:
    engine = create_engine(url, pool_size=WORKERS)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Counter(id=1), ByHand(id=1)])
        session.commit()
    make = sessionmaker(engine)
    results: dict[str, HotRow] = {}

    def for_update() -> int:
        with make.begin() as session:
            session.get_one(ByHand, 1, with_for_update=True).count += 1
        return 1

    def by_tenacity() -> int:
        attempts = 0
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(StaleDataError),
            wait=tenacity.wait_random_exponential(multiplier=0.002, max=0.1),
            stop=tenacity.stop_after_attempt(100),
            reraise=True,
        ):
            attempts += 1
            with attempt, make.begin() as session:
                increment(session, ByHand)
        return attempts

    def executing(engine: Engine, **options: Any) -> Callable[[], int]:
        helper = ConcurrencyHelper(sessionmaker(engine), **options)

        def run() -> int:
            attempts: list[int] = []

            def work(session: Session) -> None:
                attempts.append(1)
                increment(session)

            helper.execute(work)
            return len(attempts)

        return run

    repeatable, serializable = (
        engine.execution_options(isolation_level=level) for level in ("REPEATABLE READ", "SERIALIZABLE")
    )
    modes: dict[str, Callable[[], int]] = {
        "SELECT FOR UPDATE by hand": for_update,
        "execute, as it comes": executing(engine),
        "tenacity around begin(), up to 100 attempts": by_tenacity,
        "execute, lock_after=2": executing(engine, lock_after=2, max_attempts=4),
        "execute, never locking, up to 100 attempts": executing(engine, lock_after=None, max_attempts=100),
        "execute, REPEATABLE READ": executing(repeatable),
        "execute, REPEATABLE READ, up to 100 attempts": executing(repeatable, max_attempts=100),
        "execute, SERIALIZABLE, up to 100 attempts": executing(serializable, max_attempts=100),
    }
    with ThreadPoolExecutor(WORKERS) as pool:
        for number in range(HOT_ROUNDS + 1):
            for name, once in modes.items():
                result = results.setdefault(name, HotRow([]))
                elapsed = _race(pool, once, result)
                if number:
                    result.per_second.append(WORKERS * EACH / elapsed)
    engine.dispose()
    return results


def _race(pool: ThreadPoolExecutor, once: Callable[[], int], result: HotRow) -> float:
    def run(_worker: int) -> None:
        for _ in range(EACH):
            try:
                result.most_attempts = max(result.most_attempts, once())
            except ConcurrencyConflictError:
                result.given_up += 1

    begun = time.perf_counter()
    list(pool.map(run, range(WORKERS)))
    return time.perf_counter() - begun


def ratio_to_lock(results: dict[str, HotRow], name: str) -> float:
    own = results["SELECT FOR UPDATE by hand"].per_second
    return statistics.median(a / b for a, b in zip(results[name].per_second, own, strict=True))


def report(over: dict[str, float], flush: dict[str, float], hot: dict[str, HotRow]) -> str:
    circumstances = (
        f"Python {platform.python_version()}, SQLAlchemy {sqlalchemy.__version__}, PostgreSQL over loopback, SQLite in "
        "memory; one run of `python -m benchmarks.concurrency --write`, all modes in turn, medians of rounds."
    )
    lines = [
        "# Units of work, measured",
        "",
        circumstances,
        "",
        "## Without a conflict: microseconds over `with sessionmaker.begin()`",
        "",
        "|unit|`begin()`|`execute` adds|",
        "|-|-|-|",
        *(f"|{name}|{over[f'{name}: begin()']:.0f}|{over[name]:.1f}|" for name in over if "begin()" not in name),
        "",
        "## One hot row: 16 threads x 50 increments",
        "",
        "![increments a second next to SELECT FOR UPDATE](concurrency.svg)",
        "",
        f"|mode|a second|to SELECT FOR UPDATE|most attempts|gave up of {WORKERS * EACH * (HOT_ROUNDS + 1)}|",
        "|-|-|-|-|-|",
        *(
            f"|{name}|{statistics.median(result.per_second):.0f}|{ratio_to_lock(hot, name):.2f}"
            f"|{result.most_attempts}|{result.given_up}|"
            for name, result in hot.items()
        ),
        "",
        f"## A flush of {ROWS} changed rows, to SQLAlchemy's own versioned flush (above 1 is faster)",
        "",
        "|mode|ratio|",
        "|-|-|",
        *(f"|{name}|{ratio:.2f}|" for name, ratio in flush.items()),
        "",
    ]
    return "\n".join(lines)


def plot(hot: dict[str, HotRow]) -> str:
    """A bar per mode, as an SVG that needs no library."""
    bar, left, width = 26, 310, 360
    ratios = {name: ratio_to_lock(hot, name) for name in hot}
    largest = max(ratios.values())
    rows = [
        f'<text x="{left - 8}" y="{at * bar + 18}" text-anchor="end">{name}</text>'
        f'<rect x="{left}" y="{at * bar + 4}" width="{ratio / largest * width:.0f}" height="18" fill="#4a7c59"/>'
        f'<text x="{left + ratio / largest * width + 6:.0f}" y="{at * bar + 18}">{ratio:.2f}</text>'
        for at, (name, ratio) in enumerate(ratios.items())
    ]
    size = f'width="{left + width + 60}" height="{len(rows) * bar + 8}"'
    style = 'font-family="sans-serif" font-size="12"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(rows)}</svg>\n'


def main() -> None:
    over, flush = overhead(), flushes()
    with PostgresServer.create() as server, server.temporary_database() as database:
        hot = hot_row(database.url("psycopg"))
    text = report(over, flush, hot)
    print(text)
    if "--write" in sys.argv:
        folder = Path(__file__).parent.parent / "docs" / "benchmarks"
        folder.mkdir(exist_ok=True)
        (folder / "concurrency.md").write_text(text)
        (folder / "concurrency.svg").write_text(plot(hot))
        figures = {"overhead_microseconds": over, "flush_ratio": flush, "hot_row": {k: vars(v) for k, v in hot.items()}}
        (folder / "concurrency.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
