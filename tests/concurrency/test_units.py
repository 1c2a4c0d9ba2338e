"""`unit_of_work`: functions and methods without their session, `within`, and the types a caller sees."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, assert_type

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from araponga_infra.concurrency import (
    Applied,
    AsyncConcurrencyHelper,
    ConcurrencyHelper,
    NestedUnitOfWorkError,
    VersionedSession,
)
from araponga_infra.errors import InvalidArgumentError

from .blog import Base, Post, like, retitle


@pytest.fixture
def url(tmp_path: Path) -> str:
    path = f"sqlite:///{tmp_path / 'blog.db'}"
    engine = create_engine(path)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Post(id=1))
        session.commit()
    engine.dispose()
    return path


@pytest.fixture
def maker(url: str) -> Iterator[sessionmaker[Session]]:
    engine = create_engine(url)
    yield sessionmaker(engine)
    engine.dispose()


@pytest.fixture
def helper(maker: sessionmaker[Session]) -> ConcurrencyHelper:
    return ConcurrencyHelper(maker)


@pytest.fixture
async def async_helper(url: str) -> AsyncIterator[AsyncConcurrencyHelper]:
    engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))
    yield AsyncConcurrencyHelper(async_sessionmaker(engine))
    await engine.dispose()


def test_a_function_runs_as_a_unit_and_keeps_its_name(helper: ConcurrencyHelper) -> None:
    @helper.unit_of_work
    def publish(session: Session, post_id: int, *, title: str = "Mutirão") -> Post:
        """Publishes."""
        return retitle(session, post_id, title)

    post = publish(1, title="Bazar")
    assert_type(post, Post)
    assert (post.title, post.row_version) == ("Bazar", 2)
    named: Any = publish
    assert (named.__name__, named.__doc__) == ("publish", "Publishes.")
    assert str(inspect.signature(publish)) == "(post_id: 'int', *, title: 'str' = 'Mutirão') -> 'Post'"


def test_a_method_runs_as_a_unit(helper: ConcurrencyHelper) -> None:
    class Editor:
        def __init__(self, name: str) -> None:
            self.name = name

        @helper.unit_of_work
        def sign(self, session: Session, post_id: int) -> Post:
            return retitle(session, post_id, f"by {self.name}")

        @staticmethod
        @helper.unit_of_work
        def like(session: Session, post_id: int) -> int:
            return like(session, post_id)

    editor = Editor("Iara")
    post = editor.sign(1)
    assert_type(post, Post)
    assert post.title == "by Iara"
    assert Editor.sign(Editor("Caio"), 1).title == "by Caio"
    assert Editor.like(1) == 1
    assert list(inspect.signature(editor.sign).parameters) == ["post_id"]


def test_within_joins_a_unit_that_is_open(helper: ConcurrencyHelper) -> None:
    class Editor:
        @helper.unit_of_work
        def sign(self, session: Session, title: str) -> Post:
            return retitle(session, 1, title)

    @helper.unit_of_work
    def like_post(session: Session, post_id: int) -> int:
        return like(session, post_id)

    def both(session: Session) -> int:
        Editor().sign.within(session, "joined")
        return like_post.within(session, 1)

    assert helper.execute(both) == 1
    post = helper.execute(lambda session: session.get_one(Post, 1))
    assert (post.title, post.likes) == ("joined", 1)

    def nested(_session: Session) -> int:
        return like_post(1)

    with pytest.raises(NestedUnitOfWorkError):
        helper.execute(nested)


@pytest.mark.anyio
async def test_async_functions_and_methods(async_helper: AsyncConcurrencyHelper) -> None:
    @async_helper.unit_of_work
    async def like_post(session: AsyncSession, post_id: int) -> int:
        return await session.run_sync(like, post_id)

    class Editor:
        @async_helper.unit_of_work
        async def sign(self, session: AsyncSession, title: str) -> Post:
            await like_post.within(session, 1)
            return await session.run_sync(retitle, 1, title)

    likes = await like_post(1)
    assert_type(likes, int)
    assert likes == 1
    post = await Editor().sign("Iara")
    assert_type(post, Post)
    assert (post.title, post.likes) == ("Iara", 2)


def test_execute_keeps_the_types(helper: ConcurrencyHelper) -> None:
    assert_type(helper.execute(like, 1), int)
    assert_type(helper.execute(retitle, 1, title="a"), Post)
    assert_type(helper.options(max_attempts=5, timeout=2, verify=lambda _session: Applied(1)), ConcurrencyHelper)


def test_options_leave_the_helper_as_it_is(maker: sessionmaker[Session]) -> None:
    helper = ConcurrencyHelper(maker, max_attempts=7)
    changed = helper.options(timeout=3)
    assert changed is not helper
    assert (helper._policy.timeout_seconds, changed._policy.timeout_seconds) == (None, 3)
    assert changed._policy.max_attempts == 7
    with pytest.raises(InvalidArgumentError, match="max_attempts=0"):
        helper.options(max_attempts=0)


@pytest.mark.parametrize("kind", [ConcurrencyHelper, AsyncConcurrencyHelper])
def test_something_else_than_a_sessionmaker_is_refused(kind: Any, maker: sessionmaker[Session]) -> None:
    for wrong in (None, maker.kw["bind"], scoped_session(maker), "sqlite://"):
        with pytest.raises(InvalidArgumentError, match=r"pass sqlalchemy\.\S*sessionmaker\(engine\)"):
            kind(wrong)


def test_unit_of_work_needs_a_function(helper: ConcurrencyHelper) -> None:
    with pytest.raises(InvalidArgumentError, match="first parameter is the session"):
        helper.unit_of_work(7)  # type: ignore[call-overload]
    with pytest.raises(InvalidArgumentError, match="no positional parameter"):
        helper.unit_of_work(lambda: 1)  # type: ignore[arg-type, misc]


async def _rename(session: Any, title: str) -> None:
    session.add(Post(id=2, title=title))


def test_an_async_function_is_no_work_for_the_sync_helper(helper: ConcurrencyHelper) -> None:
    """It would not run, and nothing would be committed."""
    works: list[Any] = [_rename, lambda session, title: _rename(session, title)]
    for work in works:
        with pytest.raises(InvalidArgumentError, match="AsyncConcurrencyHelper"):
            helper.execute(work, "Bazar")
    with pytest.raises(InvalidArgumentError, match="AsyncConcurrencyHelper"):
        helper.unit_of_work(_rename)
    with pytest.raises(InvalidArgumentError, match="AsyncConcurrencyHelper"):
        helper.options(verify=_rename)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_a_plain_function_is_no_work_for_the_async_helper(async_helper: AsyncConcurrencyHelper) -> None:
    def add(session: AsyncSession) -> None:
        session.add(Post(id=2))

    async def find(session: AsyncSession) -> Post | None:
        return await session.get(Post, 2)

    wrong: Any = add
    with pytest.raises(InvalidArgumentError, match="async def"):
        await async_helper.execute(wrong)
    assert await async_helper.execute(find) is None


@pytest.mark.anyio
@pytest.mark.parametrize("work", [None, "x", 3])
async def test_what_cannot_be_called_is_refused(
    helper: ConcurrencyHelper, async_helper: AsyncConcurrencyHelper, work: Any
) -> None:
    with pytest.raises(InvalidArgumentError, match="pass a function"):
        helper.execute(work)
    with pytest.raises(InvalidArgumentError, match="pass a function"):
        await async_helper.execute(work)
    for each in (helper, async_helper):
        if work is not None:
            with pytest.raises(InvalidArgumentError, match="verify="):
                each.options(verify=work)


@pytest.mark.anyio
async def test_within_needs_a_session(helper: ConcurrencyHelper, async_helper: AsyncConcurrencyHelper) -> None:
    async def async_work(session: AsyncSession) -> None: ...

    work: Any = helper.unit_of_work(like)
    wrong: Any
    for wrong in (None, "x", AsyncSession()):
        with pytest.raises(InvalidArgumentError, match="pass the Session"):
            work.within(wrong, 1)
    work = async_helper.unit_of_work(async_work)
    for wrong in (None, "x", Session()):
        with pytest.raises(InvalidArgumentError, match="pass the AsyncSession"):
            work.within(wrong)


def test_the_hosts_sessionmaker_is_called_and_not_changed(url: str) -> None:
    """A maker that chooses, is configured later or adds to its sessions keeps doing so."""
    made: list[dict[str, Any]] = []

    class Choosing(sessionmaker[Session]):
        def __call__(self, **local: Any) -> Session:
            made.append(local)
            return super().__call__(**local)

    maker = Choosing(class_=VersionedSession, info={"tenant": 7})
    helper = ConcurrencyHelper(maker)
    engine = create_engine(url)
    maker.configure(bind=engine)

    assert helper.execute(lambda session: session.info["tenant"]) == 7
    assert made == [{"expire_on_commit": False}]
    assert maker.kw["info"] == {"tenant": 7}
    engine.dispose()
