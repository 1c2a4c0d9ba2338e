"""The SQL store for sync and for async code: each operation in a short transaction of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn

from araponga_infra.events.patience import LONGEST_SECONDS, Patience
from araponga_infra.events.protocols import LeaseKeeper, Settlement, Wake, WakeListener
from araponga_infra.events.stores.sqlalchemy.engines import refuse_private_memory, side_engine
from araponga_infra.events.stores.sqlalchemy.listening import (
    AsyncPostgresListener,
    NoListener,
    Notifier,
    PostgresListener,
)
from araponga_infra.events.stores.sqlalchemy.operations import SqlOperations, begin_immediate
from araponga_infra.events.stores.sqlalchemy.schema import naming_missing_tables
from araponga_infra.events.stores.sqlalchemy.sessions import Seal, is_refusal, level_for_handlers
from araponga_infra.events.stores.sqlalchemy.watchdog import AsyncWatchdog, Watchdog, Watching
from araponga_infra.events.values import (
    Appended,
    Capabilities,
    DeadFilter,
    DeadLetter,
    EventStats,
    Exchange,
    Message,
    Page,
    Reaped,
    Receipt,
    Subscription,
    Want,
)

__all__ = ["CAPABILITIES", "AsyncSqlStore", "SqlStore"]

P = ParamSpec("P")
T = TypeVar("T")
CAPABILITIES = Capabilities(is_durable=True, ordering=True, transactions=True)
_SWEEP_EVERY = 600
_IS_READ_COMMITTED = "araponga_infra.events.read_committed"


def _transactional(engine: Engine) -> Engine:
    """READ COMMITTED on PostgreSQL, whatever the host's default: a claim must see what others have just released."""
    return engine.execution_options(isolation_level="READ COMMITTED") if engine.dialect.name == "postgresql" else engine


def _statements_of(engine: Engine) -> Engine:
    """For operations of one statement, which is its own transaction on PostgreSQL."""
    return engine.execution_options(isolation_level="AUTOCOMMIT") if engine.dialect.name == "postgresql" else engine


def _reads_committed(connection: Connection) -> bool:
    """Whether a statement on its own is READ COMMITTED here; asked once per connection of the pool."""
    if _IS_READ_COMMITTED not in connection.info:
        level = connection.exec_driver_sql("SHOW default_transaction_isolation").scalar()
        connection.info[_IS_READ_COMMITTED] = level == "read committed"
    return bool(connection.info[_IS_READ_COMMITTED])


def _append_and_tell(
    connection: Connection, operations: SqlOperations, notifier: Notifier, messages: Sequence[Message]
) -> Appended | None:
    """On a connection without a transaction; None when this takes one."""
    if not _reads_committed(connection):
        return None
    appended = operations.append(connection, messages, notifier.riding)
    notifier.tell(connection)
    return appended


def _claim_if_committed(
    connection: Connection, operations: SqlOperations, owner: str, wants: Sequence[Want], ignore_due: bool
) -> Exchange | None:
    """On a connection without a transaction; None when this takes one."""
    return operations.claim(connection, owner, wants, ignore_due) if _reads_committed(connection) else None


def _for_handlers(engine: Engine) -> Engine:
    level = level_for_handlers(engine)
    return engine if level is None else engine.execution_options(isolation_level=level)


class _Engines:
    """One engine, as operations of several statements and those of one need it."""

    def __init__(self, engine: Engine) -> None:
        self.transactions = _transactional(engine)
        self.statements = _statements_of(engine)


