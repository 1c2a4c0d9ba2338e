"""What the services under test keep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import ForeignKey, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from araponga_infra import EventRouter, RowVersion, event
from araponga_infra.urls import engine_from_url


class Base(DeclarativeBase): ...


class Post(RowVersion, Base):
    __tablename__ = "post"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    likes: Mapped[int] = mapped_column(default=0)


class Comment(Base):
    """Its post is looked for at COMMIT, and not before."""

    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(primary_key=True)
    post_id: Mapped[int] = mapped_column(ForeignKey("post.id", deferrable=True, initially="DEFERRED"))


@event("integrations.posted", version=1)
@dataclass(frozen=True)
class Posted:
    title: str


handled: list[str] = []
router = EventRouter()


@router.subscribe(Posted)
def note_posted(posted: Posted) -> None:
    handled.append(posted.title)


def make_tables(url: str) -> None:
    engine = engine_from_url(url)
    Base.metadata.create_all(engine)
    engine.dispose()


def sqlite_url(folder: Path) -> str:
    url = f"sqlite:///{folder / 'service.db'}"
    make_tables(url)
    return url


def titles(url: str) -> list[str]:
    """As the database has them, past the service."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = list(connection.execute(Post.__table__.select().order_by("id")).mappings())
    engine.dispose()
    return [row["title"] for row in found]
