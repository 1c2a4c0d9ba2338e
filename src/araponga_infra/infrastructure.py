"""The four parts, wired: one context manager that opens, connects and closes them in the right order."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, ExitStack
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, sessionmaker

from araponga_infra.caching import (
    AsyncDistributedCacheService,
    DistributedCacheService,
    create_async_cache,
    create_cache,
)
from araponga_infra.clock import Clock, Duration, to_seconds
from araponga_infra.concurrency import AsyncConcurrencyHelper, ConcurrencyHelper, VersionedSession
from araponga_infra.embedded import EmbeddedDatabase, tune_sqlite
from araponga_infra.errors import ClosedError, InvalidArgumentError, NotConfiguredError
from araponga_infra.events import (
    AsyncBackgroundEventProcessor,
    BackgroundEventProcessor,
    EventRouter,
    SqlAlchemyEventStore,
)
from araponga_infra.health import (
    AsyncCheck,
    AsyncHealthChecks,
    Check,
    Health,
    HealthChecks,
    PartHealth,
    PartState,
    cache_health,
    events_health,
    health_of,
    replicas_health,
)
from araponga_infra.sessions import AsyncReadOnlySession, AsyncReplicaSet, ReadOnlySession, ReplicaSet, WriteToken
from araponga_infra.settings import InfraSettings
from araponga_infra.telemetry import Observer
from araponga_infra.urls import async_engine_from_url, database_url, engine_from_url, pool_options

__all__ = ["AsyncInfrastructure", "Infrastructure"]

_LEFT_BY_FORK: list[object] = []
"""What a forked child inherited open. It is kept and never collected: closing it would end the parent's connections."""

_LIBPQ_DRIVERS = ("psycopg", "psycopg2")
_LIBPQ_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


class _Configured:
    """What both forms are made of: settings, routers, clock, observer."""

    def __init__(
        self,
        settings: InfraSettings,
        *,
        routers: Sequence[EventRouter] = (),
        consume: bool = True,
        max_concurrency: int = 5,
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        if not isinstance(settings, InfraSettings):
            raise InvalidArgumentError(
                f"settings is a {type(settings).__name__}: pass InfraSettings(...), InfraSettings.embedded(), "
                "or call from_env()"
            )
        self.settings = settings
        self._routers = _checked_routers(routers)
        self._consume = consume
        self._max_concurrency = _checked_concurrency(max_concurrency)
        self._clock = clock
        self._observer = observer
        self._set_up()

    def _set_up(self) -> None:
        """What a form keeps besides; called once, by the constructor."""

    @classmethod
    def from_env(
        cls,
        *,
        embedded: bool = False,
        routers: Sequence[EventRouter] = (),
        consume: bool = True,
        max_concurrency: int = 5,
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> Self:
        """Wire what the environment names; see `InfraSettings.from_env`.

        Args:
            embedded: with no database named, run on a SQLite file in a temporary folder that is gone at close.
            routers: the handlers that this process knows.
            consume: whether this process runs handlers; one that only publishes passes False.
            max_concurrency: how many handlers run at a time.
            clock: the time, for tests.
            observer: told of everything the parts report.

        Raises:
            InvalidArgumentError: a variable is malformed; the message names it.
        """
        settings = InfraSettings.from_env(embedded=embedded)
        return cls(
            settings, routers=routers, consume=consume, max_concurrency=max_concurrency, clock=clock, observer=observer
        )

    @property
    def _has_database(self) -> bool:
        return self.settings.database_url is not None or self.settings.is_embedded

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings!r})"


def _checked_routers(routers: Sequence[EventRouter]) -> tuple[EventRouter, ...]:
    if isinstance(routers, Sequence) and all(isinstance(router, EventRouter) for router in routers):
        return tuple(routers)
    raise InvalidArgumentError(f"routers is {routers!r}: pass a list of EventRouter, as in routers=[router]")


def _checked_concurrency(max_concurrency: object) -> int:
    if isinstance(max_concurrency, int) and not isinstance(max_concurrency, bool) and max_concurrency >= 1:
        return max_concurrency
    raise InvalidArgumentError(f"max_concurrency={max_concurrency!r} must be a whole number of 1 or more")


class _DatabaseUrl:
    """The primary's URL: the named one, or that of an embedded file made when it is first asked for."""

    def __init__(self, settings: InfraSettings) -> None:
        self._settings = settings
        self._embedded: EmbeddedDatabase | None = None

    def get(self) -> str:
        if self._settings.database_url is not None:
            return self._settings.database_url
        if not self._settings.is_embedded:
            raise NotConfiguredError(
                "no database is named: set ARAPONGA_DATABASE_URL, or pass embedded=True for a SQLite file in a "
                "temporary folder"
            )
        if self._embedded is None:
            self._embedded = EmbeddedDatabase()
        return self._embedded.url

    def close(self) -> None:
        if self._embedded is not None:
            self._embedded.close()


