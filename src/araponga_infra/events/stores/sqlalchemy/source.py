"""`SqlAlchemyEventStore`: names an engine, and gives processors the shell they need."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar, overload

from sqlalchemy import Dialect, Engine, MetaData
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from araponga_infra.clock import Clock
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.events.protocols import AsyncEventStore, EventStore, Wake
from araponga_infra.events.stores.sqlalchemy.engines import is_other_database
from araponga_infra.events.stores.sqlalchemy.listening import Notifier, channel_of
from araponga_infra.events.stores.sqlalchemy.operations import SqlOperations
from araponga_infra.events.stores.sqlalchemy.outbox import append_in, engine_of, install_outbox
from araponga_infra.events.stores.sqlalchemy.schema import checked_schema
from araponga_infra.events.stores.sqlalchemy.shells import CAPABILITIES, AsyncSqlStore, SqlStore
from araponga_infra.events.stores.sqlalchemy.tables import EventTables
from araponga_infra.events.values import Appended, Message
from araponga_infra.transactions import AnySession, sync_session

__all__ = ["SqlAlchemyEventStore"]

E = TypeVar("E", Engine, AsyncEngine)
_SUPPORTED = ("postgresql", "sqlite")


class SqlAlchemyEventStore(Generic[E]):
    """Keeps deliveries in a PostgreSQL or SQLite database, next to the host's own tables.

    The engine stays the host's: used, never closed. With an `Engine` it serves `BackgroundEventProcessor`, with an
    `AsyncEngine` `AsyncBackgroundEventProcessor`. It can be made before forking; processors are started after.

    Args:
        engine: of the database that `publish_in` sessions are on as well.
        schema: the database schema of its tables; the connection's default when None.

    Attributes:
        metadata: its tables, for `metadata.create_all`, or for Alembic's `target_metadata` next to the host's own.

    Raises:
        InvalidArgumentError: not an engine, or of another database.

    While the database is away its errors reach the publisher; processors wait and go on when it is back. Without the
    tables every call raises `NotConfiguredError`, which names `create_schema()`.

    Examples:
        >>> store = SqlAlchemyEventStore(engine)
        >>> store.create_schema()
    """

    capabilities = CAPABILITIES

    def __init__(self, engine: E, *, schema: str | None = None) -> None:
        if not isinstance(engine, (Engine, AsyncEngine)):
            raise InvalidArgumentError(f"engine is a {type(engine).__name__}: pass a SQLAlchemy Engine or AsyncEngine")
        if engine.dialect.name not in _SUPPORTED:
            raise InvalidArgumentError(
                f"engine is for {engine.dialect.name}, which has no event store: use PostgreSQL or SQLite"
            )
        self._engine: Engine | AsyncEngine = engine
        self._tables = EventTables(checked_schema(schema))
        self._notifier = Notifier(channel_of(schema), is_postgres=engine.dialect.name == "postgresql")
        self._operations: dict[tuple[Clock | None, str], SqlOperations] = {}
        self._lock = threading.Lock()
        install_outbox()

    @property
    def is_async(self) -> bool:
        return isinstance(self._engine, AsyncEngine)

    @property
    def metadata(self) -> MetaData:
        """Its tables, to create or migrate them along with the host's own."""
        return self._tables.metadata

    @overload
    def create_schema(self: SqlAlchemyEventStore[Engine]) -> None: ...

    @overload
    def create_schema(self: SqlAlchemyEventStore[AsyncEngine]) -> Awaitable[None]: ...

    def create_schema(self) -> Awaitable[None] | None:
        """Create the tables that are missing. Several processes may do so at the same time.

        To be awaited with an `AsyncEngine`.
        """
        operations = self._operations_for(None)
        if isinstance(self._engine, AsyncEngine):
            return _create_async(self._engine, operations)
        with self._engine.begin() as connection:
            operations.create_schema(connection)
        return None

    def sync_store(self, clock: Clock | None = None) -> EventStore:
        if isinstance(self._engine, AsyncEngine):
            raise InvalidArgumentError(
                "store has an AsyncEngine, which a BackgroundEventProcessor cannot use: "
                "give it an Engine, or use AsyncBackgroundEventProcessor"
            )
        return SqlStore(self._engine, self._operations_for(clock), self._notifier)

    def async_store(self, clock: Clock | None = None) -> AsyncEventStore:
        if not isinstance(self._engine, AsyncEngine):
            raise InvalidArgumentError(
                "store has an Engine, which an AsyncBackgroundEventProcessor cannot use: "
                "give it an AsyncEngine, or use BackgroundEventProcessor"
            )
        return AsyncSqlStore(self._engine, self._operations_for(clock), self._notifier)

    def append_in(
        self,
        session: AnySession,
        message: Message,
        on_commit: Wake,
        clock: Clock | None = None,
        note: Callable[[int, Appended], None] | None = None,
    ) -> None:
        operations = self._operations_for(clock, self._same_database(session).dialect)
        append_in(session, message, operations.append_in, _AfterCommit(self._notifier, on_commit), note)

    def _same_database(self, session: AnySession) -> Engine:
        """The session's engine; its driver may be another one than the store's."""
        try:
            bind = sync_session(session).get_bind().engine
        except UnboundExecutionError:
            raise InvalidArgumentError(
                "session has no engine of its own: pass a session bound to the database of the event store"
            ) from None
        own = self._engine.sync_engine if isinstance(self._engine, AsyncEngine) else self._engine
        if bind.pool is not own.pool and is_other_database(bind.url, own.url):
            raise InvalidArgumentError(
                "session is on another database than the event store, so that its COMMIT cannot write the event: "
                "pass a session on the store's database, or use publish()"
            )
        return bind

    def _operations_for(self, clock: Clock | None, dialect: Dialect | None = None) -> SqlOperations:
        """Statements are written for one driver."""
        dialect = dialect or self._engine.dialect
        with self._lock:
            if (clock, dialect.driver) not in self._operations:
                self._operations[clock, dialect.driver] = SqlOperations(self._tables, dialect, clock)
            return self._operations[clock, dialect.driver]

    def __repr__(self) -> str:
        return f"SqlAlchemyEventStore({self._engine.url.render_as_string(hide_password=True)})"


class _AfterCommit:
    """Tells this process, and the others. Within an AsyncSession's COMMIT the plain calls are awaited by SQLAlchemy."""

    def __init__(self, notifier: Notifier, wake: Wake) -> None:
        self._notifier = notifier
        self._wake = wake

    def __call__(self, session: Session) -> None:
        self._wake()
        self._notifier.notify(engine_of(session))


async def _create_async(engine: AsyncEngine, operations: SqlOperations) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(operations.create_schema)