class SqlStore:
    """For sync code. Thread-safe; uses connections of the host's engine for the length of a call.

    A processor that consumes has its own calls on a connection beside the host's pool, from `listen` to `leave`: it is
    given up when it does not answer, whatever the host has configured, and no call waits behind broken ones.
    """

    capabilities = CAPABILITIES

    def __init__(
        self, engine: Engine, operations: SqlOperations, notifier: Notifier, watchdog: Watching | None = None
    ) -> None:
        self._watchdog = watchdog or Watchdog()
        self._patience = Patience()
        self._engine = engine
        self._hosts = self._own = _Engines(engine)
        self._side: Engine | None = None
        self._operations = operations
        self._notifier = notifier

    def _write(self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        with naming_missing_tables(), self._hosts.transactions.begin() as connection:
            begin_immediate(connection, self._operations.sql.workers)
            return operation(connection, *args, **kwargs)

    def _watched(self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `_write`, for the processor's own: short, and not to wait for ever."""
        with self._own_transaction(self._patience) as connection:
            self._operations.hurry(connection)
            return operation(connection, *args, **kwargs)

    @contextmanager
    def _own_transaction(self, patience: Patience) -> Generator[Connection, None, None]:
        with (
            naming_missing_tables(),
            self._own.transactions.connect() as connection,
            self._watchdog.watch(connection, patience),
            connection.begin(),
        ):
            begin_immediate(connection, self._operations.sql.workers)
            yield connection

    def _probe(self) -> None:
        """Raises when the database is not back: a pooler may be, so that connecting does not tell."""
        with self._own.statements.connect() as connection, self._watchdog.watch(connection, Patience()):
            connection.exec_driver_sql("SELECT 1")

    def _open_own(self) -> None:
        self._side = side_engine(self._engine)
        self._own = _Engines(self._side)
        self._watchdog.start()

    def _close_own(self) -> None:
        if self._side is not None:
            self._own, side, self._side = self._hosts, self._side, None
            self._watchdog.close()
            side.dispose()

    def _read(self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        with naming_missing_tables(), self._hosts.transactions.begin() as connection:
            return operation(connection, *args, **kwargs)

    def _append_at_once(self, messages: Sequence[Message]) -> Appended | None:
        with naming_missing_tables(), self._hosts.statements.connect() as connection:
            return _append_and_tell(connection, self._operations, self._notifier, messages)

    def _claim_at_once(self, owner: str, wants: Sequence[Want], ignore_due: bool) -> Exchange | None:
        with (
            naming_missing_tables(),
            self._own.statements.connect() as connection,
            self._watchdog.watch(connection, self._patience),
        ):
            return _claim_if_committed(connection, self._operations, owner, wants, ignore_due)

    def register(self, subscriptions: Sequence[Subscription]) -> Mapping[str, str]:
        return self._watched(self._operations.register, subscriptions)

    def forget(self, handler: str) -> None:
        is_more = True
        while is_more:
            is_more = self._write(self._operations.forget, handler)

    def append(self, messages: Sequence[Message], *, capacity: int | None = None) -> Appended:  # noqa: ARG002
        if self._operations.is_one_insert(messages):
            told = self._append_at_once(messages)
            if told is not None:
                return told
        appended = self._write(self._operations.append, messages)
        self._notifier.notify(self._engine)
        return appended

    def wait_for_room(self, needed: int, capacity: int, timeout_seconds: float) -> None:
        """There is always room."""

    def exchange(
        self,
        owner: str,
        completed: Sequence[Receipt],
        settlements: Sequence[Settlement],
        wants: Sequence[Want],
        *,
        ignore_due: bool = False,
    ) -> Exchange:
        if self._operations.is_one_claim(completed, settlements, wants):
            claimed = self._claim_at_once(owner, wants, ignore_due)
            if claimed is not None:
                return claimed
        with self._own_transaction(self._patience) as connection:
            return self._operations.exchange(connection, owner, completed, settlements, wants, ignore_due)

    def claim_alone(self, owner: str, handlers: Sequence[str]) -> Exchange:
        return self._watched(self._operations.claim_alone, owner, handlers)

    def run_in_session(self, receipt: Receipt, work: Callable[[Session], object]) -> object:
        with Session(_for_handlers(self._engine), expire_on_commit=False, close_resets_only=False) as session:
            seal = self._seal(session)
            result = work(session)
            if is_refusal(result):
                return result
            self._acknowledge_in(session, seal, receipt)
            seal.break_open()
            session.commit()
            return result

    def _seal(self, session: Session) -> Seal:
        seal = Seal(session)
        begin_immediate(session.connection(), self._operations.sql.workers)
        return seal

    def _acknowledge_in(self, session: Session, seal: Seal, receipt: Receipt) -> None:
        connection = seal.connection(session)
        session.flush()
        self._operations.acknowledge(connection, receipt)

    def join(self, owner: str, lease_seconds: float) -> None:
        self._watched(self._operations.join, owner, lease_seconds)

    def reconcile(self, owner: str, held: Sequence[str]) -> int:
        self._probe()
        return self._watched(self._operations.reconcile, owner, held)

    def leave(self, owner: str) -> None:
        try:
            self._watched(self._operations.leave, owner)
        finally:
            self._close_own()

    def lease_keeper(self) -> LeaseKeeper:
        refuse_private_memory(self._engine)
        return _SqlLeaseKeeper(SqlStore(side_engine(self._engine), self._operations, self._notifier, self._watchdog))

    def listen(self, wake: Wake) -> WakeListener:
        refuse_private_memory(self._engine)
        if not self._operations.is_postgres:
            return NoListener()
        self._open_own()
        return PostgresListener(side_engine(self._engine), self._notifier.channel, wake, self._watchdog)

    def beat(self, owner: str, lease_seconds: float) -> bool:
        return self._watched(self._operations.beat, owner, lease_seconds)

    def reap(self, handlers: Sequence[str]) -> Reaped:
        return self._watched(self._operations.reap, handlers)

    def sweep(self) -> bool:
        with self._own_transaction(Patience(LONGEST_SECONDS)) as connection:
            self._operations.hurry(connection)
            return self._operations.sweep(connection)

    def pending(self, handlers: Sequence[str], *, ignore_due: bool = False) -> int:
        return self._read(self._operations.pending, handlers, ignore_due)

    def stats(self) -> EventStats:
        return self._read(self._operations.stats)

    def newest_dead(self) -> str | None:
        return self._read(self._operations.newest_dead)

    def dead_page(self, wanted: DeadFilter, limit: int, after: str | None) -> Page[DeadLetter]:
        return self._read(self._operations.dead_page, wanted, limit, after)

    def dead_letter(self, letter: str) -> DeadLetter | None:
        return self._read(self._operations.dead_letter, letter)

    def redrive(self, letters: Iterable[str]) -> int:
        redriven = self._write(self._operations.redrive, list(letters))
        if redriven:
            self._notifier.notify(self._engine)
        return redriven

    def discard(self, letters: Iterable[str]) -> int:
        return self._write(self._operations.discard, list(letters))

    def old_letters(self, wanted: DeadFilter, died_before: datetime, limit: int, after: str | None) -> Page[str]:
        return self._read(self._operations.old_letters, wanted, died_before, limit, after)

    def dispose(self) -> None:
        """Close the connections of an engine that was made for this store."""
        self._engine.dispose()

    def close(self) -> None:
        """The engine is the host's, and nothing else is held."""


class AsyncSqlStore:
    """For async code, on the event loop whose engine it uses.

    The plain store does the work, and SQLAlchemy awaits its driver's calls: in one piece, since each step of an
    AsyncConnection of its own costs as much as a statement.
    """

    capabilities = CAPABILITIES

    def __init__(
        self, engine: AsyncEngine, operations: SqlOperations, notifier: Notifier, watchdog: Watching | None = None
    ) -> None:
        self._watchdog = watchdog or AsyncWatchdog()
        self._engine = engine
        self._operations = operations
        self._notifier = notifier
        self._plain = SqlStore(engine.sync_engine, operations, notifier, self._watchdog)

    async def _write(self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await greenlet_spawn(lambda: self._plain._write(operation, *args, **kwargs))

    async def _watched(
        self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await greenlet_spawn(lambda: self._plain._watched(operation, *args, **kwargs))

    async def _read(self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await greenlet_spawn(lambda: self._plain._read(operation, *args, **kwargs))

    async def register(self, subscriptions: Sequence[Subscription]) -> Mapping[str, str]:
        return await self._watched(self._operations.register, subscriptions)

    async def forget(self, handler: str) -> None:
        await greenlet_spawn(self._plain.forget, handler)

    async def append(self, messages: Sequence[Message], *, capacity: int | None = None) -> Appended:
        return await greenlet_spawn(self._plain.append, messages, capacity=capacity)

    async def wait_for_room(self, needed: int, capacity: int, timeout_seconds: float) -> None:
        """There is always room."""

    async def exchange(
        self,
        owner: str,
        completed: Sequence[Receipt],
        settlements: Sequence[Settlement],
        wants: Sequence[Want],
        *,
        ignore_due: bool = False,
    ) -> Exchange:
        return await greenlet_spawn(self._plain.exchange, owner, completed, settlements, wants, ignore_due=ignore_due)

    async def claim_alone(self, owner: str, handlers: Sequence[str]) -> Exchange:
        return await self._watched(self._operations.claim_alone, owner, handlers)

    async def run_in_session(self, receipt: Receipt, work: Callable[[AsyncSession], Awaitable[object]]) -> object:
        engine = AsyncEngine(_for_handlers(self._engine.sync_engine))
        async with AsyncSession(engine, expire_on_commit=False, close_resets_only=False) as session:
            seal = await session.run_sync(self._plain._seal)
            result = await work(session)
            if is_refusal(result):
                return result
            await session.run_sync(self._plain._acknowledge_in, seal, receipt)
            seal.break_open()
            await session.commit()
            return result

    async def join(self, owner: str, lease_seconds: float) -> None:
        await self._watched(self._operations.join, owner, lease_seconds)

    async def reconcile(self, owner: str, held: Sequence[str]) -> int:
        return await greenlet_spawn(self._plain.reconcile, owner, held)

    async def leave(self, owner: str) -> None:
        await greenlet_spawn(self._plain.leave, owner)

    def lease_keeper(self) -> LeaseKeeper:
        refuse_private_memory(self._engine.sync_engine)
        engine = AsyncEngine(side_engine(self._engine.sync_engine))
        return _AsyncSqlLeaseKeeper(AsyncSqlStore(engine, self._operations, self._notifier, self._watchdog))

    def listen(self, wake: Wake) -> WakeListener:
        engine = self._engine.sync_engine
        refuse_private_memory(engine)
        if not self._operations.is_postgres:
            return NoListener()
        self._plain._open_own()
        return AsyncPostgresListener(AsyncEngine(side_engine(engine)), self._notifier.channel, wake, self._watchdog)

    async def beat(self, owner: str, lease_seconds: float) -> bool:
        return await self._watched(self._operations.beat, owner, lease_seconds)

    async def reap(self, handlers: Sequence[str]) -> Reaped:
        return await self._watched(self._operations.reap, handlers)

    async def sweep(self) -> bool:
        return await greenlet_spawn(self._plain.sweep)

    async def pending(self, handlers: Sequence[str], *, ignore_due: bool = False) -> int:
        return await self._read(self._operations.pending, handlers, ignore_due)

    async def stats(self) -> EventStats:
        return await self._read(self._operations.stats)

    async def newest_dead(self) -> str | None:
        return await self._read(self._operations.newest_dead)

    async def dead_page(self, wanted: DeadFilter, limit: int, after: str | None) -> Page[DeadLetter]:
        return await self._read(self._operations.dead_page, wanted, limit, after)

    async def dead_letter(self, letter: str) -> DeadLetter | None:
        return await self._read(self._operations.dead_letter, letter)

    async def redrive(self, letters: Iterable[str]) -> int:
        return await greenlet_spawn(self._plain.redrive, letters)

    async def discard(self, letters: Iterable[str]) -> int:
        return await self._write(self._operations.discard, list(letters))

    async def old_letters(self, wanted: DeadFilter, died_before: datetime, limit: int, after: str | None) -> Page[str]:
        return await self._read(self._operations.old_letters, wanted, died_before, limit, after)

    async def dispose(self) -> None:
        """Close the connections of an engine that was made for this store."""
        await self._engine.dispose()

    async def close(self) -> None:
        """The engine is the host's, and nothing else is held."""


class _Tidying:
    """Which looks for dead workers tidy up as well: one now and then, and the next one where there is more to do."""

    def __init__(self) -> None:
        self._until_next = 0

    def is_due(self) -> bool:
        """A failure is not tried again at the next look, which has dead workers to find."""
        if self._until_next:
            self._until_next -= 1
            return False
        self._until_next = _SWEEP_EVERY - 1
        return True

    def go_on(self) -> None:
        self._until_next = 0


class _SqlLeaseKeeper:
    """Signs of life on an engine of its own; for one thread."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._tidying = _Tidying()

    def join(self, owner: str, lease_seconds: float) -> None:
        self._store.join(owner, lease_seconds)

    def beat(self, owner: str, lease_seconds: float) -> bool:
        return self._store.beat(owner, lease_seconds)

    def reap(self, handlers: Sequence[str]) -> Reaped:
        if self._tidying.is_due() and self._store.sweep():
            self._tidying.go_on()
        return self._store.reap(handlers)

    def close(self) -> None:
        self._store.dispose()


class _AsyncSqlLeaseKeeper:
    """The same over an async driver, on an event loop of the thread's own."""

    def __init__(self, store: AsyncSqlStore) -> None:
        self._store = store
        self._runner = asyncio.Runner()
        self._tidying = _Tidying()

    def join(self, owner: str, lease_seconds: float) -> None:
        self._runner.run(self._store.join(owner, lease_seconds))

    def beat(self, owner: str, lease_seconds: float) -> bool:
        return self._runner.run(self._store.beat(owner, lease_seconds))

    def reap(self, handlers: Sequence[str]) -> Reaped:
        return self._runner.run(self._reap(handlers))

    async def _reap(self, handlers: Sequence[str]) -> Reaped:
        if self._tidying.is_due() and await self._store.sweep():
            self._tidying.go_on()
        return await self._store.reap(handlers)

    def close(self) -> None:
        try:
            self._runner.run(self._store.dispose())
        finally:
            self._runner.close()
