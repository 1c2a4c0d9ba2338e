"""The ledger notices what a run would have to show. Pure, and part of the default tests."""

from __future__ import annotations

import pytest

from tests.multi_instance.ledger import Answer, Edit, Ledger, Outcome, Row

ACKNOWLEDGED, REFUSED, UNKNOWN = Outcome.ACKNOWLEDGED, Outcome.REFUSED, Outcome.UNKNOWN
FIRST = Edit(seen=1, value="a", outcome=ACKNOWLEDGED, made=2)


def answer(status: int | None, code: str = "") -> Answer:
    return Answer("POST /posts", started=0, seconds=0, status=status, code=code)


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [
        (201, "", ACKNOWLEDGED),
        (412, "precondition_failed", REFUSED),
        (503, "unavailable", REFUSED),
        (503, "outcome_unknown", UNKNOWN),
        (502, "", UNKNOWN),
        (500, "internal", UNKNOWN),
        (None, "", UNKNOWN),
    ],
)
def test_what_a_client_knows(status: int | None, code: str, outcome: Outcome) -> None:
    assert answer(status, code).outcome is outcome


@pytest.mark.parametrize(
    ("outcome", "titles", "wrong"),
    [
        (ACKNOWLEDGED, ["Feira"], []),
        (ACKNOWLEDGED, [], ["lost: Feira"]),
        (ACKNOWLEDGED, ["Feira", "Feira"], ["saved 2 times: Feira"]),
        (UNKNOWN, [], []),
        (UNKNOWN, ["Feira"], []),
        (UNKNOWN, ["Feira", "Feira"], ["saved 2 times: Feira"]),
        (REFUSED, [], []),
        (REFUSED, ["Feira"], ["refused, but saved: Feira"]),
    ],
)
def test_posts(outcome: Outcome, titles: list[str], wrong: list[str]) -> None:
    assert Ledger(posts={"Feira": outcome}).wrong_posts(titles) == wrong


@pytest.mark.parametrize(("counted", "is_right"), [(1, False), (2, True), (3, True), (4, False)])
def test_likes(counted: int, is_right: bool) -> None:
    ledger = Ledger()
    ledger.likes[7].update([ACKNOWLEDGED, ACKNOWLEDGED, UNKNOWN, REFUSED])
    assert (ledger.wrong_likes({7: counted}) == []) is is_right


@pytest.mark.parametrize(
    ("second", "row"),
    [
        (Edit(2, "b", ACKNOWLEDGED, 3), Row(3, "b")),
        (Edit(2, "b", UNKNOWN, None), Row(2, "a")),
        (Edit(2, "b", UNKNOWN, None), Row(3, "b")),
        (Edit(2, "b", REFUSED, None), Row(3, "b")),
        (Edit(1, "b", REFUSED, None), Row(2, "a")),
    ],
)
def test_a_history_of_edits_that_adds_up(second: Edit, row: Row) -> None:
    assert wrong_edits(row, FIRST, second) == []


@pytest.mark.parametrize(
    ("second", "row", "wrong"),
    [
        (Edit(2, "b", ACKNOWLEDGED, 3), Row(2, "a"), "is behind the acknowledged 3"),
        (Edit(2, "b", ACKNOWLEDGED, 3), Row(3, "a"), "is 'a'"),
        (Edit(1, "b", ACKNOWLEDGED, 2), Row(2, "b"), "two clients"),
        (Edit(1, "b", ACKNOWLEDGED, 3), Row(3, "b"), "an edit of version 1 made version 3"),
        (Edit(1, "b", UNKNOWN, None), Row(3, "b"), "nobody made version 3"),
        (Edit(2, "b", UNKNOWN, None), Row(3, "a"), "is 'a'"),
    ],
)
def test_a_lost_update(second: Edit, row: Row, wrong: str) -> None:
    assert any(wrong in each for each in wrong_edits(row, FIRST, second))


def wrong_edits(row: Row, *edits: Edit) -> list[str]:
    ledger = Ledger()
    ledger.edits["/flags/map"].extend(edits)
    return ledger.wrong_edits({"/flags/map": row})