def _engine_options(url: str, pool_size: int | None, *, is_async: bool) -> dict[str, Any]:
    """A connection is tested before it is handed out, and one whose other side is gone is given up in seconds.

    Without the latter, TCP waits for a quarter of an hour (libpq's documentation, "Parameter Key Words":
    connect_timeout, keepalives_*, tcp_user_timeout). What the URL says itself stays.
    """
    parsed = database_url(url, is_async=is_async)
    is_libpq = parsed.get_driver_name() in _LIBPQ_DRIVERS and parsed.get_backend_name() == "postgresql"
    patience = {name: value for name, value in _LIBPQ_PATIENCE.items() if is_libpq and name not in parsed.query}
    return {"pool_pre_ping": True, "connect_args": patience, **pool_options(parsed, pool_size)}


class _Opened:
    """What one process holds open: each part on first use. The events are stopped first, since their handlers use the
    other parts; these are closed in the reverse of that order."""

    def __init__(self, configured: Infrastructure, database_url: _DatabaseUrl) -> None:
        self.pid = os.getpid()
        self.is_closing = False
        self.lock = threading.RLock()
        self.cache_lock = threading.Lock()  # a database that hangs while it is opened must not hold up the cache
        self._configured = configured
        self._database_url = database_url
        self._closing = ExitStack()

    @cached_property
    def engine(self) -> Engine:
        url = self._database_url.get()
        options = _engine_options(url, self._configured.settings.database_pool_size, is_async=False)
        engine = engine_from_url(url, argument="database_url", **options)
        if engine.dialect.name == "sqlite":
            tune_sqlite(engine)
        self._closing.callback(engine.dispose)
        return engine

    @cached_property
    def replicas(self) -> ReplicaSet:
        configured = self._configured
        replicas = ReplicaSet(
            self.engine,
            configured.settings.database_readonly_urls,
            pool_size=configured.settings.database_pool_size,
            session_class=VersionedSession,
            clock=configured._clock,
            observer=configured._observer,
        )
        self._closing.callback(replicas.close)
        return replicas

    @cached_property
    def write(self) -> sessionmaker[Session]:
        """Opens the events first: made inside a transaction on SQLite, their tables would wait for that very one."""
        _ = self.events
        return self.replicas.write

    @cached_property
    def concurrency(self) -> ConcurrencyHelper:
        configured = self._configured
        return ConcurrencyHelper(self.write, clock=configured._clock, observer=configured._observer)

    @cached_property
    def cache(self) -> DistributedCacheService:
        configured = self._configured
        cache = create_cache(configured.settings.redis_url, clock=configured._clock, observer=configured._observer)
        self._closing.callback(cache.close)
        return cache

    @cached_property
    def events(self) -> BackgroundEventProcessor:
        configured = self._configured
        store = SqlAlchemyEventStore(self.engine)
        store.create_schema()
        processor = BackgroundEventProcessor(
            store,
            routers=configured._routers,
            consume=configured._consume,
            max_concurrency=configured._max_concurrency,
            clock=configured._clock,
            observer=configured._observer,
        )
        processor.start()
        self._closing.callback(processor.stop)
        return processor

    @property
    def has_events(self) -> bool:
        return "events" in vars(self)

    def stop_events(self) -> None:
        if self.has_events:
            self.events.stop()

    def close(self) -> None:
        self._closing.close()


