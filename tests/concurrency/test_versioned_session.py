"""What a VersionedSession refuses and translates, outside `execute` as well as inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import Session, load_only, sessionmaker
from sqlalchemy.orm.exc import StaleDataError

from araponga_infra.concurrency import (
    ConcurrencyConflictError,
    PreconditionFailedError,
    RowConflict,
    VersionedSession,
    touch,
)
from araponga_infra.errors import InvalidArgumentError

from .blog import Boat, Comment, Post, Tag, like
from .databases import Database, SyncDatabase

Others = sessionmaker[Session]


def like_by_another(others: Others) -> None:
    with others.begin() as other:
        like(other, 1)


def commit(session: Session) -> None:
    session.commit()


@pytest.mark.parametrize("finish", [lambda s: s.flush(), lambda s: s.commit()], ids=["flush", "commit"])
def test_a_conflict_is_told_outside_of_execute(
    database: Database, others: Others, finish: Callable[[Session], None]
) -> None:
    with database.session() as run:
        post = run(lambda session: session.get_one(Post, 1))
        like_by_another(others)
        post.title = "never"
        with pytest.raises(ConcurrencyConflictError) as refused:
            run(finish)
    assert refused.value.conflicts == (RowConflict("Post", (1,), 1, 2),)
    assert refused.value.attempts == 1


LOCKS: dict[str, Callable[[Session], object]] = {
    "get": lambda s: s.get(Post, 1, with_for_update=True),
    "get_one": lambda s: s.get_one(Post, 1, with_for_update=True),
    "get, populated anew": lambda s: s.get(Post, 1, with_for_update=True, populate_existing=True),
}


@pytest.mark.parametrize("case", LOCKS)
def test_a_lock_that_finds_the_row_changed_tells_of_the_conflict(database: Database, others: Others, case: str) -> None:
    """SQLAlchemy compares the row that it locks with the one that is held."""
    overtaken: list[Post] = []

    def lock_too_late(session: Session) -> object:
        post = session.get_one(Post, 1)
        if not overtaken:
            overtaken.append(post)
            like_by_another(others)
        return LOCKS[case](session)

    with database.session() as run, pytest.raises(ConcurrencyConflictError) as refused:
        run(lock_too_late)
    assert refused.value.conflicts == (RowConflict("Post", (1,), 1, 2),)
    overtaken.clear()
    database.helper(VersionedSession)(lock_too_late)
    assert len(overtaken) == 1


def test_a_conflict_is_told_by_a_begin_block(database: Database, others: Others) -> None:
    def edit(session: Session) -> None:
        with session.begin():
            post = session.get_one(Post, 1)
            like_by_another(others)
            post.title = "never"

    with database.session() as run, pytest.raises(ConcurrencyConflictError, match="Post 1"):
        run(edit)


def test_telling_of_a_conflict_needs_no_second_connection(database: Database, others: Others) -> None:
    if not isinstance(database, SyncDatabase):
        return
    alone = SyncDatabase("alone", database.url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    with VersionedSession(alone.engine) as session:
        post = session.get_one(Post, 1)
        like_by_another(others)
        post.title = "never"
        with pytest.raises(ConcurrencyConflictError, match="at version 2 now"):
            session.flush()
    alone.close()


def test_a_conflict_in_a_savepoint_leaves_the_transaction_alone(database: Database, others: Others) -> None:
    if database.is_sqlite:
        return  # its one writer at a time leaves nobody to conflict with once the transaction has written

    def edit_in_savepoint(session: Session) -> None:
        session.add(Tag(id=1, name="kept"))
        session.flush()
        post = session.get_one(Post, 1)
        like_by_another(others)
        with pytest.raises(ConcurrencyConflictError, match="at version 2 now"), session.begin_nested():
            post.title = "never"
        session.commit()

    with database.session() as run:
        run(edit_in_savepoint)
    with others() as session:
        assert session.get_one(Tag, 1).name == "kept"


def test_versions_are_read_anew_in_each_transaction(database: Database, others: Others) -> None:
    """What an earlier transaction of the session wrote is no suspect of a later one."""
    with database.session() as run:
        post = run(lambda session: session.get_one(Post, 1))
        post.title = "mine"
        run(commit)
        like_by_another(others)
        run(lambda session: session.refresh(post))
        post.title = "mine again"
        run(commit)
    with others() as session:
        assert session.get_one(Post, 1).row_version == 4


def change_without_version(session: Session) -> None:
    session.scalars(select(Post).options(load_only(Post.title))).one().title = "a"
    session.flush()


def write_blindly(session: Session) -> None:
    post = session.get_one(Post, 1)
    session.expire(post)
    post.title = "a"


def save_without_version(session: Session) -> None:
    post = session.scalars(select(Post).options(load_only(Post.title))).one()
    post.title = "a"
    session.bulk_save_objects([post])


def save_with_a_late_version(session: Session) -> None:
    post = session.scalars(select(Post).options(load_only(Post.title))).one()
    session.refresh(post, ["row_version"])
    post.title = "a"
    session.bulk_save_objects([post])


UNSAFE: dict[str, tuple[Callable[[Session], object], str]] = {
    "update without synchronization": (
        lambda s: s.execute(update(Post).values(likes=1), execution_options={"synchronize_session": False}),
        "synchronize_session",
    ),
    "Query.update without synchronization": (
        lambda s: s.query(Post).update({"likes": 1}, synchronize_session=False),
        "synchronize_session",
    ),
    "delete without synchronization": (
        lambda s: s.execute(delete(Post), execution_options={"synchronize_session": False}),
        "synchronize_session",
    ),
    "by-key list without versions": (
        lambda s: s.execute(update(Post), [{"id": 1, "title": "a"}]),
        "list of keys needs row_version",
    ),
    "bulk_update_mappings without versions": (
        lambda s: s.bulk_update_mappings(Post, [{"id": 1, "title": "a"}]),
        "list of keys needs row_version",
    ),
    "joined subclass": (lambda s: s.execute(update(Boat).values(berths=1)), "leaves the version in asset"),
    "the table of a joined subclass": (
        lambda s: s.execute(update(Boat.__table__).values(berths=1)),  # type: ignore[arg-type]
        "leaves the version in asset",
    ),
    "setting the version": (lambda s: s.execute(update(Post).values(row_version=9)), "leave it out"),
    "PostgreSQL upsert": (
        lambda s: s.execute(
            postgresql.insert(Post)
            .values(id=1, title="a", body="", likes=0)
            .on_conflict_do_update(index_elements=["id"], set_={"title": "a"})
        ),
        "upsert",
    ),
    "SQLite upsert": (
        lambda s: s.execute(
            sqlite.insert(Post)
            .values(id=1, title="a", body="", likes=0)
            .on_conflict_do_update(index_elements=["id"], set_={"title": "a"})
        ),
        "upsert",
    ),
    "upsert into the table": (
        lambda s: s.execute(
            sqlite.insert(Post.__table__)  # type: ignore[arg-type]
            .values(id=1, title="a", body="", likes=0)
            .on_conflict_do_update(index_elements=["id"], set_={"title": "a"})
        ),
        "upsert",
    ),
    "upsert that returns objects": (
        lambda s: s.scalars(
            select(Post).from_statement(
                sqlite.insert(Post)
                .values(id=1, title="a", body="", likes=0)
                .on_conflict_do_update(index_elements=["id"], set_={"title": "a"})
                .returning(Post)
            )
        ),
        "upsert",
    ),
    "MySQL upsert": (
        lambda s: s.execute(mysql.insert(Post).values(id=1, title="a").on_duplicate_key_update(title="a")),
        "upsert",
    ),
    "INSERT OR REPLACE": (
        lambda s: s.execute(
            insert(Post).prefix_with("OR REPLACE", dialect="sqlite").values(id=1, title="a", body="", likes=0)
        ),
        "begins again at version 1",
    ),
    "INSERT OR REPLACE into the table": (
        lambda s: s.execute(
            insert(Post.__table__)  # type: ignore[arg-type]
            .prefix_with("or replace")
            .values(id=1, title="a", body="", likes=0)
        ),
        "begins again at version 1",
    ),
    "UPDATE OR REPLACE": (
        lambda s: s.execute(update(Post).prefix_with("OR REPLACE", dialect="sqlite").where(Post.id == 2).values(id=1)),
        "that are in the way",
    ),
    "UPDATE OR REPLACE of the table": (
        lambda s: s.execute(update(Post.__table__).prefix_with("or replace").values(id=1)),  # type: ignore[arg-type]
        "that are in the way",
    ),
    "merge without a version": (lambda s: s.merge(Post(id=1, title="a")), "without its row_version"),
    "assignment of the version": (lambda s: setattr(s.get_one(Post, 1), "row_version", 7), "expect_version"),
    "assignment of an expression": (
        lambda s: setattr(s.get_one(Post, 1), "row_version", Post.row_version + 1),
        "expect_version",
    ),
    "a change of a row read without its version": (change_without_version, "load_only"),
    "saving an object read without its version": (save_without_version, "saved in bulk without its row_version"),
    "saving an object whose version was read late": (save_with_a_late_version, "read after its other columns"),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_what_could_overwrite_unseen_is_refused(database: Database, others: Others, case: str) -> None:
    work, reason = UNSAFE[case]
    with database.session() as run, pytest.raises(InvalidArgumentError, match=reason):
        run(work)
    with pytest.raises(InvalidArgumentError, match=reason):
        database.helper(VersionedSession)(work)
    with others() as session:
        post = session.get_one(Post, 1)
        assert (post.title, post.row_version) == ("Feira", 1)


SAFE: dict[str, tuple[Callable[[Session], object], int]] = {
    "update": (lambda s: s.execute(update(Post).values(likes=1)), 2),
    "update, ordered values": (
        lambda s: s.execute(update(Post).ordered_values((Post.likes, 1), (Post.title, "a"))),
        2,
    ),
    "update with fetch": (
        lambda s: s.execute(update(Post).values(likes=1), execution_options={"synchronize_session": "fetch"}),
        2,
    ),
    "Core update": (lambda s: s.execute(update(Post.__table__).values(likes=1)), 2),  # type: ignore[arg-type]
    "Query.update": (lambda s: s.query(Post).update({"likes": 1}), 2),
    "counting by hand": (lambda s: s.execute(update(Post).values(row_version=Post.row_version + 1)), 2),
    "by-key list with versions": (lambda s: s.execute(update(Post), [{"id": 1, "likes": 1, "row_version": 1}]), 2),
    "bulk_update_mappings with versions": (
        lambda s: s.bulk_update_mappings(Post, [{"id": 1, "likes": 1, "row_version": 1}]),
        2,
    ),
    "upsert that counts": (
        lambda s: s.execute(
            sqlite.insert(Post)
            .values(id=1, title="a", body="", likes=0)
            .on_conflict_do_update(index_elements=["id"], set_={"title": "a", "row_version": Post.row_version + 1})
            if s.get_bind().dialect.name == "sqlite"
            else postgresql.insert(Post)
            .values(id=1, title="a", body="", likes=0)
            .on_conflict_do_update(index_elements=["id"], set_={"title": "a", "row_version": Post.row_version + 1})
        ),
        2,
    ),
    "insert that returns objects": (
        lambda s: s.scalars(select(Post).from_statement(insert(Post).values(id=2).returning(Post))).all(),
        1,
    ),
    "update that returns objects": (
        lambda s: s.scalars(select(Post).from_statement(update(Post).values(likes=1).returning(Post))).all(),
        2,
    ),
    "merge with its version": (lambda s: s.merge(Post(id=1, title="a", row_version=1)), 2),
    "merge of a new row": (lambda s: s.merge(Post(id=2, title="a")), 1),
    "plain insert": (lambda s: s.execute(insert(Post), [{"id": 2}]), 1),
    "delete of others": (lambda s: s.execute(delete(Post).where(Post.id == 2)), 1),
    "an unversioned entity": (
        lambda s: s.execute(update(Tag).values(name="a"), execution_options={"synchronize_session": False}),
        1,
    ),
    "assignment of the same version": (lambda s: setattr(s.get_one(Post, 1), "row_version", 1), 1),
    "a blind write to an expired row": (write_blindly, 2),
}


@pytest.mark.parametrize("case", SAFE)
def test_what_is_safe_goes_through_and_counts(database: Database, others: Others, case: str) -> None:
    work, version = SAFE[case]
    with database.session() as run:
        run(work)
        run(commit)
    with others() as session:
        assert session.get_one(Post, 1).row_version == version


def update_by_key(session: Session) -> None:
    session.execute(update(Post), [{"id": 1, "title": "a"}])


def set_version(session: Session) -> None:
    session.get_one(Post, 1).row_version = 7


def merge_stale(session: Session) -> None:
    session.merge(Post(id=1, title="a", row_version=7))


PASSES: dict[str, tuple[Callable[[Session], object], tuple[str, int]]] = {
    "update without synchronization": (
        lambda s: s.execute(update(Post).values(title="a"), execution_options={"synchronize_session": False}),
        ("a", 2),
    ),
    "setting the version": (lambda s: s.execute(update(Post).values(title="a", row_version=1)), ("a", 1)),
    "merge without a version": (lambda s: s.merge(Post(id=1, title="a")), ("a", 2)),
    "upsert": (
        lambda s: s.execute(
            (sqlite if s.get_bind().dialect.name == "sqlite" else postgresql)
            .insert(Post)
            .values(id=1, title="a", body="", likes=0)
            .on_conflict_do_update(index_elements=["id"], set_={"title": "a"})
        ),
        ("a", 1),
    ),
}


@pytest.mark.parametrize("case", PASSES)
def test_what_a_plain_session_lets_through(database: Database, others: Others, case: str) -> None:
    """Documented: it notices conflicts of what it read and flushes, and nothing of what it writes unread."""
    work, expected = PASSES[case]
    database.helper(Session)(lambda session: work(session) and None)
    with others() as session:
        post = session.get_one(Post, 1)
        assert (post.title, post.row_version) == expected


def test_a_plain_session_lets_insert_or_replace_begin_again(database: Database, others: Others) -> None:
    if not database.is_sqlite:
        return  # only SQLite has it
    like_by_another(others)
    replace = insert(Post).prefix_with("OR REPLACE").values(id=1, title="a", body="", likes=0)
    database.helper(Session)(lambda session: session.execute(replace) and None)
    with others() as session:
        assert session.get_one(Post, 1).row_version == 1


def test_a_plain_session_lets_an_update_of_a_joined_subclass_through(database: Database, others: Others) -> None:
    with others.begin() as session:
        session.add(Boat(id=1))
    database.helper(Session)(lambda session: session.execute(update(Boat).values(berths=9)) and None)
    with others() as session:
        boat = session.get_one(Boat, 1)
        assert (boat.berths, boat.row_version) == (9, 1)


REFUSED_TO_ALL: dict[str, tuple[Callable[[Session], object], type[Exception]]] = {
    "by-key list without versions": (update_by_key, KeyError),
    "assignment of the version": (set_version, InvalidArgumentError),
    "merge of another version": (merge_stale, StaleDataError),
    "a change of a row read without its version": (change_without_version, InvalidArgumentError),
}


@pytest.mark.parametrize("case", REFUSED_TO_ALL)
def test_what_a_plain_session_does_not_let_through(database: Database, others: Others, case: str) -> None:
    work, error = REFUSED_TO_ALL[case]
    with pytest.raises(error):
        database.helper(Session)(work)
    with others() as session:
        assert session.get_one(Post, 1).title == "Feira"


BY_KEY: dict[str, Callable[[Session], object]] = {
    "execute": lambda s: s.execute(update(Post), [{"id": 1, "likes": 7, "row_version": 1}]),
    "bulk_update_mappings": lambda s: s.bulk_update_mappings(Post, [{"id": 1, "likes": 7, "row_version": 1}]),
}


def read_held(session: Session) -> Post:
    return session.get_one(Post, 1)


def read_detached(session: Session) -> Post:
    post = session.get_one(Post, 1)
    session.expunge(post)
    return post


@pytest.mark.parametrize("read", [read_held, read_detached])
def test_objects_saved_without_a_flush_are_checked_as_well(
    database: Database, others: Others, read: Callable[[Session], Post]
) -> None:
    with database.session() as run, pytest.raises(ConcurrencyConflictError) as refused:
        run(save, read, others)
    assert refused.value.conflicts == (RowConflict("Post", (1,), 1, 2),)
    assert isinstance(refused.value.__cause__, StaleDataError)
    with pytest.raises(ConcurrencyConflictError, match="was expected at version 2 and is at version 3 now"):
        database.helper(VersionedSession, max_attempts=1)(save, read, others)
    with others() as session:
        assert session.get_one(Post, 1).title == "Feira"


@pytest.mark.parametrize("read", [read_held, read_detached])
def test_objects_saved_without_a_flush_can_be_changed_on(
    database: Database, others: Others, read: Callable[[Session], Post]
) -> None:
    """Each saving expects what the one before wrote, and the flush at the end what the last one wrote."""

    def save_twice(session: Session) -> None:
        post = read(session)
        for title in ("once", "twice"):
            post.title = title
            session.bulk_save_objects([post])
        assert post.row_version == 3
        session.commit()

    with database.session() as run:
        run(save_twice)
    with others() as session:
        assert session.get_one(Post, 1).title == "twice"


@pytest.mark.parametrize("case", BY_KEY)
def test_a_by_key_list_with_a_stale_version_is_a_conflict(database: Database, others: Others, case: str) -> None:
    like_by_another(others)
    work = BY_KEY[case]
    with database.session() as run, pytest.raises(ConcurrencyConflictError, match="at version 2 now"):
        run(work)
    with pytest.raises(ConcurrencyConflictError, match="at version 2 now"):
        database.helper(VersionedSession)(work)


def save(session: Session, read: Callable[[Session], Post], others: Others) -> None:
    post = read(session)
    like_by_another(others)
    post.title = "a"
    session.bulk_save_objects([post])


def test_what_a_plain_session_says_of_stale_versions_that_it_did_not_flush(database: Database, others: Others) -> None:
    like_by_another(others)
    helper = database.helper(Session, max_attempts=1)
    with pytest.raises(ConcurrencyConflictError, match="at version 2 now"):
        helper(BY_KEY["execute"])
    with pytest.raises(StaleDataError):
        helper(BY_KEY["bulk_update_mappings"])
    for read in (read_held, read_detached):
        with pytest.raises(StaleDataError):
            helper(save, read, others)
    with others() as session:
        assert session.get_one(Post, 1).title == "Feira"


@pytest.mark.parametrize("synchronize", ["evaluate", "fetch", "auto"])
def test_a_bulk_update_hides_no_change_of_others(database: Database, others: Others, synchronize: str) -> None:
    """The row was read before another's commit; the bulk update must not lift it over that."""

    def work(session: Session) -> None:
        post = session.get_one(Post, 1)
        seen = post.title
        if not attempts:
            with others.begin() as other:
                other.get_one(Post, 1).title = "by another"
        attempts.append(seen)
        session.execute(
            update(Post).where(Post.id == 1).values(likes=Post.likes + 1),
            execution_options={"synchronize_session": synchronize},
        )
        post.title = f"{seen}, and mine"

    attempts: list[str] = []
    database.helper()(work)
    assert attempts == ["Feira", "by another"]
    with others() as session:
        assert session.get_one(Post, 1).title == "by another, and mine"


