"""Row versions: rows that are there begin at 1, and the instances that run meanwhile need not know."""

from alembic import op

from araponga_infra import add_row_version, drop_row_version

revision = "0002"
down_revision = "0001"

VERSIONED = ("territory", "territory_membership", "community_post", "territory_event", "map_entity", "feature_flag")


def upgrade() -> None:
    for table in VERSIONED:
        add_row_version(op, table)


def downgrade() -> None:
    for table in reversed(VERSIONED):
        drop_row_version(op, table)
