"""A service's module with handlers, in a folder of its own, and the command line run on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.servers.processes import wait_until

HANDLERS = """
import asyncio
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.event import listens_for
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from araponga_infra import (
    AsyncBackgroundEventProcessor, AsyncInfrastructure, BackgroundEventProcessor, EventRouter, Infrastructure,
    InfraSettings, SqlAlchemyEventStore, event,
)

HERE = Path(__file__).parent


def note(line):
    with (HERE / "notes").open("a") as notes:
        notes.write(f"{line}\\n")


@event("cli.ordered", version=1)
@dataclass(frozen=True)
class Ordered:
    what: str
    seconds: float = 0.0


router = EventRouter()


@router.subscribe(Ordered, max_attempts=1)
def deliver(ordered: Ordered) -> None:
    note(f"begin {ordered.what}")
    time.sleep(ordered.seconds)
    if ordered.what.startswith("broken"):
        raise OSError("out of stock")
    note(f"end {ordered.what}")


async_router = EventRouter()


@async_router.subscribe(Ordered)
async def deliver_async(ordered: Ordered, session: AsyncSession) -> None:
    note(f"{ordered.what} {await session.scalar(text('SELECT 40 + 2'))}")


stubborn_router = EventRouter()


@stubborn_router.subscribe(Ordered)
async def ignore_cancellation(ordered: Ordered) -> None:
    note(f"begin {ordered.what}")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass


sync_session_router = EventRouter()


@sync_session_router.subscribe(Ordered)
def deliver_in_session(ordered: Ordered, session: Session) -> None:
    note(f"{ordered.what} {session.scalar(text('SELECT 40 + 2'))}")


mixed_router = EventRouter()
mixed_router.include(async_router)
mixed_router.include(sync_session_router)
empty_router = EventRouter()


def make_router():
    return router


def make_infrastructure():
    return Infrastructure(InfraSettings.from_env(), routers=[router])


def make_async_infrastructure():
    return AsyncInfrastructure(InfraSettings.from_env(), routers=[async_router])


def make_idle_infrastructure():
    return Infrastructure(InfraSettings.from_env(), routers=[router], consume=False)


def make_empty_infrastructure():
    return AsyncInfrastructure(InfraSettings.from_env())


def make_processor():
    store = SqlAlchemyEventStore(create_engine(InfraSettings.from_env().database_url, poolclass=NullPool))
    store.create_schema()
    return BackgroundEventProcessor(store, routers=[router])


def interrupting(engine, times=1):
    '''SIGINT comes in the middle of the second batch that is redriven or discarded.'''
    batches = []

    @listens_for(engine, "after_cursor_execute")
    def interrupt(connection, cursor, statement, *rest):
        if statement.startswith("DELETE FROM araponga_deliveries"):
            batches.append(statement)
            for _ in range(times if len(batches) == 2 else 0):
                os.kill(os.getpid(), signal.SIGINT)

    return engine


def make_interrupted_processor(times=1):
    engine = interrupting(create_engine(InfraSettings.from_env().database_url, poolclass=NullPool), times)
    return BackgroundEventProcessor(SqlAlchemyEventStore(engine))


def make_twice_interrupted_processor():
    return make_interrupted_processor(times=2)


def make_interrupted_async_processor():
    url = InfraSettings.from_env().database_url.replace("sqlite:", "sqlite+aiosqlite:")
    engine = create_async_engine(url, poolclass=NullPool)
    interrupting(engine.sync_engine)
    return AsyncBackgroundEventProcessor(SqlAlchemyEventStore(engine))


class BusyProcessor(BackgroundEventProcessor):
    '''One more delivery dies when the others have been counted.'''

    def stats(self):
        counted = super().stats()
        self.publish(Ordered("broken late"))
        self.run_until_idle(raise_dead=False)
        return counted


def make_busy_processor():
    engine = create_engine(InfraSettings.from_env().database_url, poolclass=NullPool)
    return BusyProcessor(SqlAlchemyEventStore(engine), routers=[router])


def with_arguments(router):
    return router


def failing():
    return len(None)


class Holder:
    router = router


number = 42
"""


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """The folder of `shop.py`."""
    (tmp_path / "shop.py").write_text(HANDLERS)
    return tmp_path


@pytest.fixture
def database_url(service: Path) -> str:
    return f"sqlite:///{service / 'shop.db'}"


@pytest.fixture
def environment(plain_environment: dict[str, str], database_url: str) -> dict[str, str]:
    return plain_environment | {"ARAPONGA_DATABASE_URL": database_url, "PYTHONUNBUFFERED": "1"}


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(service: Path, environment: dict[str, str]) -> Iterator[Start]:
    """Starts the command line in the service's folder; what still runs at the end is killed."""
    with ExitStack() as closing:

        def start(*arguments: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "araponga_infra.cli", *arguments],
                cwd=service, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            closing.enter_context(process)
            closing.callback(_kill, process)
            return process

        yield start


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)


def notes(service: Path) -> list[str]:
    path = service / "notes"
    return path.read_text().splitlines() if path.exists() else []


def wait_for_note(service: Path, line: str) -> None:
    wait_until(lambda: line in notes(service), 20, f"the handler to note {line!r}")
