"""A form that is answered by HTTP status, and a counter that loses no like: python examples/concurrency.py"""

import tempfile
from collections.abc import Callable

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import araponga_infra as infra
from araponga_infra import ConcurrencyHelper, RowVersion, etag, expect_version, parse_if_match

STATUS_OF: dict[type[Exception], int] = {  # what the integrations for FastAPI and Flask answer by themselves
    infra.PreconditionRequiredError: 428,  # no If-Match
    infra.InvalidArgumentError: 400,  # one that cannot be read
    infra.PreconditionFailedError: 412,  # one of an older version: never tried again, it can never match
    infra.ConcurrencyConflictError: 409,  # someone was faster in every attempt
}


class Base(DeclarativeBase): ...


class Post(RowVersion, Base):
    __tablename__ = "post"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    likes: Mapped[int] = mapped_column(default=0)


def save(session: Session, if_match: str | None) -> Post:
    post = session.get_one(Post, 1)
    expect_version(post, parse_if_match(if_match))
    post.title = "Bazar"
    return post


def like(session: Session, rivals: list[Session]) -> Post:
    post = session.get_one(Post, 1)
    if rivals:  # somebody likes it between our reading and our writing
        with rivals.pop() as rival, rival.begin():
            rival.get_one(Post, 1).likes += 1
    post.likes += 1
    return post


def answer(helper: ConcurrencyHelper, work: Callable[..., Post], argument: object) -> None:
    try:
        post = helper.execute(work, argument)
        print(f"  200 ETag {etag(post)}: {post.title}, {post.likes} likes")
    except tuple(STATUS_OF) as error:
        print(f"  {next(status for kind, status in STATUS_OF.items() if isinstance(error, kind))} {error}")


with tempfile.TemporaryDirectory() as folder:
    engine = create_engine(f"sqlite:///{folder}/blog.db")
    Base.metadata.create_all(engine)
    make_session = sessionmaker(engine)
    helper = ConcurrencyHelper(make_session)
    with make_session.begin() as session:
        session.add(Post(id=1, title="Feira"))
    for if_match in (None, "seven", '"1"', '"1"'):
        answer(helper, save, if_match)
    answer(helper, like, [make_session()])
    answer(helper.options(max_attempts=1), like, [make_session()])
    engine.dispose()
