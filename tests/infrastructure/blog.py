"""A table, a value and an event for the wiring's tests."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from araponga_infra import AsyncInfrastructure, EventRouter, InfraSettings, Infrastructure, RowVersion, event


class Base(DeclarativeBase): ...


class Post(RowVersion, Base):
    __tablename__ = "post"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    post_id: Mapped[int]


@event("blog.published", version=1)
@dataclass(frozen=True)
class Published:
    post_id: int


def note_router() -> EventRouter:
    """A handler in the transaction of its acknowledgement, for sync processors."""
    router = EventRouter()

    @router.subscribe(Published)
    def note(published: Published, session: Session) -> None:
        session.add(Note(post_id=published.post_id))

    return router


def async_note_router() -> EventRouter:
    """The same for async processors."""
    router = EventRouter()

    @router.subscribe(Published)
    async def note(published: Published, session: AsyncSession) -> None:
        session.add(Note(post_id=published.post_id))

    return router


def publish(infra: Infrastructure, title: str) -> Post:
    """A post and its event in one transaction."""
    with infra.write() as session:
        session.add(post := Post(title=title))
        session.flush()
        infra.events.publish_in(session, Published(post.id))
    return post


async def async_publish(infra: AsyncInfrastructure, title: str) -> Post:
    """The same, async."""
    async with infra.write() as session:
        session.add(post := Post(title=title))
        await session.flush()
        infra.events.publish_in(session, Published(post.id))
    return post


def settings_for(url: str, *, redis_url: str | None = None, replica_url: str | None = None) -> InfraSettings:
    return InfraSettings(url, (replica_url,) if replica_url else (), redis_url)
