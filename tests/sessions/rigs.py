"""One database behind a read-only factory, sync or async, so that the same attempts run over every driver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import String, create_engine, text
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from sqlalchemy.pool import StaticPool
from sqlalchemy.schema import ForeignKey
from sqlalchemy.util import greenlet_spawn

from araponga_infra.sessions import AsyncReadOnlySessionFactory, ReadOnlySessionFactory

T = TypeVar("T")


class Base(DeclarativeBase): ...


class Post(Base):
    __tablename__ = "post"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    title: Mapped[str] = mapped_column(String(100))
    comments: Mapped[list[Comment]] = relationship(back_populates="post", cascade="all, delete-orphan")


class Comment(Base):
    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    post_id: Mapped[int] = mapped_column(ForeignKey("post.id"))
    body: Mapped[str] = mapped_column(String(100))
    post: Mapped[Post] = relationship(back_populates="comments")


POSTGRESQL_ONLY = (
    "CREATE SEQUENCE counter",
    "CREATE FUNCTION rename_all() RETURNS int LANGUAGE sql AS $$ UPDATE post SET title = 'changed'; SELECT 1 $$",
    "CREATE FUNCTION count_posts() RETURNS bigint LANGUAGE sql STABLE AS $$ SELECT count(*) FROM post $$",
    "CREATE FUNCTION open_up() RETURNS int LANGUAGE sql AS $$ SET default_transaction_read_only = off; SELECT 1 $$",
    "CREATE PROCEDURE tidy() LANGUAGE sql AS $$ DELETE FROM post $$",
    "CREATE VIEW titles AS SELECT title FROM post",
)
CONTENT = [(1, "first"), (2, "second")]


class Rig:
    """A sync rig; `run` is async all the same, so that tests are written once."""

    def __init__(self, url: str, *, by_engine: bool = False, **options: Any) -> None:
        self.url = url
        self.engine = create_engine(url, **options)
        self.factory = ReadOnlySessionFactory(self.engine if by_engine else url)

    @property
    def plain_engine(self) -> Engine:
        return self.engine

    async def run(self, attempt: Callable[[Session], T]) -> T:
        with self.factory() as session:
            return attempt(session)

    async def write(self, work: Callable[[Session], T]) -> T:
        with Session(self.engine) as session, session.begin():
            return work(session)

    async def close(self) -> None:
        self.factory.close()
        self.engine.dispose()


class AsyncRig(Rig):
    def __init__(self, url: str, *, by_engine: bool = False, **options: Any) -> None:
        self.url = url
        self.async_engine: AsyncEngine = create_async_engine(url, **options)
        self.async_factory = AsyncReadOnlySessionFactory(self.async_engine if by_engine else url)

    @property
    def plain_engine(self) -> Engine:
        return self.async_engine.sync_engine

    async def run(self, attempt: Callable[[Session], T]) -> T:
        async with self.async_factory() as session:
            return await session.run_sync(attempt)

    async def write(self, work: Callable[[Session], T]) -> T:
        async with AsyncSession(self.async_engine) as session, session.begin():
            return await session.run_sync(work)

    async def close(self) -> None:
        await self.async_factory.aclose()
        await self.async_engine.dispose()


SQLITE = {
    "sqlite": (Rig, "sqlite", False),
    "sqlite, host's engine": (Rig, "sqlite", True),
    "sqlite in memory, host's engine": (Rig, "memory", True),
    "aiosqlite": (AsyncRig, "sqlite+aiosqlite", False),
    "aiosqlite, host's engine": (AsyncRig, "sqlite+aiosqlite", True),
}
POSTGRESQL = {
    "psycopg": (Rig, "psycopg", False),
    "psycopg, host's engine": (Rig, "psycopg", True),
    "psycopg2": (Rig, "psycopg2", False),
    "psycopg2, host's engine": (Rig, "psycopg2", True),
    "async psycopg": (AsyncRig, "psycopg", False),
    "async psycopg, host's engine": (AsyncRig, "psycopg", True),
    "asyncpg": (AsyncRig, "asyncpg", False),
    "asyncpg, host's engine": (AsyncRig, "asyncpg", True),
}


def sqlite_rig(name: str, path: str) -> Rig:
    kind, driver, by_engine = SQLITE[name]
    if driver == "memory":
        return kind("sqlite://", by_engine=by_engine, poolclass=StaticPool, connect_args={"check_same_thread": False})
    return kind(f"{driver}:///{path}", by_engine=by_engine)


async def fill(rig: Rig, extra: Sequence[str] = ()) -> None:
    def work(session: Session) -> None:
        Base.metadata.create_all(session.connection())
        for statement in extra:
            session.execute(text(statement))
        session.add_all(Post(id=number, title=title) for number, title in CONTENT)
        session.flush()
        session.add(Comment(id=1, post_id=1, body="nice"))

    await rig.write(work)


async def content(rig: Rig) -> list[tuple[int, str]]:
    """What an ordinary session sees."""

    def work(session: Session) -> list[tuple[int, str]]:
        return [(post.id, post.title) for post in session.query(Post).order_by(Post.id)]

    return await rig.write(work)


__all__ = [
    "CONTENT", "POSTGRESQL", "POSTGRESQL_ONLY", "SQLITE", "AsyncRig", "Base", "Comment", "Post", "Rig", "content",
    "fill", "greenlet_spawn", "sqlite_rig",
]  # fmt: skip
