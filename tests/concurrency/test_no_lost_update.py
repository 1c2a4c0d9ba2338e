"""The law: every committed change is seen or refused, never overwritten unseen.

Several sessions read, edit, update in bulk and by key, delete, merge, commit and crash against one table, in any order
that hypothesis thinks of. A book is kept of what was committed. Whoever writes a row that it has read must have read
its latest committed change; and the table must agree with the book.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import Engine, create_engine, delete, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, load_only

from araponga_infra.concurrency import ConcurrencyConflictError, VersionedSession
from araponga_infra.errors import InvalidArgumentError
from tests.servers.postgres import PostgresDatabase

from .blog import Base, Post

REFUSALS = (ConcurrencyConflictError, InvalidArgumentError)
LOCK_NOT_AVAILABLE = "55P03"
ROWS = (1, 2)
CHANGES = ("edit", "edit", "bulk", "by key", "merge", "remove", "flush")
writers = st.integers(0, 2)
rows = st.sampled_from(ROWS)


@dataclass(frozen=True)
class Copy:
    """What a client was sent of a row, and how many changes the row had had then."""

    title: str
    likes: int
    version: int
    read_at: int


@dataclass
class Writer:
    """One session, and what its open transaction has read and changed."""

    session: Session
    posts: dict[int, Post] = field(default_factory=dict)
    read_at: dict[int, int] = field(default_factory=dict)
    titles: dict[int, str] = field(default_factory=dict)
    likes: Counter[int] = field(default_factory=Counter)
    deleted: set[int] = field(default_factory=set)

    @property
    def changed(self) -> set[int]:
        return set(self.titles) | set(self.likes) | self.deleted

    def begin_anew(self) -> None:
        self.session.rollback()
        for notes in (self.posts, self.read_at, self.titles, self.likes):
            notes.clear()
        self.deleted.clear()


class NoLostUpdate(RuleBasedStateMachine):
    engine: Engine

    def __init__(self) -> None:
        super().__init__()
        with Session(self.engine) as session:
            session.execute(delete(Post))
            session.add_all(Post(id=row, title="") for row in ROWS)
            session.commit()
        self.letters = itertools.count()
        self.changes: Counter[int] = Counter()
        self.titles = dict.fromkeys(ROWS, "")
        self.likes: Counter[int] = Counter()
        self.copies: dict[int, Copy] = {}
        self.writers = [Writer(VersionedSession(self.engine)) for _ in range(3)]

    def teardown(self) -> None:
        for writer in self.writers:
            writer.session.close()

    def attempt(self, writer: Writer, work: Callable[[], object]) -> bool:
        """A refusal is a fine answer: the writer begins anew. So is a lock that another one holds."""
        try:
            work()
        except REFUSALS:
            writer.begin_anew()
            return False
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
            writer.begin_anew()
            return False
        return True

    @rule(number=writers, row=rows, is_partial=st.booleans())
    def read(self, number: int, row: int, is_partial: bool) -> None:
        writer = self.writers[number]
        if row in writer.read_at or row in writer.changed:
            return
        options = [load_only(Post.title, Post.likes)] if is_partial else []
        statement = select(Post).where(Post.id == row).options(*options)

        def read() -> None:
            post = writer.session.scalars(statement).one_or_none()
            if post is not None:
                writer.posts[row], writer.read_at[row] = post, self.changes[row]

        self.attempt(writer, read)

    @rule(number=writers, row=rows)
    def send_copy(self, number: int, row: int) -> None:
        writer = self.writers[number]
        if row in writer.posts and row not in writer.changed and "row_version" in vars(writer.posts[row]):
            post = writer.posts[row]
            self.copies[row] = Copy(post.title, post.likes, post.row_version, writer.read_at[row])

    @rule(number=writers, row=rows)
    def edit(self, number: int, row: int) -> None:
        writer = self.writers[number]
        if row in writer.posts and row not in writer.deleted:
            post = writer.posts[row]
            post.title = writer.titles[row] = f"{post.title}{next(self.letters)},"

    @rule(number=writers, row=rows, synchronize=st.sampled_from(["evaluate", "fetch", "auto"]))
    def update_in_bulk(self, number: int, row: int, synchronize: str) -> None:
        writer = self.writers[number]
        statement = update(Post).where(Post.id == row).values(likes=Post.likes + 1).returning(Post.id)
        options = {"synchronize_session": synchronize}

        def bump() -> None:
            if writer.session.execute(statement, execution_options=options).all():
                writer.likes[row] += 1

        self.attempt(writer, bump)

    @rule(number=writers, row=rows)
    def update_by_key(self, number: int, row: int) -> None:
        writer, copy = self.writers[number], self.copies.get(row)
        if copy is None or row in writer.changed:
            return
        title = f"{copy.title}{next(self.letters)},"
        change = {"id": row, "title": title, "row_version": copy.version}
        if self.attempt(writer, lambda: writer.session.execute(update(Post), [change])):
            writer.titles[row], writer.read_at[row] = title, copy.read_at

    @rule(number=writers, row=rows)
    def merge(self, number: int, row: int) -> None:
        writer, copy = self.writers[number], self.copies.get(row)
        if copy is None or row in writer.changed:
            return
        title = f"{copy.title}{next(self.letters)},"
        returned = Post(id=row, title=title, likes=copy.likes, row_version=copy.version)

        def merge() -> None:
            writer.posts[row] = writer.session.merge(returned)

        if self.attempt(writer, merge):
            writer.titles[row], writer.read_at[row] = title, copy.read_at

    @rule(number=writers, row=rows, dice=st.integers(0, 3))
    def remove(self, number: int, row: int, dice: int) -> None:
        writer = self.writers[number]
        if dice or row not in writer.posts or row in writer.deleted:
            return
        if self.attempt(writer, lambda: writer.session.delete(writer.posts[row])):
            writer.deleted.add(row)

    @rule(number=writers, row=rows, is_partial=st.booleans(), changes=st.lists(st.sampled_from(CHANGES), max_size=3))
    def be_overtaken(self, number: int, row: int, is_partial: bool, changes: list[str]) -> None:
        """What the other rules seldom come to by chance: a change of another between reading and writing."""
        writer, other = self.writers[number], (number + 1) % len(self.writers)
        writer.begin_anew()
        self.read(number, row, is_partial)
        self.send_copy(number, row)
        self.read(other, row, False)
        self.edit(other, row)
        self.commit(other)
        steps: dict[str, Callable[[], None]] = {
            "edit": lambda: self.edit(number, row),
            "bulk": lambda: self.update_in_bulk(number, row, "auto"),
            "by key": lambda: self.update_by_key(number, row),
            "merge": lambda: self.merge(number, row),
            "remove": lambda: self.remove(number, row, 0),
            "flush": lambda: self.flush(number),
        }
        for change in changes:
            steps[change]()
        self.commit(number)

    @rule(number=writers)
    def flush(self, number: int) -> None:
        self.attempt(self.writers[number], self.writers[number].session.flush)

    @rule(number=writers)
    def commit(self, number: int) -> None:
        writer = self.writers[number]
        if not self.attempt(writer, writer.session.commit):
            return
        for row in {*writer.titles, *writer.deleted}:
            assert writer.read_at[row] == self.changes[row], f"post {row} was overwritten unseen"
        for row in writer.changed:
            self.changes[row] += 1
            self.likes[row] += writer.likes[row]
            self.titles[row] = writer.titles.get(row, self.titles[row])
        for row in writer.deleted:
            del self.titles[row]
        writer.begin_anew()

    @rule(number=writers)
    def crash(self, number: int) -> None:
        writer = self.writers[number]
        writer.session.close()
        self.writers[number] = Writer(VersionedSession(self.engine))

    @invariant()
    def the_table_agrees_with_the_book(self) -> None:
        with Session(self.engine) as session:
            found = {post.id: (post.title, post.likes) for post in session.scalars(select(Post))}
        assert found == {row: (title, self.likes[row]) for row, title in self.titles.items()}


def run_on(engine: Engine, steps: int) -> None:
    machine = type("NoLostUpdateHere", (NoLostUpdate,), {"engine": engine})
    try:
        run_state_machine_as_test(machine, settings=settings(stateful_step_count=steps))
    finally:
        engine.dispose()


def test_no_update_is_lost_on_sqlite(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'blog.db'}", connect_args={"timeout": 0})
    Base.metadata.create_all(engine)
    run_on(engine, steps=40)


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
def test_no_update_is_lost_on_postgresql(emptied_database: PostgresDatabase, level: str) -> None:
    """One thread plays all writers, so whoever meets a lock gives up at once instead of waiting for itself."""
    url = emptied_database.url("psycopg")
    run_on(create_engine(url, isolation_level=level, connect_args={"options": "-c lock_timeout=1ms"}), steps=25)
