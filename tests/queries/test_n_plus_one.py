"""What is an N+1 and, as much, what is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, MetaData, func, insert, inspect, select, text, update
from sqlalchemy.ext.asyncio import AsyncAttrs, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, joinedload, selectin_polymorphic, selectinload, sessionmaker, subqueryload, undefer

from araponga_infra.queries import NPlusOne, Origin, QueryInspector, QueryReport

from .models import Animal, Author, Base, Bird, Comment, Frog, Post, add_posts


@contextmanager
def watched(engine: Engine) -> Iterator[tuple[Session, QueryReport]]:
    with QueryInspector(engine).capture() as report, Session(engine) as session:
        yield session, report


def only(report: QueryReport) -> NPlusOne:
    (found,) = report.n_plus_one
    return found


class TestFound:
    @pytest.mark.parametrize("any_engine", ["sqlite", "psycopg", "psycopg2"], indirect=True)
    def test_lazy_load_of_a_scalar(self, any_engine: Engine) -> None:
        with watched(any_engine) as (session, report):
            for post in session.scalars(select(Post)):
                assert post.author.name
        found = only(report)
        assert (found.times, found.origin, found.loads) == (4, Origin.LAZY, "Post.author")
        assert found.place is not None
        assert found.place.source == "assert post.author.name"
        assert "selectinload(Post.author)" in found.advice

    def test_lazy_load_of_a_collection(self, engine: Engine) -> None:
        with watched(engine) as (session, report):
            for post in session.scalars(select(Post)):
                assert len(post.comments) == 2
        assert (only(report).times, only(report).loads) == (4, "Post.comments")

    def test_two_lazy_loads_are_enough(self, engine: Engine) -> None:
        with watched(engine) as (session, report):
            for post in session.scalars(select(Post).limit(2)):
                assert post.author.name
        assert only(report).times == 2

    def test_query_in_a_loop(self, engine: Engine) -> None:
        with watched(engine) as (session, report):
            for number in range(1, 4):
                session.scalars(select(Comment).where(Comment.post_id == number)).all()
        assert (only(report).times, only(report).origin) == (3, Origin.QUERY)
        assert "in_(" in only(report).advice

    def test_get_in_a_loop(self, any_engine: Engine) -> None:
        with watched(any_engine) as (session, report):
            assert all(session.get(Author, number) for number in range(1, 4))
        assert only(report).times == 3

    def test_text_with_literals_in_a_loop(self, engine: Engine) -> None:
        with watched(engine) as (session, report):
            for number in range(1, 4):
                session.execute(text(f"SELECT name FROM author WHERE id = {number}"))
        assert only(report).shape == "SELECT name FROM author WHERE id = ?"

    def test_core_in_a_loop(self, engine: Engine) -> None:
        with QueryInspector(engine).capture() as report, engine.connect() as connection:
            for number in range(1, 4):
                connection.execute(select(Author.name).where(Author.id == number))
        assert only(report).times == 3

    def test_the_newest_row_for_each_is_no_page(self, engine: Engine) -> None:
        with watched(engine) as (session, report):
            for number in range(1, 4):
                newest = select(Comment).where(Comment.post_id == number).order_by(Comment.id.desc()).limit(1)
                session.scalars(newest).all()
        assert only(report).times == 3

    def test_a_fixed_list_beside_the_key_is_no_chunk(self, engine: Engine) -> None:
        with watched(engine) as (session, report):
            for number in range(1, 4):
                session.execute(select(Comment).where(Comment.post_id == number, Comment.text.in_(["Sim", "Não"])))
        assert only(report).times == 3

    def test_joined_query_in_a_loop(self, engine: Engine) -> None:
        with watched(engine) as (session, report):
            for number in range(1, 4):
                session.scalars(select(Post).where(Post.id == number).options(joinedload(Post.author))).all()
        assert (only(report).times, only(report).origin) == (3, Origin.JOINED)

    def test_deferred_column(self, engine: Engine) -> None:
        with watched(engine) as (session, report):
            for author in session.scalars(select(Author)):
                assert author.biography == ""
        assert (only(report).origin, only(report).loads) == (Origin.REFRESH, "Author.biography")

    def test_several_objects_that_expired_at_once(self, engine: Engine) -> None:
        with watched(engine) as (session, report):
            authors = session.scalars(select(Author)).all()
            session.commit()
            names = [author.name for author in authors]
        assert len(names) == 4
        assert (only(report).origin, only(report).times) == (Origin.REFRESH, 4)
        assert "expire_on_commit" in only(report).advice

    def test_columns_of_a_subclass(self, engine: Engine) -> None:
        _add_animals(engine)
        with watched(engine) as (session, report):
            for animal in session.scalars(select(Animal)):
                if isinstance(animal, Bird):
                    assert animal.song
        assert (only(report).origin, only(report).times) == (Origin.REFRESH, 3)

    def test_recursion(self, engine: Engine) -> None:
        def depth(post: Post | None) -> int:
            return 0 if post is None else 1 + depth(post.parent)

        with watched(engine) as (session, report):
            newest = session.scalars(select(Post).order_by(Post.id.desc()).limit(1)).one()
            session.expunge_all()
            newest = session.get_one(Post, newest.id)
            assert depth(newest) == 4
        assert only(report).loads == "Post.parent"

    def test_below_a_helper_that_is_called_in_a_loop(self, engine: Engine) -> None:
        def name_of(post: Post) -> str:
            return post.author.name

        with watched(engine) as (session, report):
            assert len([name_of(post) for post in session.scalars(select(Post))]) == 4
        assert only(report).place is not None
        assert str(only(report).place).startswith("tests/queries/test_n_plus_one.py:")

    def test_in_each_unit_of_its_own(self, engine: Engine) -> None:
        with QueryInspector(engine).capture() as report:
            for _ in range(2):
                with Session(engine) as session:
                    assert [post.author.name for post in session.scalars(select(Post))]
        assert [found.times for found in report.n_plus_one] == [4, 4]

    def test_in_a_session_that_joined_an_outer_transaction(self, engine: Engine) -> None:
        inspector = QueryInspector(engine)
        with engine.begin() as connection, inspector.capture() as report, Session(connection) as session:
            assert [post.author.name for post in session.scalars(select(Post))]
        assert only(report).times == 4

    def test_inside_savepoints(self, engine: Engine) -> None:
        with watched(engine) as (session, report):
            for number in range(1, 4):
                with session.begin_nested():
                    session.get(Author, number)
        assert only(report).times == 3


class TestFalseAlarms:
    """Each is what some detector reports and nobody can act on."""

    @pytest.mark.parametrize("load", [selectinload, joinedload, subqueryload])
    def test_eager_loads(self, any_engine: Engine, load: object) -> None:
        with watched(any_engine) as (session, report):
            posts = session.scalars(select(Post).options(load(Post.author), load(Post.comments))).unique()  # type: ignore[operator]
            assert [(post.author.name, len(post.comments)) for post in posts]
        assert report.n_plus_one == ()
        assert {statement.origin for statement in report.statements} <= {
            Origin.QUERY, Origin.SELECT_IN, Origin.SUBQUERY, Origin.JOINED,
        }  # fmt: skip

    def test_select_in_loads_come_in_chunks_of_500(self, engine: Engine) -> None:
        with engine.begin() as connection:
            connection.execute(insert(Author), [{"id": n, "name": "n", "biography": ""} for n in range(100, 1_800)])
            connection.execute(insert(Post), [{"id": n, "author_id": n, "title": "t"} for n in range(100, 1_800)])
        with watched(engine) as (session, report):
            session.scalars(select(Author).options(selectinload(Author.posts))).all()
        chunks = [statement for statement in report.statements if statement.origin is Origin.SELECT_IN]
        assert len(chunks) == 4
        assert report.n_plus_one == ()

    def test_the_same_statement_once_in_each_of_several_sessions(self, engine: Engine) -> None:
        with QueryInspector(engine).capture() as report:
            for number in range(1, 5):
                with Session(engine) as session:
                    session.get_one(Post, number)
        assert len(report.statements) == 4
        assert report.n_plus_one == ()

    def test_one_lazy_load_in_each_of_several_sessions(self, engine: Engine) -> None:
        with QueryInspector(engine).capture() as report:
            for number in range(1, 5):
                with Session(engine) as session:
                    assert session.get_one(Post, number).author.name
        assert report.n_plus_one == ()

    @pytest.mark.parametrize("mode", ["create_savepoint", "rollback_only"])
    def test_sessions_that_a_test_joins_into_one_outer_transaction(self, engine: Engine, mode: Any) -> None:
        """SQLAlchemy's recipe for tests that roll back: all sessions share one connection and its transaction."""
        with QueryInspector(engine).capture() as report, engine.connect() as connection:
            outer = connection.begin()
            for number in range(1, 5):
                with Session(connection, join_transaction_mode=mode) as session, session.begin():
                    session.get_one(Post, number).title += "!"
            outer.rollback()
        assert [s.origin for s in report.queries] == [Origin.QUERY, Origin.WRITE] * 4
        assert report.n_plus_one == ()

    def test_one_transaction_after_another_in_one_session(self, engine: Engine) -> None:
        """What was read before a COMMIT expires with it and is read again, once for each transaction."""
        with watched(engine) as (session, report):
            post = session.get_one(Post, 1)
            for _ in range(4):
                post.title += "!"
                session.commit()
        assert {s.origin for s in report.statements} >= {Origin.REFRESH, Origin.WRITE}
        assert report.n_plus_one == ()

    def test_add_commit_refresh_for_each(self, engine: Engine) -> None:
        with watched(engine) as (session, report):
            for number in range(4):
                author = Author(name=f"new {number}")
                session.add(author)
                session.commit()
                session.refresh(author)
        assert report.n_plus_one == ()

    @pytest.mark.parametrize("any_engine", ["sqlite", "psycopg", "psycopg2"], indirect=True)
    def test_inserts_of_a_flush(self, any_engine: Engine) -> None:
        with watched(any_engine) as (session, report), session.begin():
            session.add_all(Author(id=number, name="n") for number in range(100, 110))
            session.add_all(Post(id=number, author_id=number, title="t") for number in range(100, 110))
        assert {statement.origin for statement in report.statements} == {Origin.WRITE}
        assert report.n_plus_one == ()

    def test_writes_in_a_loop(self, engine: Engine) -> None:
        with watched(engine) as (session, report), session.begin():
            for number in range(1, 5):
                session.execute(update(Post).where(Post.id == number).values(title="x"))
                session.execute(text("UPDATE post SET title = 'y' WHERE id = :id"), {"id": number})
        assert report.n_plus_one == ()

    def test_selectin_polymorphic(self, engine: Engine) -> None:
        _add_animals(engine)
        with watched(engine) as (session, report):
            animals = session.scalars(select(Animal).options(selectin_polymorphic(Animal, [Bird, Frog]))).all()
            assert [animal.song if isinstance(animal, Bird) else "" for animal in animals]
        assert [s.origin for s in report.statements] == [Origin.QUERY, Origin.SELECT_IN, Origin.SELECT_IN]
        assert report.n_plus_one == ()

    def test_two_rows_of_the_same_table_by_intent(self, engine: Engine) -> None:
        def load(session: Session, number: int) -> Author:
            return session.get_one(Author, number)

        with watched(engine) as (session, report):
            giver, taker = load(session, 1), load(session, 2)
            other, another = load(session, 3), load(session, 4)
            assert len({giver, taker, other, another}) == 4
        assert report.n_plus_one == ()

    def test_two_keys_in_a_loop(self, engine: Engine) -> None:
        with watched(engine) as (session, report):
            assert all(session.get(Author, number) for number in (1, 2))
        assert report.n_plus_one == ()

    def test_one_lazy_load_of_each_of_two_objects_by_intent(self, engine: Engine) -> None:
        def name_of(post: Post) -> str:
            return post.author.name

        with watched(engine) as (session, report):
            first, second = session.get_one(Post, 1), session.get_one(Post, 2)
            assert name_of(first) != name_of(second)
        assert report.n_plus_one == ()

    @pytest.mark.parametrize("any_engine", ["sqlite", "psycopg", "psycopg2"], indirect=True)
    def test_chunks_of_keys(self, any_engine: Engine) -> None:
        with watched(any_engine) as (session, report):
            for chunk in ([1, 2], [3, 4], [5, 6], [7, 8]):
                session.scalars(select(Post).where(Post.id.in_(chunk))).all()
        assert {statement.origin for statement in report.statements} == {Origin.BATCH}
        assert report.n_plus_one == ()

    def test_long_lists_of_keys_of_one_owner(self, engine: Engine) -> None:
        with watched(engine) as (session, report):
            for start in range(0, 100, 25):
                keys = list(range(start, start + 25))
                session.scalars(select(Post).where(Post.author_id == 1, Post.id.in_(keys))).all()
        assert report.n_plus_one == ()

    def test_pages_by_offset(self, engine: Engine) -> None:
        with watched(engine) as (session, report):
            for page in range(1, 5):
                session.scalars(select(Post).order_by(Post.id).limit(1).offset(page)).all()
        assert report.n_plus_one == ()

    def test_pages_by_key(self, any_engine: Engine) -> None:
        last = 0
        with watched(any_engine) as (session, report):
            while page := session.scalars(select(Post).where(Post.id > last).order_by(Post.id).limit(1)).all():
                last = page[-1].id
        assert len(report.statements) == 5
        assert report.n_plus_one == ()

    def test_rows_fetched_bit_by_bit_with_their_select_in_loads(self, any_engine: Engine) -> None:
        with watched(any_engine) as (session, report):
            posts = session.scalars(select(Post).options(selectinload(Post.comments)).execution_options(yield_per=1))
            assert [len(post.comments) for post in posts] == [2] * 4
        assert [s.origin for s in report.statements] == [Origin.QUERY, *[Origin.SELECT_IN] * 4]
        assert report.n_plus_one == ()

    def test_questions_about_the_schema(self, any_engine: Engine) -> None:
        with QueryInspector(any_engine).capture() as report:
            Base.metadata.create_all(any_engine)
            MetaData().reflect(any_engine)
            assert all(inspect(any_engine).has_table(name) for name in Base.metadata.tables)
        assert len(report.statements) >= 6
        assert report.n_plus_one == ()

    def test_savepoints(self, engine: Engine) -> None:
        with watched(engine) as (session, report):
            for _ in range(4):
                with session.begin_nested():
                    session.connection()
        assert {statement.origin for statement in report.statements} == {Origin.TRANSACTION}
        assert len(report) == 0
        assert report.n_plus_one == ()

    def test_what_was_loaded_well(self, engine: Engine) -> None:
        with watched(engine) as (session, report):
            authors = session.scalars(select(Author).options(undefer(Author.biography))).all()
            assert [author.biography for author in authors] == [""] * 4
            assert session.scalar(select(func.count(Post.id))) == 4
        assert report.n_plus_one == ()

    def test_the_identity_map_answers(self, engine: Engine) -> None:
        with watched(engine) as (session, report):
            authors = session.scalars(select(Author)).all()
            assert len(authors) == 4
            assert [post.author.name for post in session.scalars(select(Post))]
        assert report.n_plus_one == ()

    def test_sessions_that_do_not_expire(self, engine: Engine) -> None:
        with QueryInspector(engine).capture() as report, sessionmaker(engine, expire_on_commit=False)() as session:
            authors = session.scalars(select(Author)).all()
            session.commit()
            assert [author.name for author in authors]
        assert report.n_plus_one == ()


