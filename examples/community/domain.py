"""What every process of the service imports: rows, values, events. No engine, no cache, no processor."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from sqlalchemy import BigInteger, DateTime, Dialect, Double, ForeignKey, Index, Integer, String, Text, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from araponga_infra import RowVersion, event

Name = Annotated[str, mapped_column(String(80))]
Title = Annotated[str, mapped_column(String(200))]


def now() -> datetime:
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, in UTC on every database: SQLite keeps no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=value.tzinfo or UTC)


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012 - as SQLAlchemy has it
        int: BigInteger().with_variant(Integer, "sqlite"),
        float: Double(),
        datetime: UtcDateTime,
    }


class TerritoryRow(RowVersion, Base):
    __tablename__ = "territory"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[Name]
    memberships: Mapped[list["TerritoryMembership"]] = relationship()


class TerritoryMembership(RowVersion, Base):
    """Who belongs to a territory. Accounts live elsewhere; here a member is a name."""

    __tablename__ = "territory_membership"
    __table_args__ = (Index("ix_membership_of_member", "territory_id", "member", unique=True),)
    id: Mapped[int] = mapped_column(primary_key=True)
    territory_id: Mapped[int] = mapped_column(ForeignKey("territory.id"))
    member: Mapped[Name]
    role: Mapped[str] = mapped_column(String(20), default="resident")


class CommunityPost(RowVersion, Base):
    __tablename__ = "community_post"
    __table_args__ = (Index("ix_post_feed", "territory_id", "id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    territory_id: Mapped[int] = mapped_column(ForeignKey("territory.id"))
    author: Mapped[Name] = mapped_column(default="")
    title: Mapped[Title]
    body: Mapped[str] = mapped_column(Text, default="")
    likes: Mapped[int] = mapped_column(default=0)
    published_at: Mapped[datetime] = mapped_column(default=now)
    territory: Mapped[TerritoryRow] = relationship()


Post = CommunityPost  # what the small services next door call it


class TerritoryEvent(RowVersion, Base):
    """Something that takes place: a market, a cleanup. Not to be mixed up with what goes through the outbox."""

    __tablename__ = "territory_event"
    __table_args__ = (Index("ix_event_agenda", "territory_id", "starts_at"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    territory_id: Mapped[int] = mapped_column(ForeignKey("territory.id"))
    title: Mapped[Title]
    place: Mapped[Title]
    starts_at: Mapped[datetime]


class MapEntity(RowVersion, Base):
    __tablename__ = "map_entity"
    id: Mapped[int] = mapped_column(primary_key=True)
    territory_id: Mapped[int] = mapped_column(ForeignKey("territory.id"), index=True)
    name: Mapped[Title]
    kind: Mapped[str] = mapped_column(String(20))
    latitude: Mapped[float]
    longitude: Mapped[float]


class FeatureFlagRow(RowVersion, Base):
    __tablename__ = "feature_flag"
    name: Mapped[Name] = mapped_column(primary_key=True)
    is_enabled: Mapped[bool] = mapped_column(default=False)


class Notification(Base):
    """An entry of a member's inbox."""

    __tablename__ = "notification"
    __table_args__ = (Index("ix_notification_inbox", "member", "id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    member: Mapped[Name]
    text: Mapped[str] = mapped_column(Text)
    sent_at: Mapped[datetime | None]


class ServiceInstance(Base):
    """An instance that answered its last roll call, with its own report of itself. One writer a row: no version."""

    __tablename__ = "service_instance"
    name: Mapped[Name] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime]
    report: Mapped[str] = mapped_column(Text)


@dataclass(frozen=True)
class Territory:
    """What is cached: a value, not an ORM row. Its version is what an ETag is made of."""

    id: int
    name: str
    version: int


@dataclass(frozen=True)
class FeatureFlag:
    name: str
    is_enabled: bool
    version: int


@dataclass(frozen=True)
class MapPoint:
    id: int
    name: str
    kind: str
    latitude: float
    longitude: float


@dataclass(frozen=True)
class UpcomingEvent:
    id: int
    title: str
    place: str
    starts_at: datetime


@event("community.post_published", version=1)
@dataclass(frozen=True)
class PostPublished:
    post_id: int
    territory_id: int


@event("community.event_announced", version=1)
@dataclass(frozen=True)
class EventAnnounced:
    event_id: int
    territory_id: int


@event("community.notification_queued", version=1)
@dataclass(frozen=True)
class NotificationQueued:
    notification_id: int
