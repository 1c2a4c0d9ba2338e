"""What handlers have done in transactions of their own, recorded by those very transactions.

A handler that asks for the store's session needs none of this: its acknowledgement is part of its work already.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, Dialect, Engine, MetaData, Table, delete, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from araponga_infra.clock import SYSTEM_CLOCK, Clock, Duration, to_seconds
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.events.context import DeliveryContext
from araponga_infra.events.lifecycle import positive
from araponga_infra.events.stores.sqlalchemy.schema import checked_schema, naming_missing_tables
from araponga_infra.events.stores.sqlalchemy.tables import inbox_table
from araponga_infra.transactions import AnySession, is_async_session, sync_session

__all__ = ["AsyncInbox", "Inbox"]

_MICRO = 1_000_000
_INSERT: dict[str, Callable[[Table], Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


class _Inbox:
    """The table, and what is done with it on a plain session."""

    def __init__(self, *, schema: str | None = None, clock: Clock | None = None) -> None:
        self._table = inbox_table(MetaData(schema=checked_schema(schema)))
        self._clock = clock or SYSTEM_CLOCK

    @property
    def metadata(self) -> MetaData:
        """Its table, to create or migrate it along with the host's own where the store's tables are elsewhere."""
        return self._table.metadata

    def _accept(self, session: Session, context: DeliveryContext) -> bool:
        with naming_missing_tables():
            dialect = session.get_bind().dialect.name
            if dialect not in _INSERT:
                raise InvalidArgumentError(
                    f"session is on {dialect}, where an inbox cannot be kept: use PostgreSQL or SQLite"
                )
            record = _INSERT[dialect](self._table).on_conflict_do_nothing().returning(self._table.c.event_id)
            values = {
                "event_id": context.event_id,
                "handler": context.handler,
                "published_at": _micros(context.published_at),
                "accepted_at": _micros(self._clock.now()),
            }
            return session.execute(record.values(**values)).first() is not None

    def _purge(self, session: Session, older_than: Duration, limit: int | None) -> int:
        before = _micros(self._clock.now() - timedelta(seconds=to_seconds(older_than, "older_than")))
        old = delete(self._table).where(self._table.c.accepted_at < before)
        if limit is not None:
            oldest = text(self._oldest(session.get_bind().dialect))
            old = old.where(oldest.bindparams(before=before, limit=positive(limit, "limit")))
        with naming_missing_tables():
            return cast(CursorResult[Any], session.execute(old)).rowcount

    def _oldest(self, dialect: Dialect) -> str:
        """A condition that begins at the oldest row and leads to each by where it lies, however many there are."""
        row, among = ("ctid", "= ANY(ARRAY({}))") if dialect.name == "postgresql" else ("rowid", "IN ({})")
        table = dialect.identifier_preparer.format_table(self._table)
        rows = f"SELECT {row} FROM {table} WHERE accepted_at < :before ORDER BY accepted_at LIMIT :limit"
        return f"{row} {among.format(rows)}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}(schema={self._table.schema!r})"


class Inbox(_Inbox):
    """Lets a handler with a database session of its own do its work once, however often it is delivered.

    `accept` writes a row for this delivery in the session's transaction, next to the work: a worker that dies before
    COMMIT leaves neither, and one that dies after it, before the acknowledgement, leaves both, so that the next attempt
    learns that there is nothing left to do. That holds for what the transaction covers, and for nothing outside it.

    Needed where the store's session cannot be asked for: on a `RedisStreamEventStore`, or for work in another database.
    Has no connection of its own; thread-safe. A PostgreSQL or SQLite database.

    Args:
        schema: the database schema of its table; the connection's default when None.
        clock: for the age that `purge` goes by; the machine's own by default.

    Attributes:
        metadata: its table, for `create_all` or Alembic. In the database of a `SqlAlchemyEventStore` it exists already.

    Example:
        >>> inbox = Inbox()
        >>> @router.subscribe(PostPublished)
        ... def count_posts(published: PostPublished, context: DeliveryContext) -> None:
        ...     with Session(engine) as session, session.begin():
        ...         if inbox.accept(session, context):
        ...             session.add(Counted(published.post_id))
    """

    def accept(self, session: Session | scoped_session[Any], context: DeliveryContext) -> bool:
        """Record, in `session`'s transaction, that this handler works on this delivery.

        Call it first, commit once. While another transaction has recorded the same delivery and not ended, this waits
        for it: its COMMIT makes the answer False, its rollback True.

        Args:
            session: the one that the work is done in; a plain one.
            context: what the handler was given.

        Returns:
            True: do the work. False: a transaction that was committed has done it; return.

        Raises:
            InvalidArgumentError: not a plain session, or on a database other than PostgreSQL and SQLite.
            NotConfiguredError: the table is not there.
        """
        return self._accept(_plain(session), _checked(context))

    def purge(self, session: Session | scoped_session[Any], older_than: Duration, *, limit: int | None = None) -> int:
        """Forget, in `session`'s transaction, what was accepted longer ago than that; returns how many.

        Nothing is forgotten by itself. Keep rows longer than you would redrive a dead letter.

        Args:
            session: on the inbox's database.
            older_than: a `timedelta` or seconds.
            limit: at most so many, the oldest: where there may be very many, call it in one short transaction after
                the other until it returns fewer, above all on SQLite, where everybody who writes waits for it.

        Raises:
            InvalidArgumentError: a negative duration, or a limit below 1.
        """
        return self._purge(_plain(session), older_than, limit)

    def create_schema(self, engine: Engine) -> None:
        """Create the table where it is missing."""
        self.metadata.create_all(engine)


class AsyncInbox(_Inbox):
    """The same for async handlers, on an `AsyncSession`; errors included."""

    async def accept(self, session: AsyncSession | async_scoped_session[Any], context: DeliveryContext) -> bool:
        """As `Inbox.accept`."""
        _checked(context)
        return await _awaitable(session).run_sync(self._accept, context)

    async def purge(
        self, session: AsyncSession | async_scoped_session[Any], older_than: Duration, *, limit: int | None = None
    ) -> int:
        """As `Inbox.purge`."""
        return await _awaitable(session).run_sync(self._purge, older_than, limit)

    async def create_schema(self, engine: AsyncEngine) -> None:
        """As `Inbox.create_schema`."""
        async with engine.begin() as connection:
            await connection.run_sync(self.metadata.create_all)


def _micros(moment: datetime) -> int:
    return round(moment.timestamp() * _MICRO)


def _plain(session: AnySession) -> Session:
    if is_async_session(session):
        raise InvalidArgumentError("session is an AsyncSession: use an AsyncInbox, and await it")
    return sync_session(session)


def _awaitable(session: AnySession) -> AsyncSession:
    session = session() if isinstance(session, async_scoped_session) else session
    if not isinstance(session, AsyncSession):
        raise InvalidArgumentError(f"session is a {type(session).__name__}: pass an AsyncSession, or use an Inbox")
    return session


def _checked(context: DeliveryContext) -> DeliveryContext:
    if not isinstance(context, DeliveryContext):
        raise InvalidArgumentError(
            f"context is a {type(context).__name__}: pass the DeliveryContext that the handler asked for by annotation"
        )
    return context