def _add_animals(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add_all(Bird(song="Tin") for _ in range(3))
        session.add_all(Frog(colour="green") for _ in range(3))


@pytest.mark.anyio
class TestAsync:
    async def test_lazy_loads_by_awaitable_attributes(self, async_engine: AsyncEngine) -> None:
        with QueryInspector(async_engine).capture() as report:
            async with AsyncSession(async_engine) as session:
                for post in (await session.scalars(select(Post))).all():
                    assert (await AsyncAttrs.awaitable_attrs.fget(post).author).name  # type: ignore[attr-defined]
        found = only(report)
        assert (found.times, found.origin, found.loads) == (4, Origin.LAZY, "Post.author")
        assert found.place is not None
        assert "awaitable_attrs" in found.place.source

    async def test_queries_in_a_loop(self, async_engine: AsyncEngine) -> None:
        with QueryInspector(async_engine).capture() as report:
            async with AsyncSession(async_engine) as session:
                for number in range(1, 4):
                    await session.get_one(Author, number)
        found = only(report)
        assert found.place is not None
        assert (found.times, found.place.source) == (3, "await session.get_one(Author, number)")

    async def test_a_server_side_cursor_is_one_query(self, async_engine: AsyncEngine) -> None:
        with QueryInspector(async_engine).capture() as report:
            async with AsyncSession(async_engine) as session:
                posts = await session.stream_scalars(select(Post).execution_options(yield_per=1))
                assert len([post.id async for post in posts]) == 4
        assert len(report.statements) == 1

    async def test_select_in_loads_are_none(self, async_engine: AsyncEngine) -> None:
        with QueryInspector(async_engine).capture() as report:
            async with AsyncSession(async_engine) as session:
                posts = await session.scalars(select(Post).options(selectinload(Post.author)))
                assert [post.author.name for post in posts]
        assert len(report.statements) == 2
        assert report.n_plus_one == ()

    async def test_sync_code_inside(self, async_engine: AsyncEngine) -> None:
        def names(session: Session) -> list[str]:
            return [post.author.name for post in session.scalars(select(Post))]

        with QueryInspector(async_engine).capture() as report:
            async with AsyncSession(async_engine) as session:
                assert len(await session.run_sync(names)) == 4
        found = only(report)
        assert found.place is not None
        assert "names" in found.place.function


def test_posts_are_what_the_tests_think(engine: Engine) -> None:
    with Session(engine) as session:
        add_posts(session, 0)
        assert session.scalar(select(func.count(Comment.id))) == 8