class Infrastructure(_Configured):
    """The four parts for sync code, wired by settings.

    Each part opens on first use and once per process, so that a worker forked from a parent that has some open gets its
    own. Leaving the `with` closes what is open, in the right order.

    Args:
        settings: where things are; see `InfraSettings`.
        routers: the handlers that this process knows.
        consume: whether this process runs handlers; one that only publishes passes False.
        max_concurrency: how many handlers run at a time.
        clock: the time, for tests.
        observer: told of everything the parts report.

    Thread-safe, and safe to inherit across a fork.

    Examples:
        >>> from sqlalchemy import text
        >>> with Infrastructure(InfraSettings.embedded()) as infra, infra.read() as session:
        ...     session.scalar(text("SELECT 1"))
        1
    """

    def _set_up(self) -> None:
        self._database_url = _DatabaseUrl(self.settings)
        self._opened: _Opened | None = _Opened(self, self._database_url)
        self._health_checks = HealthChecks()

    @property
    def engine(self) -> Engine:
        """The primary's engine.

        Raises:
            NotConfiguredError: no database is named and `embedded` was not asked for.
        """
        with (here := self._here()).lock:
            return here.engine

    @property
    def replicas(self) -> ReplicaSet:
        """The primary and its replicas."""
        with (here := self._here()).lock:
            return here.replicas

    @property
    def concurrency(self) -> ConcurrencyHelper:
        """Runs units of work on the primary, again when they conflict."""
        with (here := self._here()).lock:
            return here.concurrency

    @property
    def cache(self) -> DistributedCacheService:
        """Redis behind this process's memory, or memory alone where no Redis is named."""
        with (here := self._here()).cache_lock:
            return here.cache

    @property
    def events(self) -> BackgroundEventProcessor:
        """The started event processor on the database's own store, whose tables are made when missing."""
        with (here := self._here()).lock:
            return here.events

    def write(self) -> AbstractContextManager[Session]:
        """A session on the primary: begin, then COMMIT at the end of the block, ROLLBACK when it raises.

        What was loaded stays usable afterwards (`expire_on_commit` is off).
        """
        with (here := self._here()).lock:
            return here.write.begin()

    def read(
        self, *, after: WriteToken | str | None = None, fresh: bool = False
    ) -> AbstractContextManager[ReadOnlySession]:
        """A read-only session, on a replica where there is one; see `ReplicaSet.read`.

        Args:
            after: the write token of the write that this read must see, or its text as a client sent it back.
            fresh: read the primary, as a load that fills a cache should.
        """
        return self.replicas.read(after=after, fresh=fresh)

    def health(self, *, timeout: Duration = 2.0) -> Health:
        """Ask every part that is configured how it is, side by side.

        A part that runs on its fallback (a cache without Redis, replicas that are out) is degraded, and degraded is
        ready. Liveness does not depend on any server: no restart would mend one.

        Args:
            timeout: for all of them together; what has not answered by then is down.
        """
        checks: dict[str, Check] = {"cache": lambda: cache_health(self.cache)}
        if self._has_database:
            checks["database"] = self._ask_database
        if self._has_database and (self._routers or self._here().has_events):
            checks["events"] = lambda: events_health(self.events.stats())
        if self.settings.database_readonly_urls:
            checks["replicas"] = lambda: replicas_health(self.replicas.status())
        return health_of(self._health_checks.run(checks, to_seconds(timeout, "timeout", allow_zero=False)))

    def _ask_database(self) -> PartHealth:
        with self.engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        return PartHealth(PartState.HEALTHY)

    def close(self) -> None:
        """Stop the events, then close cache, replicas and engine; what an embedded database held is gone.

        Handlers that still run have the time of `events.stop()` and every part until they are done.
        """
        opened = self._opened
        if opened is None or opened.pid != os.getpid():
            self._opened = None
            return
        if opened.is_closing:
            return
        opened.is_closing = True
        try:
            opened.stop_events()
        finally:
            self._opened = None
            try:
                opened.close()
            finally:
                self._database_url.close()

    def __enter__(self) -> Self:
        try:
            if self._routers:
                _ = self.events
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _here(self) -> _Opened:
        opened = self._opened
        if opened is None:
            raise ClosedError("this Infrastructure is closed: make a new one, or close it later")
        if opened.pid != os.getpid():
            _LEFT_BY_FORK.append(opened)
            self._opened = opened = _Opened(self, self._database_url)
        return opened


