"""A report that cannot write: read-only sessions on a SQLite file, refused in three ways.

Run it as it is; nothing to start.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from sqlalchemy import func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from araponga_infra import ReadOnlyViolationError, ReplicaSet


class Base(DeclarativeBase): ...


class Post(Base):
    __tablename__ = "post"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


def report(session: Session) -> str:
    return f"{session.scalar(select(func.count(Post.id)))} posts"


def tidy_up_in_passing(session: Session) -> None:
    session.execute(text("WITH old AS (SELECT id FROM post) DELETE FROM post WHERE id IN (SELECT id FROM old)"))


def shout(session: Session) -> None:
    for post in session.scalars(select(Post)):
        post.title = post.title.upper()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ReplicaSet(f"sqlite:///{Path(folder) / 'app.db'}") as replicas:
        with replicas.write.begin() as session:
            Base.metadata.create_all(session.connection())
            session.add_all([Post(title="Feira"), Post(title="Mutirão")])
        print("report:", replicas.run(report))
        for stray in (tidy_up_in_passing, shout):
            try:
                replicas.run(stray)
            except ReadOnlyViolationError as error:
                print(f"{stray.__name__}: refused by the {error.layer} layer: {error}")
        print("still:", replicas.run(report))


if __name__ == "__main__":
    main()
