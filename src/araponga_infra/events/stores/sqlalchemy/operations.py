"""What the SQL store does, as functions of a connection: both shells run these, one directly, one by `run_sync`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Row,
    Select,
    and_,
    delete,
    insert,
    literal,
    literal_column,
    select,
    text,
    true,
    tuple_,
    union_all,
)

from araponga_infra.clock import SYSTEM_CLOCK, Clock
from araponga_infra.events.errors import LeaseLostError
from araponga_infra.events.lifecycle import place_of
from araponga_infra.events.protocols import Settlement
from araponga_infra.events.stores.sqlalchemy.heads import LOWEST, Heads
from araponga_infra.events.stores.sqlalchemy.schema import naming_missing_tables
from araponga_infra.events.stores.sqlalchemy.statements import PostgresStatements, Statements, statements_for
from araponga_infra.events.stores.sqlalchemy.tables import EventTables
from araponga_infra.events.subscribing import plan_subscriptions
from araponga_infra.events.values import (
    Appended,
    DeadFilter,
    DeadLetter,
    DeadReason,
    Delivery,
    EventStats,
    Exchange,
    HandlerStats,
    Message,
    Page,
    Reaped,
    Receipt,
    State,
    Subscription,
    Want,
    as_datetime,
)

__all__ = ["SqlOperations", "begin_immediate"]

Riding = Callable[[], str | None]
_MICRO = 1_000_000
_LONGEST_ID = 18
_ROUTES_FRESH_SECONDS = 1.0
_SEEN_EVERY_SECONDS = 3600.0
_GONE_AFTER_SECONDS = 7 * 86_400.0
_BATCH = 2000
"""Rows that tidying up changes in one transaction: on SQLite all who write wait for it, elsewhere signs of life do."""


def begin_immediate(connection: Connection, table: str) -> None:
    """Take SQLite's write lock before the first read.

    A transaction that reads first and writes later is refused at once when another one wrote in between, whatever the
    busy timeout (SQLite manual, "Isolation", SQLITE_BUSY_SNAPSHOT). A transaction that the host's own listener has
    begun already takes the lock by a write to `table` that changes nothing.
    """
    if connection.dialect.name != "sqlite":
        return
    if _is_in_transaction(connection):
        connection.execute(text(f"DELETE FROM {table} WHERE 0"))
    else:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


class SqlOperations:
    """Operations of one store on one kind of database. Thread-safe; holds no connection.

    Args:
        tables: where.
        dialect: of the engine.
        clock: the host's; None means the database server's where it has one.
    """

    def __init__(self, tables: EventTables, dialect: Dialect, clock: Clock | None) -> None:
        self.tables = tables
        self._dialect = dialect
        self._clock = clock or SYSTEM_CLOCK
        self.is_postgres: bool = dialect.name == "postgresql"
        self._is_server_clock = self.is_postgres and clock is None
        self.sql: Statements = statements_for(tables, dialect, is_server_clock=self._is_server_clock)
        self._heads = Heads()
        self._routes: dict[str, list[str]] = {}
        self._routes_read_at = float("-inf")

    def _values(self, **values: Any) -> dict[str, Any]:
        if not self._is_server_clock:
            values["now"] = self.now()
        return values

    def now(self) -> int:
        return int(self._clock.now().timestamp() * _MICRO)

    def _list(self, values: Sequence[Any]) -> Any:
        return list(values) if self.is_postgres else msgspec.json.encode(values).decode()

    # -- schema

    def create_schema(self, connection: Connection) -> None:
        if self.is_postgres:
            lock = text("SELECT pg_advisory_xact_lock(hashtextextended('araponga_infra.events.schema', 0))")
            connection.execute(lock)
        elif not _is_in_transaction(connection):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        self.tables.metadata.create_all(connection, checkfirst=True)

    # -- subscriptions

    def register(self, connection: Connection, subscriptions: Sequence[Subscription]) -> Mapping[str, str]:
        stored = self._subscriptions(connection)
        plan = plan_subscriptions((each for each, _ in stored.values()), subscriptions)
        stale_before = self.now() - int(_SEEN_EVERY_SECONDS * _MICRO)
        changed = [
            each for each in plan.keep
            if each.handler not in stored or stored[each.handler][0] != each or stored[each.handler][1] < stale_before
        ]  # fmt: skip
        if changed or plan.remove:
            self._write_subscriptions(connection, changed, plan.remove)
            self._routes_read_at = float("-inf")
        return plan.names

    def _subscriptions(self, connection: Connection) -> dict[str, tuple[Subscription, int]]:
        table = self.tables.subscriptions
        rows = connection.execute(select(table.c.handler, table.c.event_name, table.c.aliases, table.c.seen_at))
        return {
            row.handler: (Subscription(row.handler, row.event_name, _read_aliases(row.aliases)), row.seen_at)
            for row in rows
        }

    def _write_subscriptions(
        self, connection: Connection, changed: Sequence[Subscription], removed: Sequence[str]
    ) -> None:
        table = self.tables.subscriptions
        if self.is_postgres:
            lock = text("SELECT pg_advisory_xact_lock(hashtextextended('araponga_infra.events.subscriptions', 0))")
            connection.execute(lock)
        names = [each.handler for each in changed] + list(removed)
        connection.execute(delete(table).where(table.c.handler.in_(names)))
        rows = [
            {
                "handler": each.handler,
                "event_name": each.event_name,
                "aliases": msgspec.json.encode(each.aliases).decode(),
                "seen_at": self.now(),
            }
            for each in changed
        ]
        if rows:
            connection.execute(insert(table), rows)

    def forget(self, connection: Connection, handler: str) -> bool:
        """Drop a subscription and bury some of what waits for it; returns whether more may wait."""
        table = self.tables.subscriptions
        connection.execute(delete(table).where(table.c.handler == handler))
        self._routes_read_at = float("-inf")
        return connection.execute(self.sql.bury_waiting, self._values(handler=handler, batch=_BATCH)).rowcount == _BATCH

    def _routes_for(self, connection: Connection, names: set[str]) -> Mapping[str, list[str]]:
        """Handlers by event. Read again every second, and before saying that an event has none."""
        age = time.monotonic() - self._routes_read_at
        if age < _ROUTES_FRESH_SECONDS and names <= self._routes.keys():
            return self._routes
        routes: dict[str, list[str]] = {}
        for subscription, _ in self._subscriptions(connection).values():
            routes.setdefault(subscription.event_name, []).append(subscription.handler)
        self._routes, self._routes_read_at = routes, time.monotonic()
        return routes

    # -- publishing

    def append(self, connection: Connection, messages: Sequence[Message], riding: Riding | None = None) -> Appended:
        """`riding` is asked for the channel of a NOTIFY that a statement of one row can take along."""
        fresh = self._fresh(connection, messages)
        routes = self._routes_for(connection, {each.name for each in fresh})
        fan_out = [(handler, each) for each in fresh for handler in routes.get(each.name) or [""]]
        keys = [each.ordering_key for each in fresh if each.ordering_key is not None]
        if keys:
            self._lock_keys(connection, keys)
        if fan_out:
            self._insert(connection, fan_out, riding)
        unsubscribed = sum(1 for handler, _ in fan_out if not handler)
        return Appended(len(fan_out) - unsubscribed, len(messages) - len(fresh), unsubscribed)

    def is_one_insert(self, messages: Sequence[Message]) -> bool:
        """Whether `append` needs no transaction around it: neither a key's window nor its order has to be held."""
        return self.is_postgres and not any(each.window_seconds or each.ordering_key is not None for each in messages)

    def append_in(self, connection: Connection, messages: Sequence[Message]) -> Appended:
        """`append` on the connection of a host's session."""
        with naming_missing_tables():
            return self.append(connection, messages)

    def _fresh(self, connection: Connection, messages: Sequence[Message]) -> list[Message]:
        """Keys are taken in one order by all transactions, so that no two of them wait for each other."""
        keyed = sorted((each for each in messages if each.window_seconds), key=lambda each: each.event_id)
        known = {id(each) for each in keyed if not self._accept(connection, each)}
        return [each for each in messages if id(each) not in known]

    def _accept(self, connection: Connection, message: Message) -> bool:
        event_id = str(message.event_id) if self.is_postgres else message.event_id.hex
        window = int(message.window_seconds * _MICRO)
        accepted = connection.execute(self.sql.accept, self._values(event_id=event_id, window=window))
        return accepted.first() is not None

    def _lock_keys(self, connection: Connection, keys: Sequence[str]) -> None:
        """Publishers of one key take turns until COMMIT, so that ids of a key grow in the order of COMMIT. SQLite's
        publishers take turns anyway."""
        if isinstance(self.sql, PostgresStatements):
            connection.execute(self.sql.lock_keys, {"keys": [f"araponga_infra.events:{key}" for key in keys]})

    def _insert(self, connection: Connection, fan_out: Sequence[tuple[str, Message]], riding: Riding | None) -> None:
        if not isinstance(self.sql, PostgresStatements):
            connection.execute(insert(self.tables.deliveries), self._rows(fan_out))
        elif len(fan_out) > 1 or not fan_out[0][0]:
            self.sql.append(connection, self._values(**_columns(fan_out)))
        elif riding is not None and (channel := riding()) is not None:
            self.sql.append_one_and_notify(connection, self._values(channel=channel, **_only_row(*fan_out[0])))
        else:
            self.sql.append_one(connection, self._values(**_only_row(*fan_out[0])))

    def _rows(self, fan_out: Sequence[tuple[str, Message]]) -> list[dict[str, Any]]:
        now = self.now()
        return [
            {
                "handler": handler,
                "state": "available" if handler else "dead",
                "due_at": _at(message) if message.due_at is not None else now + _delay(message),
                "event_id": message.event_id,
                "name": message.name,
                "version": message.version,
                "payload": message.payload,
                "headers": _headers(message),
                "published_at": now,
                "ordering_key": message.ordering_key,
                "reason": None if handler else DeadReason.NO_SUBSCRIBER.value,
                "died_at": None if handler else now,
            }
            for handler, message in fan_out
        ]

    # -- processing

    def exchange(
        self,
        connection: Connection,
        owner: str,
        completed: Sequence[Receipt],
        settlements: Sequence[Settlement],
        wants: Sequence[Want],
        ignore_due: bool,
    ) -> Exchange:
        self._relax(connection)
        fenced = self._complete(connection, completed) if completed else 0
        for receipt, decision in settlements:
            values = self._values(
                id=int(receipt[1].id), owner=receipt[0], claim=receipt[1].claim, state=decision.state.value,
                attempts=decision.attempts, losses=decision.losses, suspect=decision.is_suspect,
                delay=int(decision.delay_seconds * _MICRO), error=decision.error,
                reason=decision.reason.value if decision.reason else None,
            )  # fmt: skip
            fenced += 1 - connection.execute(self.sql.settle, values).rowcount
        if not wants:
            return Exchange([], None, fenced)
        return msgspec.structs.replace(self.claim(connection, owner, wants, ignore_due), fenced=fenced)

    def is_one_claim(
        self, completed: Sequence[Receipt], settlements: Sequence[Settlement], wants: Sequence[Want]
    ) -> bool:
        """Whether such an exchange needs no transaction around it: nothing has to happen together with the claim."""
        return self.is_postgres and bool(wants) and not completed and not settlements

    def claim(self, connection: Connection, owner: str, wants: Sequence[Want], ignore_due: bool) -> Exchange:
        claimed = self._claim(connection, owner, wants, ignore_due)
        return Exchange(claimed, None if claimed else self._next_due(connection, wants))

    def hurry(self, connection: Connection) -> None:
        """In a transaction of several statements, so that what it locks is free soon after its client has vanished from
        the network without a word; the server would notice after hours."""
        if isinstance(self.sql, PostgresStatements):
            self.sql.hurry(connection, {})

    def _relax(self, connection: Connection) -> None:
        """Do not wait for the disk: a claim or acknowledgement that a crash of the server undoes is done again, which
        at-least-once allows (PostgreSQL manual, "Asynchronous Commit"). And hurry."""
        if isinstance(self.sql, PostgresStatements):
            self.sql.relax(connection, {})

    def _complete(self, connection: Connection, completed: Sequence[Receipt]) -> int:
        """In one statement, as a rule: the batch of one owner, all of it claimed for the first time."""
        ids_by_claim: dict[tuple[str, int], list[int]] = {}
        for owner, delivery in completed:
            ids_by_claim.setdefault((owner, delivery.claim), []).append(int(delivery.id))
        done = sum(
            self.sql.complete(connection, {"ids": self._list(ids), "owner": owner, "claim": claim}).rowcount
            for (owner, claim), ids in ids_by_claim.items()
        )
        return len(completed) - done

    def _claim(self, connection: Connection, owner: str, wants: Sequence[Want], ignore_due: bool) -> list[Delivery]:
        floors = [self._heads.floor(each.handler) if self._is_server_clock else LOWEST for each in wants]
        rows = self._claim_from(connection, owner, wants, floors, ignore_due)
        missing = self._heads.note(wants, floors, [(row.handler, row.due_at) for row in rows])
        if missing:
            rows = [*rows, *self._claim_from(connection, owner, missing, [LOWEST] * len(missing), ignore_due)]
        return [_delivery(tuple(row)) for row in sorted(rows, key=_by_due)]

    def _claim_from(
        self, connection: Connection, owner: str, wants: Sequence[Want], floors: Sequence[int], ignore_due: bool
    ) -> Sequence[Row[Any]]:
        values: dict[str, Any] = {"owner": owner}
        if not ignore_due:
            values = self._values(owner=owner)
        for number, (want, floor) in enumerate(zip(wants, floors, strict=True)):
            values[f"handler_{number}"], values[f"limit_{number}"], values[f"floor_{number}"] = *want, floor
        return self.sql.claim(len(wants), ignore_due)(connection, values).all()

    def _next_due(self, connection: Connection, wants: Sequence[Want]) -> float | None:
        values = self._values(names=self._list([each.handler for each in wants]))
        waiting = connection.execute(self.sql.next_due, values).scalar()
        return None if waiting is None else max(0.0, float(waiting) / _MICRO)

    def claim_alone(self, connection: Connection, owner: str, handlers: Sequence[str]) -> Exchange:
        values = {"owner": owner, "names": self._list(handlers)}
        row = connection.execute(self.sql.claim_alone, values).first()
        if row is None:
            return Exchange([])
        counted = _delivery(tuple(row))
        return Exchange([msgspec.structs.replace(counted, attempts=counted.attempts - 1)])

    def acknowledge(self, connection: Connection, receipt: Receipt) -> None:
        """
        Raises:
            LeaseLostError: the owner does not hold it any more.
        """
        owner, delivery = receipt
        values = {"id": int(delivery.id), "owner": owner, "claim": delivery.claim}
        if connection.execute(self.sql.acknowledge, values).rowcount != 1:
            raise LeaseLostError(
                f"delivery {delivery.id} of handler {delivery.handler!r} was taken over while its handler ran: "
                "what it did is rolled back"
            )

    # -- workers

    def join(self, connection: Connection, owner: str, lease_seconds: float) -> None:
        connection.execute(self.sql.join, self._values(owner=owner, lease=int(lease_seconds * _MICRO)))

    def beat(self, connection: Connection, owner: str, lease_seconds: float) -> bool:
        values = self._values(owner=owner, lease=int(lease_seconds * _MICRO))
        return connection.execute(self.sql.beat, values).rowcount == 1

    def reap(self, connection: Connection, handlers: Sequence[str]) -> Reaped:
        connection.execute(self.sql.bury_workers, self._values())
        rescued = connection.execute(self.sql.rescue).rowcount
        has_suspects = connection.execute(self.sql.has_suspects, {"names": self._list(handlers)}).scalar()
        return Reaped(rescued, bool(has_suspects))

    def sweep(self, connection: Connection) -> bool:
        """Forget some of the idempotency keys whose window is over, and handlers that no process has had for a week.

        Returns:
            Whether there may be more to tidy up.
        """
        forgotten = connection.execute(self.sql.forget_accepted, self._values(batch=_BATCH)).rowcount
        patience = int(_GONE_AFTER_SECONDS * _MICRO)
        changed = [forgotten]
        for handler in connection.execute(self.sql.gone, self._values(patience=patience)).scalars().all():
            values = self._values(handler=handler, patience=patience, batch=_BATCH)
            changed.append(connection.execute(self.sql.bury_gone, values).rowcount)
        connection.execute(self.sql.forget_gone, self._values(patience=patience))
        return _BATCH in changed

    def reconcile(self, connection: Connection, owner: str, held: Sequence[str]) -> int:
        values = {"owner": owner, "ids": self._list([int(each) for each in held])}
        return connection.execute(self.sql.give_back, values).rowcount

    def leave(self, connection: Connection, owner: str) -> None:
        self.reconcile(connection, owner, ())
        connection.execute(self.sql.leave, {"owner": owner})

    # -- looking

    def pending(self, connection: Connection, handlers: Sequence[str], ignore_due: bool) -> int:
        values = self._values(names=self._list(handlers), ignore_due=ignore_due)
        return int(connection.execute(self.sql.pending, values).scalar_one())

    def stats(self, connection: Connection) -> EventStats:
        counts: dict[tuple[str, str], dict[str, int]] = {
            (each.event_name, each.handler): {} for each, _ in self._subscriptions(connection).values()
        }
        ages: dict[tuple[str, str], float] = {}
        for row in connection.execute(self.sql.stats, self._values()):
            found = counts.setdefault((row.name, row.handler), {})
            column = _stats_column(row.state, bool(row.is_retry))
            found[column] = found.get(column, 0) + row.number
            if row.oldest is not None:
                age = (row.now - row.oldest) / _MICRO
                ages[row.name, row.handler] = max(age, ages.get((row.name, row.handler), 0.0))
        return EventStats.of(
            tuple(
                HandlerStats(event, handler, **numbers, oldest_age_seconds=ages.get((event, handler), 0.0))
                for (event, handler), numbers in sorted(counts.items())
            )
        )

    # -- dead letters

    def newest_dead(self, connection: Connection) -> str | None:
        number = self.tables.deliveries.c.id
        newest = self._dead(DeadFilter()).with_only_columns(number).order_by(number.desc()).limit(1)
        found = connection.execute(newest).scalar()
        return None if found is None else str(found)

    def dead_page(self, connection: Connection, wanted: DeadFilter, limit: int, after: str | None) -> Page[DeadLetter]:
        rows = connection.execute(self._first_dead(wanted, limit + 1, after)).all()
        items = tuple(_letter(row) for row in rows[:limit])
        return Page(items, items[-1].id if len(rows) > limit else None)

    def _first_dead(self, wanted: DeadFilter, limit: int, after: str | None) -> Select[Any]:
        """The index of a handler's or an event's dead letters has them by reason: the first of each, merged."""
        if wanted.reason is not None or wanted == DeadFilter(until=wanted.until):
            return self._first_of_a_range(wanted, limit, after)
        each_reason = [self._first_of_a_range(replace(wanted, reason=each), limit, after) for each in DeadReason]
        found = union_all(*[select(each.subquery()) for each in each_reason]).subquery()
        return select(found).order_by(found.c.id).limit(limit)

    def _first_of_a_range(self, wanted: DeadFilter, limit: int, after: str | None) -> Select[Any]:
        number = self.tables.deliveries.c.id
        query = self._dead(wanted).order_by(number).limit(limit)
        return query if after is None else query.where(number > place_of(after))

    def _dead(self, wanted: DeadFilter) -> Select[Any]:
        query = select(self.tables.deliveries).where(literal_column("state = 'dead'"), *self._conditions(wanted))
        return query if wanted.until is None else query.where(self.tables.deliveries.c.id <= int(wanted.until))

    def _conditions(self, wanted: DeadFilter) -> list[ColumnElement[bool]]:
        """SQLite, which keeps no statistics by itself, is told that a handler has fewer dead letters than its event."""
        columns = self.tables.deliveries.c
        is_by_handler = wanted.handler is not None and not self.is_postgres
        name = columns.name.concat(literal_column("''")) if is_by_handler else columns.name
        conditions = ((columns.handler, wanted.handler), (name, wanted.event), (columns.reason, wanted.reason))
        return [column == str(value) for column, value in conditions if value is not None]

    def dead_letter(self, connection: Connection, letter: str) -> DeadLetter | None:
        if not _is_id(letter):
            return None
        columns = self.tables.deliveries.c
        row = connection.execute(self._dead(DeadFilter()).where(columns.id == int(letter))).first()
        return None if row is None else _letter(row)

    def redrive(self, connection: Connection, letters: Iterable[str]) -> int:
        """Rows get new ids: a redriven delivery joins the end of its ordering key's line."""
        table = self.tables.deliveries
        letters_there = connection.execute(self._named_letters(letters)).all()
        orphans = {row.name for row in letters_there if not row.handler}
        routes: Mapping[str, list[str]] = self._routes_for(connection, orphans) if orphans else {}
        rows = [row for row in letters_there if row.handler or routes.get(row.name)]
        if not rows:
            return 0
        connection.execute(delete(table).where(table.c.id.in_([row.id for row in rows])))
        keys = [row.ordering_key for row in rows if row.ordering_key is not None]
        if keys:
            self._lock_keys(connection, keys)
        again = [
            self._again(row, handler)
            for row in rows
            for handler in ([row.handler] if row.handler else routes[row.name])
        ]
        connection.execute(insert(table), again)
        return len(rows)

    def _named_letters(self, letters: Iterable[str]) -> Select[Any]:
        """Those of them that are there, locked in one order by all, so that no two operators wait for each other."""
        number = self.tables.deliveries.c.id
        ids = [int(each) for each in letters if _is_id(each)]
        return self._dead(DeadFilter()).where(number.in_(ids)).order_by(number).with_for_update()

    def _again(self, row: Row[Any], handler: str) -> dict[str, Any]:
        return {
            "handler": handler,
            "state": State.AVAILABLE.value,
            "due_at": row.due_at,
            "event_id": row.event_id,
            "name": row.name,
            "version": row.version,
            "payload": row.payload,
            "headers": row.headers,
            "published_at": row.published_at,
            "ordering_key": row.ordering_key,
        }

    def discard(self, connection: Connection, letters: Iterable[str]) -> int:
        number = self.tables.deliveries.c.id
        locked = connection.execute(self._named_letters(letters).with_only_columns(number)).scalars().all()
        connection.execute(delete(self.tables.deliveries).where(number.in_(locked)))
        return len(locked)

    def old_letters(
        self, connection: Connection, wanted: DeadFilter, died_before: datetime, limit: int, after: str | None
    ) -> Page[str]:
        columns = self.tables.deliveries.c
        died_at, number = columns.died_at, columns.id
        old = self._dead(DeadFilter()).where(died_at < int(died_before.timestamp() * _MICRO))
        if after is not None:
            died_last, last = map(int, after.split(":"))
            old = old.where(tuple_(died_at, number) > tuple_(literal(died_last), literal(last)))
        is_wanted = and_(true(), *self._conditions(wanted)).label("is_wanted")
        looked = old.with_only_columns(died_at, number, is_wanted).order_by(died_at, number).limit(limit)
        rows = connection.execute(looked).all()
        behind = f"{rows[-1].died_at}:{rows[-1].id}" if len(rows) == limit else None
        return Page(tuple(str(row.id) for row in rows if row.is_wanted), behind)


