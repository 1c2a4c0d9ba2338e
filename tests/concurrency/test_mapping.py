"""Row versions in every shape of mapping, and the mappings that are refused."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import (
    Column,
    ForeignKey,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    create_engine,
    inspect,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, declared_attr, mapped_column, registry

from araponga_infra.concurrency import RowVersion, XminRowVersion, versioned
from araponga_infra.errors import InvalidArgumentError

from .blog import Asset, Boat, Ledger, Note, Parcel, Post, Seat, Tool
from .databases import Database

SHAPES: dict[str, tuple[Any, str, str]] = {
    "declarative": (Post(id=2), "row_version", "title"),
    "composite key": (Seat(row="A", number=1), "row_version", "holder"),
    "root of a hierarchy": (Asset(id=1), "row_version", "name"),
    "joined inheritance, root's column": (Boat(id=2), "row_version", "name"),
    "single-table inheritance": (Tool(id=3, weight=2), "row_version", "name"),
    "dataclass": (Note(id=1, text="a"), "row_version", "text"),
    "existing column": (Ledger(id=1), "version", "amount"),
    "imperative": (Parcel(1, "a"), "revision", "label"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_version_counts_from_one_with_each_change(database: Database, shape: str) -> None:
    prototype, version, attribute = SHAPES[shape]
    cls = type(prototype)
    values = {key: value for key, value in vars(prototype).items() if key != "_sa_instance_state"}

    def add(session: Session) -> Any:
        row = cls(**values) if cls is not Parcel else Parcel(values["id"], values["label"])
        session.add(row)
        session.flush()
        return getattr(row, version), inspect(row).identity

    def change(session: Session, identity: Any, value: object) -> int:
        row = session.get_one(cls, identity)
        setattr(row, attribute, value)
        session.flush()
        return int(getattr(row, version))

    def change_in_bulk(session: Session, identity: Any, value: object) -> int:
        table = cls.__mapper__.version_id_col.table
        keys = zip(table.primary_key, identity, strict=True)
        session.execute(update(table).where(*(column == part for column, part in keys)).values({attribute: value}))
        return int(getattr(session.get_one(cls, identity), version))

    execute = database.helper()
    first, identity = execute(add)
    changes: list[object] = [5, 6] if attribute == "amount" else ["b", "c"]
    assert first == 1
    assert execute(change, identity, changes[0]) == 2
    assert execute(change, identity, changes[0]) == 2, "no net change"
    assert execute(change_in_bulk, identity, changes[1]) == 3


def test_a_change_of_the_joined_table_alone_counts(database: Database) -> None:
    def launch(session: Session) -> None:
        session.add(Boat(id=1))

    def refit(session: Session) -> int:
        boat = session.get_one(Boat, 1)
        boat.berths = 4
        session.flush()
        return boat.row_version

    execute = database.helper()
    execute(launch)
    assert execute(refit) == 2


def test_a_core_insert_starts_at_one(database: Database) -> None:
    def insert(session: Session) -> list[int]:
        session.execute(Ledger.__table__.insert().values(id=1, amount=1))  # type: ignore[attr-defined]
        session.execute(Post.__table__.insert().values(id=9, title="", body="", likes=0))  # type: ignore[attr-defined]
        return [session.get_one(Ledger, 1).version, session.get_one(Post, 9).row_version]

    assert database.helper()(insert) == [1, 1]


class Base(DeclarativeBase): ...


def test_the_mixin_may_come_after_the_base_and_the_table_name_from_a_mixin() -> None:
    class Named:
        @declared_attr.directive
        def __tablename__(cls) -> str:  # noqa: N805
            return cls.__name__.lower()  # type: ignore[attr-defined, no-any-return]

    class Late(Named, Base, RowVersion):
        id: Mapped[int] = mapped_column(primary_key=True)

    assert Late.__mapper__.version_id_col is Late.__table__.c.row_version


def test_a_concrete_subclass_has_a_version_of_its_own() -> None:
    class Employee(RowVersion, Base):
        __tablename__ = "employee"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Manager(Employee):
        __tablename__ = "manager"
        id: Mapped[int] = mapped_column(primary_key=True)
        __mapper_args__ = {"concrete": True}  # noqa: RUF012

    assert Manager.__mapper__.version_id_col is Manager.__table__.c.row_version


def test_versioned_works_below_registry_mapped_and_for_later_subclasses() -> None:
    mapper_registry = registry()

    @mapper_registry.mapped
    @versioned
    class Below:
        __tablename__ = "below"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind"}  # noqa: RUF012

    @mapper_registry.mapped
    class Heir(Below):
        __mapper_args__ = {"polymorphic_identity": "heir"}  # noqa: RUF012

    assert inspect(Below).version_id_col is inspect(Heir).version_id_col is not None


def test_a_copy_of_the_table_counts_its_own_column() -> None:
    copied = Post.__table__.to_metadata(MetaData(), name="post_archive")  # type: ignore[attr-defined]
    assert "row_version=(post_archive.row_version + " in str(update(copied).values(title="x"))


def test_an_update_that_joins_another_versioned_table_is_not_ambiguous(database: Database) -> None:
    def retitle_from_seats(session: Session) -> int:
        session.add(Seat(row="A", number=1, holder="Iara"))
        session.flush()
        session.execute(
            update(Post).where(Post.id == Seat.number).values(title=Seat.holder),
            execution_options={"synchronize_session": "fetch"},
        )
        return session.get_one(Post, 1).row_version

    assert database.helper()(retitle_from_seats) == 2


def refused(match: str) -> Any:
    return pytest.raises(InvalidArgumentError, match=match)


def test_another_version_id_col_is_refused() -> None:
    with refused("version_id_col"):

        class Other(RowVersion, Base):
            __tablename__ = "other"
            id: Mapped[int] = mapped_column(primary_key=True)
            counter = Column(Integer, nullable=False)
            __mapper_args__ = {"version_id_col": counter}  # noqa: RUF012


def test_a_version_id_generator_is_refused() -> None:
    with refused("version_id_generator"):

        class Generated(RowVersion, Base):
            __tablename__ = "generated"
            id: Mapped[int] = mapped_column(primary_key=True)
            __mapper_args__ = {"version_id_generator": False}  # noqa: RUF012


def test_a_version_on_a_subclass_alone_is_refused() -> None:
    class Root(Base):
        __tablename__ = "root"
        id: Mapped[int] = mapped_column(primary_key=True)

    with refused("version Root instead"):

        class Branch(RowVersion, Root):
            __tablename__ = "branch"
            id: Mapped[int] = mapped_column(ForeignKey("root.id"), primary_key=True)


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (Column("version", String, nullable=False), "type"),
        (Column("version", SmallInteger, nullable=False), "type"),
        (Column("version", Integer), "nullable"),
        (Column("version", Integer, nullable=False, onupdate=7), "onupdate"),
        (Column("version", Integer, primary_key=True), "primary key"),
    ],
    ids=["text", "small", "nullable", "onupdate", "key"],
)
def test_a_column_that_cannot_count_is_refused(column: Column[Any], why: str) -> None:
    mapper_registry = registry()
    table = Table("thing", mapper_registry.metadata, Column("id", Integer, primary_key=True), column)

    @versioned(column="version")
    class Thing: ...

    with refused(why):
        mapper_registry.map_imperatively(Thing, table)


def test_an_imperative_mapping_without_the_column_is_refused() -> None:
    mapper_registry = registry()
    table = Table("thing", mapper_registry.metadata, Column("id", Integer, primary_key=True))

    @versioned
    class Thing: ...

    with refused('Column\\("row_version", Integer'):
        mapper_registry.map_imperatively(Thing, table)


def test_xmin_refuses_joined_inheritance() -> None:
    class XminRoot(XminRowVersion, Base):
        __tablename__ = "xmin_root"
        id: Mapped[int] = mapped_column(primary_key=True)

    with refused("joined inheritance"):

        class XminBranch(XminRoot):
            __tablename__ = "xmin_branch"
            id: Mapped[int] = mapped_column(ForeignKey("xmin_root.id"), primary_key=True)


def test_xmin_allows_single_table_inheritance() -> None:
    class SingleRoot(XminRowVersion, Base):
        __tablename__ = "xmin_single"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind"}  # noqa: RUF012

    class SingleBranch(SingleRoot):
        __mapper_args__ = {"polymorphic_identity": "branch"}  # noqa: RUF012

    assert SingleBranch.__mapper__.version_id_col is SingleRoot.__table__.c.xmin


def test_xmin_refuses_other_databases() -> None:
    class OtherBase(DeclarativeBase): ...

    class Elsewhere(XminRowVersion, OtherBase):
        __tablename__ = "elsewhere"
        id: Mapped[int] = mapped_column(primary_key=True)

    engine = create_engine("sqlite://")
    with refused("speaks sqlite: use RowVersion"):
        OtherBase.metadata.create_all(engine)
    engine.dispose()


@pytest.mark.parametrize("column", ["", None, 3, "a b"])
def test_a_column_needs_a_name(column: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="column="):
        versioned(column=column)


@pytest.mark.parametrize("wrong", [3, "Post", int])
def test_only_a_class_can_be_versioned(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="above a class"):
        versioned(wrong)


def test_a_column_that_is_named_is_not_made_up() -> None:
    """The table would lack it, and every query of the class would fail."""

    class Fresh(DeclarativeBase): ...

    class Note(Fresh):
        __tablename__ = "note"
        id: Mapped[int] = mapped_column(primary_key=True)

    with pytest.raises(InvalidArgumentError, match="no attribute 'nope'"):
        versioned(column="nope")(Note)
    assert list(Note.__table__.columns.keys()) == ["id"]
