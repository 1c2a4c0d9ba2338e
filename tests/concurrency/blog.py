"""The rows of the concurrency tests, in every shape of mapping."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Integer, String, Table
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    mapped_column,
    registry,
    relationship,
)

from araponga_infra.concurrency import RowVersion, XminRowVersion, versioned


class Base(DeclarativeBase): ...


class Post(RowVersion, Base):
    __tablename__ = "post"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(default="Feira")
    body: Mapped[str] = mapped_column(default="Sábado")
    likes: Mapped[int] = mapped_column(default=0)
    comments: Mapped[list[Comment]] = relationship(back_populates="post", cascade="all, delete-orphan")


class Comment(Base):
    """Not versioned; its post is the aggregate."""

    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(primary_key=True)
    post_id: Mapped[int] = mapped_column(ForeignKey("post.id"))
    text: Mapped[str]
    post: Mapped[Post] = relationship(back_populates="comments")


class Shelf(Base):
    """Its books know nothing of it: only the shelf's flush sets their column."""

    __tablename__ = "shelf"
    id: Mapped[int] = mapped_column(primary_key=True)
    books: Mapped[list[Book]] = relationship()


class Book(RowVersion, Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    shelf_id: Mapped[int | None] = mapped_column(ForeignKey("shelf.id"))
    title: Mapped[str] = mapped_column(default="Feira")


class Seat(RowVersion, Base):
    """A composite key, one part of it text."""

    __tablename__ = "seat"
    row: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    holder: Mapped[str | None]


class Asset(RowVersion, Base):
    """The root of a hierarchy, with mapper arguments of its own."""

    __tablename__ = "asset"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str] = mapped_column(default="asset")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "asset"}  # noqa: RUF012


class Boat(Asset):
    __tablename__ = "boat"
    id: Mapped[int] = mapped_column(ForeignKey("asset.id"), primary_key=True)
    berths: Mapped[int] = mapped_column(default=2)
    __mapper_args__ = {"polymorphic_identity": "boat"}  # noqa: RUF012


class Tool(Asset):
    """Single-table inheritance."""

    weight: Mapped[int | None]
    __mapper_args__ = {"polymorphic_identity": "tool"}  # noqa: RUF012


class DataclassBase(MappedAsDataclass, DeclarativeBase):
    metadata = Base.metadata


class Note(RowVersion, DataclassBase):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@versioned(column="version")
class Ledger(Base):
    """A column that was there before."""

    __tablename__ = "ledger"
    id: Mapped[int] = mapped_column(primary_key=True)
    amount: Mapped[int] = mapped_column(default=0)
    version: Mapped[int]


imperative = registry(metadata=Base.metadata)
parcel_table = Table(
    "parcel",
    imperative.metadata,
    Column("id", Integer, primary_key=True),
    Column("label", String, nullable=False),
    Column("revision", Integer, nullable=False),
)


@versioned(column="revision")
class Parcel:
    id: int
    label: str
    revision: int

    def __init__(self, id: int, label: str) -> None:
        self.id = id
        self.label = label


imperative.map_imperatively(Parcel, parcel_table)


class Tag(Base):
    """Without a version."""

    __tablename__ = "tag"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class XminBase(DeclarativeBase): ...


class Place(XminRowVersion, XminBase):
    __tablename__ = "place"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="Vale")
    visits: Mapped[int] = mapped_column(default=0)


def like(session: Session, post_id: int) -> int:
    post = session.get_one(Post, post_id)
    post.likes += 1
    return post.likes


def retitle(session: Session, post_id: int, title: str) -> Post:
    post = session.get_one(Post, post_id)
    post.title = title
    return post
