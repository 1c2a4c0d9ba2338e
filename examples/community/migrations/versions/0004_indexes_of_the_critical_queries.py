"""An index for each page that people wait for. On tables in use: one migration each, with postgresql_concurrently."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_index("ix_post_feed", "community_post", ["territory_id", "id"])
    op.create_index("ix_event_agenda", "territory_event", ["territory_id", "starts_at"])
    op.create_index("ix_membership_of_member", "territory_membership", ["territory_id", "member"], unique=True)
    op.create_index("ix_map_entity_territory_id", "map_entity", ["territory_id"])
    op.create_index("ix_notification_inbox", "notification", ["member", "id"])


def downgrade() -> None:
    op.drop_index("ix_notification_inbox", "notification")
    op.drop_index("ix_map_entity_territory_id", "map_entity")
    op.drop_index("ix_membership_of_member", "territory_membership")
    op.drop_index("ix_event_agenda", "territory_event")
    op.drop_index("ix_post_feed", "community_post")
