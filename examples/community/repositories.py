"""Rows for writing. What a repository gives is tracked by its session: a change of it is flushed with the version that
was read, or not at all. Reads for display take a read-only session and the statements in `queries`."""

from typing import Generic, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from araponga_infra import IfMatch, expect_version

from .domain import Base, CommunityPost

Row = TypeVar("Row", bound=Base)
Changed = TypeVar("Changed", bound=Base, contravariant=True)


class Cache(Protocol[Changed]):
    """Forgets what it has of a row once that session's transaction is committed."""

    def changed_in(self, session: AsyncSession, row: Changed) -> None: ...


class Repository(Generic[Row]):
    """The rows of one kind in one unit of work; the caches that hold some of them follow each change.

    A row that is not there is `sqlalchemy.exc.NoResultFound`, a version that the client did not see is 412, somebody
    who was faster in between 409.
    """

    def __init__(self, session: AsyncSession, kind: type[Row], *caches: Cache[Row]) -> None:
        self.session = session
        self._kind = kind
        self._caches = caches

    async def add(self, row: Row) -> Row:
        self.session.add(row)
        await self.session.flush()  # the id, the row version
        self._tell_caches(row)
        return row

    async def edit(self, id: int | str, seen: IfMatch, **changes: object) -> Row:
        row = await self._expected(id, seen)
        for name, value in changes.items():
            setattr(row, name, value)
        await self.session.flush()
        self._tell_caches(row)
        return row

    async def remove(self, id: int | str, seen: IfMatch) -> None:
        row = await self._expected(id, seen)
        await self.session.delete(row)
        self._tell_caches(row)

    async def _expected(self, id: int | str, seen: IfMatch) -> Row:
        row = await self.session.get_one(self._kind, id)
        expect_version(row, seen)
        return row

    def _tell_caches(self, row: Row) -> None:
        for cache in self._caches:
            cache.changed_in(self.session, row)


async def like(session: AsyncSession, post_id: int) -> int:
    """A unit of work: run by `infra.concurrency.execute`, and again when somebody else likes the post, too."""
    post = await session.get_one(CommunityPost, post_id)
    post.likes += 1
    return post.likes
