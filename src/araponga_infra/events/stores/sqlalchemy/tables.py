"""The tables of the SQL store. Times are whole microseconds since the epoch: exact, and the same in every database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TextClause,
    Uuid,
    event,
    text,
)

__all__ = ["AS_A_QUEUE", "EventTables", "inbox_table"]

_PENDING = text("state IN ('available', 'retryable')")
_RUNNING = text("state = 'running'")
_DEAD = text("state = 'dead'")
_KEYED = text("ordering_key IS NOT NULL AND state <> 'dead'")
_SUSPECT = text("suspect")
AS_A_QUEUE = (
    "SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, "
    "autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0)"
)
_alter_to_a_queue = DDL(f"ALTER TABLE %(fullname)s {AS_A_QUEUE}")  # type: ignore[no-untyped-call]
_Number = BigInteger().with_variant(Integer, "sqlite")


class EventTables:
    """Tables in a MetaData of their own, so that a host can create and migrate them with or without its own.

    Args:
        schema: the database schema they live in; the connection's default when None.

    The table of deliveries is a queue: rows come and go quickly. So PostgreSQL leaves room for updates in each page and
    vacuums it early. Indexes hold only the rows of a state, so that those of dead letters, which serve their pages and
    filters, cost what dies and nothing else.
    """

    def __init__(self, schema: str | None) -> None:
        self.metadata: MetaData = MetaData(schema=schema)
        self.deliveries: Table = Table(
            "araponga_deliveries",
            self.metadata,
            Column("id", _Number, Identity(), primary_key=True),
            Column("handler", String(400), nullable=False),
            Column("state", String(10), nullable=False),
            Column("due_at", BigInteger, nullable=False),
            Column("event_id", Uuid, nullable=False),
            Column("name", String(200), nullable=False),
            Column("version", Integer, nullable=False),
            Column("payload", LargeBinary, nullable=False),
            Column("headers", Text),
            Column("published_at", BigInteger, nullable=False),
            Column("attempts", Integer, nullable=False, server_default="0"),
            Column("losses", Integer, nullable=False, server_default="0"),
            Column("claims", Integer, nullable=False, server_default="0"),
            Column("suspect", Boolean, nullable=False, server_default=text("false")),
            Column("ordering_key", String(200)),
            Column("owner", String(40)),
            Column("reason", String(40)),
            Column("error", Text),
            Column("died_at", BigInteger),
            sqlite_autoincrement=True,
        )
        event.listen(self.deliveries, "after_create", _alter_to_a_queue.execute_if(dialect="postgresql"))
        columns = self.deliveries.c
        _index("araponga_deliveries_due", (columns.handler, columns.due_at, columns.id), _PENDING)
        _index("araponga_deliveries_running", (columns.owner,), _RUNNING)
        _index("araponga_deliveries_key", (columns.handler, columns.ordering_key, columns.id), _KEYED)
        _index("araponga_deliveries_suspect", (columns.handler, columns.id), _SUSPECT)
        _index("araponga_deliveries_dead", (columns.id,), _DEAD)
        _index("araponga_deliveries_dead_reason", (columns.reason, columns.id), _DEAD)
        _index("araponga_deliveries_dead_handler", (columns.handler, columns.reason, columns.id), _DEAD)
        _index("araponga_deliveries_dead_event", (columns.name, columns.reason, columns.id), _DEAD)
        _index("araponga_deliveries_died", (columns.died_at, columns.id), _DEAD)
        self.subscriptions: Table = Table(
            "araponga_subscriptions",
            self.metadata,
            Column("handler", String(400), primary_key=True),
            Column("event_name", String(200), nullable=False),
            Column("aliases", Text, nullable=False),
            Column("seen_at", BigInteger, nullable=False),
        )
        self.workers: Table = Table(
            "araponga_workers",
            self.metadata,
            Column("owner", String(40), primary_key=True),
            Column("expires_at", BigInteger, nullable=False),
        )
        self.accepted: Table = Table(
            "araponga_accepted",
            self.metadata,
            Column("event_id", Uuid, primary_key=True),
            Column("expires_at", BigInteger, nullable=False, index=True),
        )
        self.inbox: Table = inbox_table(self.metadata)


def inbox_table(metadata: MetaData) -> Table:
    """What handlers with sessions of their own have done; in the store's database, or in another one of the host's.

    An event id alone does not name a publication: after its window an idempotency key brings the same one again.
    """
    return Table(
        "araponga_inbox",
        metadata,
        Column("event_id", Uuid, primary_key=True),
        Column("handler", String(400), primary_key=True),
        Column("published_at", BigInteger, primary_key=True, autoincrement=False),
        Column("accepted_at", BigInteger, nullable=False, index=True),
    )


def _index(name: str, columns: tuple[Column[Any], ...], where: TextClause) -> None:
    Index(name, *columns, postgresql_where=where, sqlite_where=where)
