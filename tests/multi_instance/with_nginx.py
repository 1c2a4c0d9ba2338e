"""What holds while instances, servers and versions come and go. Speed is reported, never asserted.

Not collected by default, since it needs Debian's package nginx and some minutes: `nox -s multi_instance`.
"""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest

from tests.multi_instance.cluster import INSTANCES
from tests.multi_instance.faults import FAULTS
from tests.multi_instance.ledger import Answer
from tests.multi_instance.run import Phase, Run

SERVED_AGAIN_WITHIN_SECONDS = 10.0
PRIMARY = "the primary"
INSTANCE = "each instance is killed in turn"
ROLL_OUT = "the next version is rolled out"

every_fault = pytest.mark.parametrize("fault", FAULTS)


def phase_of(run: Run, fault: str) -> Phase:
    return next(phase for phase in run.phases if phase.name == fault)


def failed(answers: list[Answer]) -> Counter[tuple[str, int | None, str]]:
    return Counter((each.kind, each.status, each.code) for each in answers if each.has_failed)


def test_any_instance_answers_any_request(run: Run) -> None:
    kinds = {each.kind for each in run.answers}
    versions = {*INSTANCES, *(f"{name}.next" for name in INSTANCES)}
    answered = {(each.kind, each.instance) for each in run.answers if each.instance}
    assert answered == set(product(kinds, versions))


def test_a_clients_cookie_works_on_all(run: Run) -> None:
    assert set(product(INSTANCES, INSTANCES)) <= set(run.ledger.followed)


def test_a_client_reads_what_it_wrote(run: Run) -> None:
    assert run.ledger.stale == []


def test_no_acknowledged_post_is_lost_and_none_is_saved_twice(run: Run) -> None:
    assert run.ledger.wrong_posts(run.titles) == []


def test_no_like_is_lost(run: Run) -> None:
    assert run.ledger.wrong_likes(run.likes) == []


def test_no_update_is_lost(run: Run) -> None:
    assert run.ledger.wrong_edits(run.rows) == []


@every_fault
def test_no_instance_answers_from_a_stale_cache(run: Run, fault: str) -> None:
    assert phase_of(run, fault).wrong_caches == []


def test_every_event_is_handled_exactly_once(run: Run) -> None:
    assert [entry for entry in run.notified if entry[2] != 1] == []
    assert "dead" not in run.deliveries


@every_fault
def test_everything_is_served_again_by_itself(run: Run, fault: str) -> None:
    assert run.served_again_after(phase_of(run, fault)) <= SERVED_AGAIN_WITHIN_SECONDS


@every_fault
def test_what_fails_is_said_to_be_unavailable(run: Run, fault: str) -> None:
    """No 500: the service knows what has happened to it."""
    assert 500 not in {each.status for each in run.during(phase_of(run, fault))}


def test_no_process_is_surprised(run: Run) -> None:
    assert [name for name, log in run.logs.items() if "Traceback" in log] == []


@pytest.mark.parametrize("fault", [name for name in FAULTS if not name.startswith((PRIMARY, INSTANCE, ROLL_OUT))])
def test_nothing_fails_without(run: Run, fault: str) -> None:
    assert not failed(run.during(phase_of(run, fault)))


def test_no_read_fails_with_an_instance(run: Run) -> None:
    assert not failed([each for each in run.during(phase_of(run, INSTANCE)) if each.is_read])


def test_no_request_is_answered_with_an_error_by_a_roll_out(run: Run) -> None:
    """What nginx has read is answered; what arrives while it closes an idle connection for its reload is not read."""
    assert not failed([each for each in run.during(phase_of(run, ROLL_OUT)) if each.status is not None])
