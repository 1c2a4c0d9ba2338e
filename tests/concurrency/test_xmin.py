"""PostgreSQL's xmin as the row version, on every driver."""

from __future__ import annotations

import pytest
from sqlalchemy import literal_column, select, text, type_coerce, update
from sqlalchemy.orm import Session, sessionmaker

from araponga_infra.concurrency import ConcurrencyConflictError, VersionedSession, etag, expect_version
from araponga_infra.concurrency.xmin import Xid
from araponga_infra.errors import InvalidArgumentError

from .blog import Place
from .databases import Database

Others = sessionmaker[Session]


@pytest.fixture
def place_id(others: Others) -> int:
    with others.begin() as session:
        session.add(Place(id=1))
    return 1


def rename(session: Session, name: str) -> Place:
    place = session.get_one(Place, 1)
    place.name = name
    return place


def test_a_change_is_another_version(xmin_database: Database, place_id: int) -> None:
    execute = xmin_database.helper()
    before = execute(lambda session: session.get_one(Place, 1))
    after = execute(rename, "Itamambuca")
    assert isinstance(before.row_version, int)
    assert after.row_version != before.row_version
    assert etag(after) == f'"{after.row_version}"'
    execute(lambda session: expect_version(session.get_one(Place, 1), after.row_version))


@pytest.mark.parametrize("by", ["orm", "text"])
def test_a_change_by_others_is_noticed_also_by_raw_sql(
    xmin_database: Database, others: Others, place_id: int, by: str
) -> None:
    seen: list[int] = []

    def slow_rename(session: Session) -> None:
        place = session.get_one(Place, 1)
        seen.append(place.row_version)
        if len(seen) == 1:
            with others.begin() as other:
                if by == "orm":
                    other.get_one(Place, 1).visits = 1
                else:
                    other.execute(text("UPDATE place SET visits = 1"))
        place.name = "Itamambuca"

    xmin_database.helper()(slow_rename)
    assert len(seen) == 2
    with others() as session:
        place = session.get_one(Place, 1)
        assert (place.name, place.visits) == ("Itamambuca", 1)


def test_giving_up_names_the_transactions(xmin_database: Database, others: Others, place_id: int) -> None:
    def too_late(session: Session) -> None:
        place = session.get_one(Place, 1)
        with others.begin() as other:
            other.execute(text("UPDATE place SET visits = visits + 1"))
        place.name = "never"

    with pytest.raises(ConcurrencyConflictError) as refused:
        xmin_database.helper(max_attempts=1)(too_late)
    [conflict] = refused.value.conflicts
    assert conflict.actual is not None
    assert conflict.actual != conflict.expected


def test_two_flushes_of_one_unit_do_not_conflict(xmin_database: Database, place_id: int) -> None:
    def rename_twice(session: Session) -> None:
        place = rename(session, "a")
        session.flush()
        place.name = "b"
        session.flush()
        place.name = "c"

    xmin_database.helper(max_attempts=1)(rename_twice)


@pytest.mark.parametrize("session_class", [Session, VersionedSession])
def test_a_bulk_update_asks_for_a_refresh_before_the_next_change(
    xmin_database: Database, others: Others, place_id: int, session_class: type[Session]
) -> None:
    """The new xmin could only be read together with what others had committed in between, and hide it."""

    def bulk_then_change(session: Session, refresh: bool) -> None:
        place = session.get_one(Place, 1)
        session.execute(update(Place).values(visits=Place.visits + 1))
        if refresh:
            session.refresh(place)
        place.name = "changed"

    execute = xmin_database.helper(session_class)
    with pytest.raises(InvalidArgumentError, match=r"session\.refresh"):
        execute(bulk_then_change, False)
    execute(bulk_then_change, True)
    with others() as session:
        assert session.get_one(Place, 1).visits == 1


def test_transaction_ids_beyond_31_bits(xmin_database: Database) -> None:
    large = type_coerce(literal_column("'4000000000'::xid"), Xid())
    execute = xmin_database.helper()
    assert execute(lambda session: session.scalar(select(large))) == 4_000_000_000
    assert execute(lambda session: session.scalar(select(large == 4_000_000_000))) is True
    assert execute(lambda session: session.scalar(select(large == 3_999_999_999))) is False
