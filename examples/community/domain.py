"""What every process of the service imports: rows, values, events. No engine, no cache, no processor."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from araponga_infra import RowVersion, event


class Base(DeclarativeBase): ...


class TerritoryRow(RowVersion, Base):
    __tablename__ = "territory"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Post(RowVersion, Base):
    __tablename__ = "post"
    id: Mapped[int] = mapped_column(primary_key=True)
    territory_id: Mapped[int] = mapped_column(ForeignKey("territory.id"), index=True)
    title: Mapped[str]
    likes: Mapped[int] = mapped_column(default=0)
    territory: Mapped[TerritoryRow] = relationship()


class Notification(Base):
    __tablename__ = "notification"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    sent_at: Mapped[datetime | None]


@dataclass(frozen=True)
class Territory:
    id: int
    name: str


@event("community.post_published", version=1)
@dataclass(frozen=True)
class PostPublished:
    post_id: int
    territory_id: int


@event("community.notification_queued", version=1)
@dataclass(frozen=True)
class NotificationQueued:
    notification_id: int
