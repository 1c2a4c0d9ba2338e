"""The tables as the service began, without row versions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table("territory", _id(), sa.Column("name", sa.String(80), nullable=False))
    op.create_table(
        "territory_membership",
        _id(),
        _territory(),
        sa.Column("member", sa.String(80), nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
    )
    op.create_table(
        "community_post",
        _id(),
        _territory(),
        sa.Column("author", sa.String(80), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("likes", Number, nullable=False),
        sa.Column("published_at", Moment, nullable=False),
    )
    op.create_table(
        "territory_event",
        _id(),
        _territory(),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("place", sa.String(200), nullable=False),
        sa.Column("starts_at", Moment, nullable=False),
    )
    op.create_table(
        "map_entity",
        _id(),
        _territory(),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("latitude", sa.Double(), nullable=False),
        sa.Column("longitude", sa.Double(), nullable=False),
    )
    op.create_table(
        "feature_flag",
        sa.Column("name", sa.String(80), primary_key=True),
        sa.Column("is_enabled", sa.Boolean(), nullable=False),
    )
    op.create_table(
        "notification",
        _id(),
        sa.Column("member", sa.String(80), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("sent_at", Moment),
    )


def downgrade() -> None:
    for table in (
        "notification", "feature_flag", "map_entity", "territory_event", "community_post", "territory_membership",
        "territory",
    ):  # fmt: skip
        op.drop_table(table)


def _id() -> sa.Column[int]:
    return sa.Column("id", Number, primary_key=True)


def _territory() -> sa.Column[int]:
    return sa.Column("territory_id", Number, sa.ForeignKey("territory.id"), nullable=False)