def _is_in_transaction(connection: Connection) -> bool:
    driver: Any = connection.connection.driver_connection
    return bool(driver.in_transaction)


def _read_aliases(aliases: str) -> tuple[str, ...]:
    return msgspec.json.decode(aliases, type=tuple[str, ...])


def _only_row(handler: str, message: Message) -> dict[str, Any]:
    return {
        "handler": handler,
        "at": None if message.due_at is None else _at(message),
        "delay": _delay(message),
        "event_id": str(message.event_id),
        "event_name": message.name,
        "version": message.version,
        "payload": message.payload,
        "headers": _headers(message),
        "ordering_key": message.ordering_key,
    }


def _columns(fan_out: Sequence[tuple[str, Message]]) -> dict[str, list[Any]]:
    messages = [message for _, message in fan_out]
    return {
        "handlers": [handler for handler, _ in fan_out],
        "ats": [None if each.due_at is None else _at(each) for each in messages],
        "delays": [_delay(each) for each in messages],
        "event_ids": [str(each.event_id) for each in messages],
        "event_names": [each.name for each in messages],
        "versions": [each.version for each in messages],
        "payloads": [each.payload for each in messages],
        "headers": [_headers(each) for each in messages],
        "ordering_keys": [each.ordering_key for each in messages],
    }


