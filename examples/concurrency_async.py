"""The same with an AsyncEngine, and ten people who like one post at once: python examples/concurrency_async.py"""

import asyncio
import tempfile

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from araponga_infra import (
    AsyncConcurrencyHelper,
    PreconditionFailedError,
    RowVersion,
    etag,
    expect_version,
    parse_if_match,
)


class Base(DeclarativeBase): ...


class Post(RowVersion, Base):
    __tablename__ = "post"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    likes: Mapped[int] = mapped_column(default=0)


async def save(session: AsyncSession, title: str, if_match: str) -> Post:
    post = await session.get_one(Post, 1)
    expect_version(post, parse_if_match(if_match))
    post.title = title
    return post


async def like(session: AsyncSession, everybody: asyncio.Barrier, tries: list[int]) -> int:
    post = await session.get_one(Post, 1)
    tries.append(post.row_version)
    if post.row_version == 2:
        await everybody.wait()  # until each of the ten has read the same version
    post.likes += 1
    return post.likes


async def main(folder: str) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/blog.db")
    helper = AsyncConcurrencyHelper(async_sessionmaker(engine))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with async_sessionmaker(engine).begin() as session:
        session.add(Post(id=1, title="Feira"))

    post = await helper.execute(save, "Bazar", '"1"')
    print(f"{post.title}, ETag {etag(post)}")
    try:
        await helper.execute(save, "Mutirão", '"1"')
    except PreconditionFailedError as error:
        print("412:", error)

    everybody, tries = asyncio.Barrier(10), list[int]()
    likes = await asyncio.gather(*(helper.execute(like, everybody, tries) for _ in range(10)))
    print(f"{max(likes)} likes of 10 people, {tries.count(2)} of whom had read version 2")
    await engine.dispose()


with tempfile.TemporaryDirectory() as folder:
    asyncio.run(main(folder))
