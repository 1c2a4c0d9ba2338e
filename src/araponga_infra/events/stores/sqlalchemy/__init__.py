"""The store in a SQL database, PostgreSQL or SQLite: tables, statements, operations on a connection, and two shells."""

from araponga_infra.events.stores.sqlalchemy.source import SqlAlchemyEventStore

__all__ = ["SqlAlchemyEventStore"]
