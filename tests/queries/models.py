"""A community in a few tables: authors, their posts, comments; animals of two kinds."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship


class Base(DeclarativeBase): ...


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    biography: Mapped[str] = mapped_column(default="", deferred=True)
    posts: Mapped[list[Post]] = relationship(back_populates="author", order_by="Post.id")


class Post(Base):
    __tablename__ = "post"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
    title: Mapped[str]
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("post.id"))
    author: Mapped[Author] = relationship(back_populates="posts")
    comments: Mapped[list[Comment]] = relationship(back_populates="post")
    parent: Mapped[Post | None] = relationship(remote_side="Post.id")


class Comment(Base):
    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(primary_key=True)
    post_id: Mapped[int] = mapped_column(ForeignKey("post.id"))
    text: Mapped[str]
    post: Mapped[Post] = relationship(back_populates="comments")


class Animal(Base):
    __tablename__ = "animal"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}  # noqa: RUF012


class Bird(Animal):
    __tablename__ = "bird"
    id: Mapped[int] = mapped_column(ForeignKey("animal.id"), primary_key=True)
    song: Mapped[str]
    __mapper_args__ = {"polymorphic_identity": "bird"}  # noqa: RUF012


class Frog(Animal):
    __tablename__ = "frog"
    id: Mapped[int] = mapped_column(ForeignKey("animal.id"), primary_key=True)
    colour: Mapped[str]
    __mapper_args__ = {"polymorphic_identity": "frog"}  # noqa: RUF012


def add_posts(session: Session, count: int) -> None:
    """Each with an author of its own and two comments; each but the first answers the one before."""
    session.add_all(
        Post(
            id=number,
            title=f"Post {number}",
            parent_id=number - 1 or None,
            author=Author(id=number, name=f"Author {number}"),
            comments=[Comment(text="Sim"), Comment(text="Não")],
        )
        for number in range(1, count + 1)
    )