class AsyncInfrastructure(_Configured):
    """The four parts for async code, wired by settings: `async with` opens them on the running loop and closes them.

    Args:
        settings: where things are; see `InfraSettings`.
        routers: the handlers that this process knows.
        consume: whether this process runs handlers; one that only publishes passes False.
        max_concurrency: how many handlers run at a time.
        clock: the time, for tests.
        observer: told of everything the parts report.

    One event loop at a time: enter it on the loop that uses it. Making one opens nothing, so that it may be made before
    a fork and entered in each worker.

    Raises:
        NotConfiguredError: at a part that needs a database when none is named and `embedded` was not asked for.
    """

    def _set_up(self) -> None:
        self._opened: _AsyncOpened | None = None

    @property
    def engine(self) -> AsyncEngine:
        """The primary's engine."""
        return self._here().engine

    @property
    def replicas(self) -> AsyncReplicaSet:
        """The primary and its replicas."""
        return self._here().replicas

    @property
    def concurrency(self) -> AsyncConcurrencyHelper:
        """Runs units of work on the primary, again when they conflict."""
        return self._here().concurrency

    @property
    def cache(self) -> AsyncDistributedCacheService:
        """Redis behind this process's memory, or memory alone where no Redis is named."""
        return self._here().cache

    @property
    def events(self) -> AsyncBackgroundEventProcessor:
        """The started event processor on the database's own store, whose tables are made when missing."""
        return self._here().events

    def write(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A session on the primary: begin, then COMMIT at the end of the block, ROLLBACK when it raises.

        What was loaded stays usable afterwards (`expire_on_commit` is off).
        """
        return self.replicas.write.begin()

    def read(
        self, *, after: WriteToken | str | None = None, fresh: bool = False
    ) -> AbstractAsyncContextManager[AsyncReadOnlySession]:
        """A read-only session, on a replica where there is one; see `AsyncReplicaSet.read`.

        Args:
            after: the write token of the write that this read must see, or its text as a client sent it back.
            fresh: read the primary, as a load that fills a cache should.
        """
        return self.replicas.read(after=after, fresh=fresh)

    async def health(self, *, timeout: Duration = 2.0) -> Health:
        """Ask every part that is configured how it is, side by side; see `Infrastructure.health`.

        Args:
            timeout: for all of them together; what has not answered by then is down.
        """

        async def ask_cache() -> PartHealth:
            return cache_health(self.cache)

        async def ask_replicas() -> PartHealth:
            return replicas_health(self.replicas.status())

        async def ask_events() -> PartHealth:
            return events_health(await self.events.stats())

        checks: dict[str, AsyncCheck] = {"cache": ask_cache}
        if self._has_database:
            checks["database"] = self._ask_database
            checks["events"] = ask_events
        if self.settings.database_readonly_urls:
            checks["replicas"] = ask_replicas
        return health_of(await self._here().health_checks.run(checks, to_seconds(timeout, "timeout", allow_zero=False)))

    async def _ask_database(self) -> PartHealth:
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
        return PartHealth(PartState.HEALTHY)

    async def aclose(self) -> None:
        """Stop the events, then close cache, replicas and engine; what an embedded database held is gone.

        Handlers that still run have the time of `events.stop()` and every part until they are done.
        """
        opened = self._opened
        if opened is None or opened.is_closing:
            return
        opened.is_closing = True
        try:
            await opened.stop_events()
        finally:
            self._opened = None
            await opened.aclose()

    async def __aenter__(self) -> Self:
        if self._opened is not None:
            raise ClosedError("this AsyncInfrastructure is open already: enter it once, or make a second one")
        self._opened = opened = _AsyncOpened(self)
        try:
            if self._has_database:
                await opened.open_events()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _here(self) -> _AsyncOpened:
        if self._opened is None:
            raise ClosedError("this AsyncInfrastructure is not open: use it inside `async with`")
        return self._opened


class _AsyncOpened:
    """What one event loop holds open; see `_Opened`."""

    def __init__(self, configured: AsyncInfrastructure) -> None:
        self.is_closing = False
        self._configured = configured
        self._database_url = _DatabaseUrl(configured.settings)
        self._closing = AsyncExitStack()
        self._closing.callback(self._database_url.close)
        self._events: AsyncBackgroundEventProcessor | None = None
        self.health_checks = AsyncHealthChecks()

    @cached_property
    def engine(self) -> AsyncEngine:
        url = self._database_url.get()
        options = _engine_options(url, self._configured.settings.database_pool_size, is_async=True)
        engine = async_engine_from_url(url, argument="database_url", **options)
        if engine.dialect.name == "sqlite":
            tune_sqlite(engine.sync_engine)
        self._closing.push_async_callback(engine.dispose)
        return engine

    @cached_property
    def replicas(self) -> AsyncReplicaSet:
        configured = self._configured
        replicas = AsyncReplicaSet(
            self.engine,
            configured.settings.database_readonly_urls,
            pool_size=configured.settings.database_pool_size,
            session_class=VersionedSession,
            clock=configured._clock,
            observer=configured._observer,
        )
        self._closing.push_async_callback(replicas.aclose)
        return replicas

    @cached_property
    def concurrency(self) -> AsyncConcurrencyHelper:
        configured = self._configured
        return AsyncConcurrencyHelper(self.replicas.write, clock=configured._clock, observer=configured._observer)

    @cached_property
    def cache(self) -> AsyncDistributedCacheService:
        configured = self._configured
        cache = create_async_cache(
            configured.settings.redis_url, clock=configured._clock, observer=configured._observer
        )
        self._closing.push_async_callback(cache.aclose)
        return cache

    @property
    def events(self) -> AsyncBackgroundEventProcessor:
        if self._events is None:
            self._database_url.get()
            raise ClosedError("the events are not open yet: use them inside `async with`")
        return self._events

    async def open_events(self) -> None:
        configured = self._configured
        store = SqlAlchemyEventStore(self.engine)
        await store.create_schema()
        processor = AsyncBackgroundEventProcessor(
            store,
            routers=configured._routers,
            consume=configured._consume,
            max_concurrency=configured._max_concurrency,
            clock=configured._clock,
            observer=configured._observer,
        )
        self._closing.push_async_callback(processor.stop)
        await processor.start()
        self._events = processor

    async def stop_events(self) -> None:
        if self._events is not None:
            await self._events.stop()

    async def aclose(self) -> None:
        try:
            await self.health_checks.aclose()
        finally:
            await self._closing.aclose()