def test_a_bulk_update_and_a_change_in_one_unit_do_not_conflict(database: Database) -> None:
    def work(session: Session) -> tuple[int, int]:
        post = session.get_one(Post, 1)
        session.execute(update(Post).values(likes=Post.likes + 1))
        post.title = "after the bulk update"
        session.flush()
        return post.likes, post.row_version

    assert database.helper(max_attempts=1)(work) == (1, 3)


@pytest.mark.parametrize("version", [1, 3])
def test_a_merge_of_another_version_fails_its_precondition(database: Database, others: Others, version: int) -> None:
    """An entity captured outside and merged fails in every attempt, so it is not tried again."""
    like_by_another(others)
    calls: list[int] = []

    def merge(session: Session) -> None:
        calls.append(1)
        session.merge(Post(id=1, title="stale", row_version=version))

    with pytest.raises(PreconditionFailedError) as refused:
        database.helper(VersionedSession)(merge)
    assert refused.value.conflicts == (RowConflict("Post", (1,), version, 2),)
    assert len(calls) == 1


def test_a_merge_onto_an_expired_row_is_compared_as_well(database: Database, others: Others) -> None:
    with database.session() as run:
        post = run(lambda session: session.get_one(Post, 1))
        like_by_another(others)
        run(lambda session: session.expire(post))
        with pytest.raises(PreconditionFailedError, match="at version 2 now"):
            run(lambda session: session.merge(Post(id=1, title="stale", row_version=1)))


