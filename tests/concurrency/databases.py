"""One way to speak to every database and driver, so that a promise is tested once and holds for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from araponga_infra.concurrency import Applied, AsyncConcurrencyHelper, ConcurrencyHelper, VersionedSession

P = ParamSpec("P")
T = TypeVar("T")


class Executor(Protocol):
    """`execute`, whichever class it comes from."""

    def __call__(self, work: Callable[Concatenate[Session, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...


class RunIn(Protocol):
    """Runs a function in a session, awaiting it where that is due."""

    def __call__(self, work: Callable[..., T], *args: Any) -> T: ...


async def _run_sync(session: AsyncSession, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return await session.run_sync(work, *args, **kwargs)


ASYNC_DRIVERS = ("aiosqlite", "psycopg-async", "asyncpg")


class SyncDatabase:
    """A database under `ConcurrencyHelper`."""

    def __init__(self, driver: str, url: str, **options: Any) -> None:
        self.driver = driver
        self.url = url
        self.engine: Engine = create_engine(url, **options)

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    def helper(
        self,
        session_class: type[Session] = Session,
        *,
        verify: Callable[[Session], Applied[Any] | None] | None = None,
        **options: Any,
    ) -> Executor:
        helper = ConcurrencyHelper(sessionmaker(self.engine, class_=session_class), **options)
        return helper.options(verify=verify).execute if verify is not None else helper.execute

    @contextmanager
    def session(self, session_class: type[Session] = VersionedSession, **options: Any) -> Iterator[RunIn]:
        """A session outside of any helper; what is done in it is done through the function it yields."""
        with session_class(self.engine, **options) as session:
            yield lambda work, *args: work(session, *args)

    def close(self) -> None:
        self.engine.dispose()


class AsyncDatabase:
    """The same under `AsyncConcurrencyHelper`: the work runs in `run_sync`, all else through the async classes."""

    def __init__(self, driver: str, url: str, **options: Any) -> None:
        self.driver = driver
        self.url = url
        self.engine: AsyncEngine = create_async_engine(url, **options)
        self._loop = asyncio.Runner()

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    def helper(
        self,
        session_class: type[Session] = Session,
        *,
        verify: Callable[[Session], Applied[Any] | None] | None = None,
        **options: Any,
    ) -> Executor:
        helper = AsyncConcurrencyHelper(async_sessionmaker(self.engine, sync_session_class=session_class), **options)
        if verify is not None:
            look = verify

            async def verify_async(session: AsyncSession) -> Applied[Any] | None:
                return await session.run_sync(look)

            helper = helper.options(verify=verify_async)

        def execute(work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            return self._loop.run(helper.execute(_run_sync, work, *args, **kwargs))

        return execute

    @contextmanager
    def session(self, session_class: type[Session] = VersionedSession, **options: Any) -> Iterator[RunIn]:
        session = AsyncSession(self.engine, sync_session_class=session_class, **options)

        def run_in(work: Callable[..., Any], *args: Any) -> Any:
            return self._loop.run(session.run_sync(work, *args))

        try:
            yield run_in
        finally:
            self._loop.run(session.close())

    def close(self) -> None:
        self._loop.run(self.engine.dispose())
        self._loop.close()


Database = SyncDatabase | AsyncDatabase

_LOCKS = ("FOR NO KEY UPDATE", "BEGIN IMMEDIATE")


class Asked:
    """What a database was asked, and how it was locked."""

    def __init__(self, database: Database) -> None:
        self.texts: list[str] = []
        self._engine: Engine = database.engine.sync_engine if isinstance(database, AsyncDatabase) else database.engine
        event.listen(self._engine, "before_cursor_execute", self._note)

    def _note(self, _connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        self.texts.append(statement)

    def close(self) -> None:
        event.remove(self._engine, "before_cursor_execute", self._note)

    def is_locked_first(self) -> bool:
        """Whether the first statement since the last question took a lock."""
        texts, self.texts = self.texts, []
        return any(lock in texts[0] for lock in _LOCKS)
