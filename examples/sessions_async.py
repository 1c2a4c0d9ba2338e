"""The same in async code: a feed that has seen the last write and cannot write: python examples/sessions_async.py"""

import asyncio
import tempfile

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from araponga_infra import AsyncReplicaSet, ReadOnlyViolationError


class Base(DeclarativeBase): ...


class Post(Base):
    __tablename__ = "post"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


async def count(session: AsyncSession) -> int:
    return await session.scalar(select(func.count(Post.id))) or 0


async def main(folder: str) -> None:
    async with AsyncReplicaSet(f"sqlite:///{folder}/app.db") as replicas:  # PostgreSQL: (primary_url, [replica_url])
        async with replicas.write.begin() as session:
            await (await session.connection()).run_sync(Base.metadata.create_all)
            session.add_all([Post(title="Feira"), Post(title="Mutirão")])
        token = await replicas.write_token()  # after the COMMIT; it fits a cookie; None on SQLite

        async with replicas.read(after=token) as session:  # a replica that has seen it, or the primary
            print("feed:", (await session.scalars(select(Post.title).order_by(Post.id))).all())
            try:
                await session.execute(insert(Post).values(title="Bazar"))
            except ReadOnlyViolationError as error:
                print(f"refused by the {error.layer} layer: {error}")
        try:
            async with replicas.read(fresh=True) as session:  # the primary: for loaders that fill a cache
                (await session.get_one(Post, 1)).title = "forgotten"
        except ReadOnlyViolationError as error:
            print(f"refused by the {error.layer} layer: {error}")
        print("still:", await replicas.run(count), "posts")  # again on another server if its replica breaks it off


with tempfile.TemporaryDirectory() as folder:
    asyncio.run(main(folder))
