"""SQLite files as a service shares them."""

from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from araponga_infra.embedded import tune_sqlite

PROCESSES = 6


def open_at_once(file: Path, barrier: Barrier) -> None:
    engine = create_engine(f"sqlite:///{file}")
    tune_sqlite(engine)
    barrier.wait(60)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS opened (by INTEGER)"))
    engine.dispose()


@pytest.mark.parametrize("attempt", range(15))
def test_several_processes_may_open_a_new_file_at_once(tmp_path: Path, attempt: int) -> None:
    """Each switches to WAL, for which SQLite itself does not wait; without our wait about one round in five failed."""
    file = tmp_path / "new.db"
    forking = multiprocessing.get_context("fork")
    barrier = forking.Barrier(PROCESSES)
    processes = [forking.Process(target=open_at_once, args=(file, barrier)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