def test_a_plain_session_does_not_take_a_stale_version_onto_an_expired_row(database: Database, others: Others) -> None:
    with database.session(Session) as run:
        post = run(lambda session: session.get_one(Post, 1))
        like_by_another(others)
        run(lambda session: session.expire(post))
        with pytest.raises(InvalidArgumentError, match="row_version of Post 1 cannot be set"):
            run(lambda session: session.merge(Post(id=1, title="stale", row_version=1)))


def test_a_merge_compares_what_it_cascades_to(database: Database, others: Others) -> None:
    with others.begin() as other:
        other.add(Comment(id=1, post_id=1, text="Vou!"))

    def merge_comment(session: Session) -> None:
        session.merge(Comment(id=1, text="Não vou", post=Post(id=1, title="overwritten")))

    with database.session() as run, pytest.raises(InvalidArgumentError, match="Post"):
        run(merge_comment)


def test_touch_makes_changes_of_children_conflict(database: Database, others: Others) -> None:
    seen: list[int] = []

    def comment(session: Session, comment_id: int) -> None:
        post = session.get_one(Post, 1)
        seen.append(post.row_version)
        if len(seen) == 1:
            with others.begin() as other:
                theirs = other.get_one(Post, 1)
                theirs.comments.append(Comment(id=99, text="theirs"))
                touch(theirs)
        session.add(Comment(id=comment_id, post_id=post.id, text="mine"))
        touch(post)

    database.helper()(comment, 1)
    assert seen == [1, 2]
    with others() as session:
        assert session.get_one(Post, 1).row_version == 3


@pytest.mark.parametrize(
    ("parent", "match"),
    [(object(), "not a mapped row"), (Tag(id=1, name="a"), "has no row version")],
    ids=["not mapped", "unversioned"],
)
def test_touch_of_what_has_no_version_is_refused(parent: Any, match: str) -> None:
    with pytest.raises(InvalidArgumentError, match=match):
        touch(parent)


def test_touch_of_a_new_parent_changes_nothing() -> None:
    touch(Post(id=5))


def test_touch_of_a_detached_parent_is_refused(database: Database) -> None:
    post = database.helper()(lambda session: session.get_one(Post, 1))
    with pytest.raises(InvalidArgumentError, match="in no session"):
        touch(post)


def test_text_sql_is_not_noticed_by_an_integer_version(database: Database, others: Others) -> None:
    """Documented: only xmin sees it."""
    with database.session() as run:
        run(lambda session: session.get_one(Post, 1))
        with others.begin() as other:
            other.execute(text("UPDATE post SET likes = 9"))
        run(lambda session: setattr(session.get_one(Post, 1), "title", "passes"))
        run(commit)
