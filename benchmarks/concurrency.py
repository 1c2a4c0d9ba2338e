"""What units of work cost without a conflict and with nothing but conflicts, next to SQLAlchemy and to locking by hand.

Run as `python -m benchmarks.concurrency`; `--write` keeps the result in docs/benchmarks/concurrency.*. Every figure
comes from one run and is by the wall clock, so the machine should have nothing else to do: in each round all modes take
turns, and a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import sqlalchemy
import tenacity
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.pool import StaticPool

from araponga_infra.concurrency import (
    AttemptFailed,
    ConcurrencyConflictError,
    ConcurrencyHelper,
    RowVersion,
    VersionedSession,
)
from araponga_infra.telemetry import Record
from tests.servers import PostgresServer

WORKERS, EACH, HOT_ROUNDS = 16, 50, 4
CALLS, OVERHEAD_ROUNDS = 200, 60
ROWS, FLUSH_PROCESSES, FLUSH_ROUNDS = 500, 8, 12
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


def increment_for(session: Session, _who: int) -> None:
    increment(session)


def nothing(_session: Session) -> None: ...


def seconds(work: Work) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def rounds_of(modes: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in modes}
    for number in range(rounds + 1):
        for name, work in modes.items():
            elapsed = seconds(work)
            if number:
                taken[name].append(elapsed)
    return taken


def quickest_fifth(values: list[float]) -> float:
    return statistics.mean(sorted(values)[: len(values) // 5])


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
        quickest = quickest_fifth(taken["execute"]) - quickest_fifth(taken["begin"])
        figures[f"{name}: quickest fifth"] = quickest / CALLS * 1e6
        figures[f"{name}: begin()"] = statistics.median(taken["begin"]) / CALLS * 1e6
    engine.dispose()
    return figures


OWN = "SQLAlchemy's version_id_col"


@cache
def flush_modes(is_watched: bool) -> tuple[dict[str, Work], list[float]]:
    """What one process measures. Without `is_watched` nothing of ours has ever listened to a session there."""
    engine = embedded()
    flushed: list[float] = []

    def change(session: Session, cls: Any) -> None:
        rows = session.scalars(select(cls)).all()
        for row in rows:
            row.count += 1
        flushed.append(seconds(session.flush))

    def plain(cls: Any, kind: type[Session]) -> Work:
        def run() -> None:
            with kind(engine) as session, session.begin():
                change(session, cls)

        return run

    if not is_watched:
        return {OWN: plain(ByHand, Session)}, flushed
    helper = ConcurrencyHelper(sessionmaker(engine))
    modes: dict[str, Work] = {
        OWN: plain(ByHand, Session),
        "RowVersion, Session": plain(Counter, Session),
        "RowVersion, VersionedSession": plain(Counter, VersionedSession),
        "RowVersion, execute": lambda: helper.execute(change, Counter),
    }
    return modes, flushed


def flush_round(is_watched: bool, number: int) -> dict[str, float]:
    """Seconds of a flush in each mode; every round begins with another one."""
    modes, flushed = flush_modes(is_watched)
    names = list(modes)
    first = number % len(names)
    taken: dict[str, float] = {}
    for name in names[first:] + names[:first]:
        modes[name]()
        taken[name] = flushed.pop()
    return taken


def flushes() -> dict[str, tuple[float, float]]:
    """A flush of 500 changed rows as ratios to SQLAlchemy's own versioned flush; above 1 is faster.

    The first ratio is to that flush in the same process, the second to it in a process that none of our listeners was
    ever installed in. Several pairs of processes, since no two of them are equally fast.
    """
    spawn = multiprocessing.get_context("spawn")
    ratios: dict[str, tuple[list[float], list[float]]] = {}
    for _ in range(FLUSH_PROCESSES):
        with ProcessPoolExecutor(1, spawn) as untouched, ProcessPoolExecutor(1, spawn) as watched:
            for number in range(FLUSH_ROUNDS + 1):
                alone = untouched.submit(flush_round, False, number).result()[OWN]
                taken = watched.submit(flush_round, True, number).result()
                for name, elapsed in taken.items() if number else ():
                    here, elsewhere = ratios.setdefault(name, ([], []))
                    here.append(taken[OWN] / elapsed)
                    elsewhere.append(alone / elapsed)
    return {name: (statistics.median(here), statistics.median(alone)) for name, (here, alone) in ratios.items()}


@dataclass
class HotRow:
    """16 threads x 50 increments of one row."""

    per_second: list[float] = field(default_factory=list)
    waits_ms: list[float] = field(default_factory=list)
    given_up: int = 0
    most_attempts: int = 1

    def observe(self, record: Record, /) -> None:
        """Attempts, as a helper tells its observer."""
        if isinstance(record, AttemptFailed):
            self.most_attempts = max(self.most_attempts, record.attempt + 1)

    def percentile(self, share: float) -> float:
        return sorted(self.waits_ms)[int(len(self.waits_ms) * share)]


def hot_row(url: str) -> dict[str, HotRow]:
    engine = create_engine(url, pool_size=WORKERS)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Counter(id=1), ByHand(id=1)])
        session.commit()
    make = sessionmaker(engine)
    results: dict[str, HotRow] = {}
    who = count()

    def for_update(_result: HotRow) -> Work:
        def once() -> None:
            with make.begin() as session:
                session.get_one(ByHand, 1, with_for_update=True).count += 1

        return once

    def by_tenacity(result: HotRow) -> Work:
        def once() -> None:
            for attempt in tenacity.Retrying(
                retry=tenacity.retry_if_exception_type(StaleDataError),
                wait=tenacity.wait_random_exponential(multiplier=0.002, max=0.1),
                stop=tenacity.stop_after_attempt(100),
                reraise=True,
            ):
                result.most_attempts = max(result.most_attempts, attempt.retry_state.attempt_number)
                with attempt, make.begin() as session:
                    increment(session, ByHand)

        return once

    def executing(engine: Engine, **options: Any) -> Callable[[HotRow], Work]:
        def observed(result: HotRow) -> Work:
            helper = ConcurrencyHelper(sessionmaker(engine), observer=result, **options)
            return lambda: helper.execute(increment)

        return observed

    def executing_for_each(result: HotRow) -> Work:
        helper = ConcurrencyHelper(make, observer=result)
        return lambda: helper.execute(increment_for, next(who))

    repeatable, serializable = (
        engine.execution_options(isolation_level=level) for level in ("REPEATABLE READ", "SERIALIZABLE")
    )
    modes: dict[str, Callable[[HotRow], Work]] = {
        "SELECT FOR UPDATE by hand": for_update,
        "execute, as it comes": executing(engine),
        "execute, never twice on the same arguments": executing_for_each,
        "tenacity around begin(), up to 100 attempts": by_tenacity,
        "execute, lock_after=2": executing(engine, lock_after=2, max_attempts=4),
        "execute, never locking, up to 100 attempts": executing(engine, lock_after=None, max_attempts=100),
        "execute, REPEATABLE READ": executing(repeatable),
        "execute, REPEATABLE READ, up to 100 attempts": executing(repeatable, max_attempts=100),
        "execute, SERIALIZABLE, up to 100 attempts": executing(serializable, max_attempts=100),
    }
    with ThreadPoolExecutor(WORKERS) as pool:
        for number in range(HOT_ROUNDS + 1):
            for name, prepared in modes.items():
                result = results.setdefault(name, HotRow())
                elapsed = _race(pool, prepared(result), result)
                if number:
                    result.per_second.append(WORKERS * EACH / elapsed)
    _check_that_none_is_lost(engine, results)
    engine.dispose()
    return results


def _race(pool: ThreadPoolExecutor, once: Work, result: HotRow) -> float:
    def run(_worker: int) -> None:
        for _ in range(EACH):
            begun = time.perf_counter()
            try:
                once()
            except ConcurrencyConflictError:
                result.given_up += 1
            result.waits_ms.append((time.perf_counter() - begun) * 1e3)

    return seconds(lambda: list(pool.map(run, range(WORKERS))))


def _check_that_none_is_lost(engine: Engine, results: dict[str, HotRow]) -> None:
    done = len(results) * WORKERS * EACH * (HOT_ROUNDS + 1) - sum(result.given_up for result in results.values())
    with Session(engine) as session:
        counted = session.get_one(Counter, 1).count + session.get_one(ByHand, 1).count
    if counted != done:
        raise AssertionError(f"{done} increments were reported as done and {counted} are in the database")


def ratio_to_lock(results: dict[str, HotRow], name: str) -> float:
    own = results["SELECT FOR UPDATE by hand"].per_second
    return statistics.median(a / b for a, b in zip(results[name].per_second, own, strict=True))


def report(over: dict[str, float], flush: dict[str, tuple[float, float]], hot: dict[str, HotRow]) -> str:
    circumstances = (
        f"Python {platform.python_version()}, SQLAlchemy {sqlalchemy.__version__}, PostgreSQL over loopback, SQLite in "
        "memory; one run of `python -m benchmarks.concurrency --write` by the wall clock, all modes in turn, medians "
        "of rounds."
    )
    units = WORKERS * EACH * (HOT_ROUNDS + 1)
    lines = [
        "# Units of work, measured",
        "",
        circumstances,
        "",
        "## Without a conflict: microseconds over `with sessionmaker.begin()`",
        "",
        "|unit|`begin()`|`execute` adds|quickest fifth of the rounds|",
        "|-|-|-|-|",
        *(
            f"|{name}|{over[f'{name}: begin()']:.0f}|{over[name]:.1f}|{over[f'{name}: quickest fifth']:.1f}|"
            for name in over
            if ":" not in name
        ),
        "",
        "## One hot row: 16 threads x 50 increments",
        "",
        "![increments a second next to SELECT FOR UPDATE](concurrency.svg)",
        "",
        f"|mode|a second|to SELECT FOR UPDATE|p50 / p99 ms|most attempts|gave up of {units}|",
        "|-|-|-|-|-|-|",
        *(
            f"|{name}|{statistics.median(result.per_second):.0f}|{ratio_to_lock(hot, name):.2f}"
            f"|{result.percentile(0.5):.0f} / {result.percentile(0.99):.0f}|{result.most_attempts}|{result.given_up}|"
            for name, result in hot.items()
        ),
        "",
        f"## A flush of {ROWS} changed rows, to SQLAlchemy's own versioned flush (above 1 is faster)",
        "",
        "|mode|in the same process|in a process without any listener of ours|",
        "|-|-|-|",
        *(f"|{name}|{here:.2f}|{alone:.2f}|" for name, (here, alone) in flush.items()),
        "",
    ]
    return "\n".join(lines)


def figures_of(result: HotRow) -> dict[str, Any]:
    kept = {"p50_ms": result.percentile(0.5), "p99_ms": result.percentile(0.99)}
    return kept | {name: value for name, value in vars(result).items() if name != "waits_ms"}


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
        figures = {
            "overhead_microseconds": over,
            "flush_ratio": flush,
            "hot_row": {name: figures_of(result) for name, result in hot.items()},
        }
        (folder / "concurrency.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
