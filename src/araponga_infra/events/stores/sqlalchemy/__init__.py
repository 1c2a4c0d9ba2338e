"""The store in a SQL database, PostgreSQL or SQLite: tables, statements, operations on a connection, and two shells."""

from araponga_infra.events.stores.sqlalchemy.alembic import create_event_tables, drop_event_tables
from araponga_infra.events.stores.sqlalchemy.inbox import AsyncInbox, Inbox
from araponga_infra.events.stores.sqlalchemy.source import SqlAlchemyEventStore

__all__ = ["AsyncInbox", "Inbox", "SqlAlchemyEventStore", "create_event_tables", "drop_event_tables"]
