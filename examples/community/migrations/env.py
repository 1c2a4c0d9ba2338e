"""Runs on the connection that `schema.py` hands over, in whatever transaction it is in."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=context.config.attributes["target_metadata"])
with context.begin_transaction():
    context.run_migrations()