def _is_id(letter: str) -> bool:
    return letter.isascii() and letter.isdecimal() and len(letter) <= _LONGEST_ID


def _at(message: Message) -> int:
    return int((message.due_at or 0.0) * _MICRO)


def _delay(message: Message) -> int:
    return int(message.delay_seconds * _MICRO)


def _headers(message: Message) -> str | None:
    return msgspec.json.encode(message.headers).decode() if message.headers else None


def _by_due(row: Row[Any]) -> tuple[int, int]:
    return row.due_at, row.id


def _read_headers(headers: str | None) -> Mapping[str, str] | None:
    return msgspec.json.decode(headers, type=dict[str, str]) if headers else None


def _delivery(row: Sequence[Any]) -> Delivery:
    number, handler, event_id, name, version, payload, headers, published, attempts, losses, key, claims, _ = row
    return Delivery(
        str(number), handler, event_id if isinstance(event_id, UUID) else UUID(event_id), name, version, bytes(payload),
        _read_headers(headers), published / _MICRO, attempts, losses, key, claims,
    )  # fmt: skip


def _letter(row: Row[Any]) -> DeadLetter:
    return DeadLetter(
        id=str(row.id), event_id=row.event_id, event_name=row.name, event_version=row.version, handler=row.handler,
        attempts=row.attempts, lost_leases=row.losses, reason=DeadReason(row.reason), error=row.error,
        published_at=as_datetime(row.published_at / _MICRO), died_at=as_datetime(row.died_at / _MICRO),
        payload=bytes(row.payload), headers=dict(_read_headers(row.headers) or {}), ordering_key=row.ordering_key,
    )  # fmt: skip


def _stats_column(state: str, is_retry: bool) -> str:
    if state in (State.RUNNING, State.DEAD):
        return state
    return "retrying" if is_retry else "queued"
