"""The event store's tables, which an instance that was started before its migration has made already."""

from alembic import op

from araponga_infra import SqlAlchemyEventStore

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    SqlAlchemyEventStore(op.get_bind().engine).metadata.create_all(op.get_bind())


def downgrade() -> None:
    SqlAlchemyEventStore(op.get_bind().engine).metadata.drop_all(op.get_bind())
