"""What every integration decides the same way, without a framework."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextvars import copy_context
from http.cookies import SimpleCookie
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from araponga_infra import (
    CommitOutcomeUnknownError,
    ConcurrencyConflictError,
    InvalidArgumentError,
    PreconditionFailedError,
    PreconditionRequiredError,
    RowConflict,
    WriteToken,
)
from araponga_infra.health import PartHealth, PartState, health_of
from araponga_infra.integrations.probes import live_answer, ready_answer
from araponga_infra.integrations.problems import BadIfMatchError, problem_of
from araponga_infra.integrations.write_tokens import TokenCarrier, note_commits, track_writes
from tests.integrations.domain import sqlite_url

CONFLICT = RowConflict("Invoice", (4711,), 1, 2)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (PreconditionFailedError([CONFLICT]), 412, "precondition_failed"),
        (ConcurrencyConflictError([CONFLICT]), 409, "conflict"),
        (PreconditionRequiredError("no If-Match"), 428, "precondition_required"),
        (BadIfMatchError("three"), 400, "invalid_if_match"),
        (CommitOutcomeUnknownError(), 503, "outcome_unknown"),
    ],
)
def test_an_error_s_answer(error: Exception, status: int, code: str) -> None:
    problem = problem_of(error)
    assert problem is not None
    document = json.loads(problem.body())
    assert (problem.status, document["status"], document["code"]) == (status, status, code)
    assert document["title"] == problem.status.phrase
    assert "Invoice" not in str(document)
    assert "4711" not in str(document)
    assert "Retry-After" not in problem.headers


@pytest.mark.parametrize("error", [ValueError("x"), InvalidArgumentError("x"), KeyboardInterrupt()])
def test_other_errors_are_not_ours_to_answer(error: BaseException) -> None:
    assert problem_of(error) is None


def test_a_token_survives_the_cookie() -> None:
    carrier = TokenCarrier.checked("token", "Token", 90)
    token = WriteToken.parse("16/B374D848")
    header = carrier.set_cookie(token, is_secure=False)
    assert SimpleCookie(header)["token"].value == str(token)
    assert header == "token=16/B374D848; Max-Age=90; Path=/; HttpOnly; SameSite=Lax"
    assert carrier.set_cookie(token, is_secure=True) == f"{header}; Secure"


@pytest.mark.parametrize("name", ["", "two words", "a=b", "a;b", "a\r\nX: y", "ünicode", 7])
def test_names_that_http_does_not_allow(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="write_token_cookie"):
        TokenCarrier.checked(name, "Token", 90)
    with pytest.raises(InvalidArgumentError, match="write_token_header"):
        TokenCarrier.checked("token", name, 90)


@pytest.mark.parametrize("max_age", [0, -1, float("nan"), "60"])
def test_a_max_age_that_is_none(max_age: float) -> None:
    with pytest.raises(InvalidArgumentError, match="write_token_max_age"):
        TokenCarrier.checked("token", "Token", max_age)


def test_commits_count_for_the_request_they_happen_in() -> None:
    engine = create_engine("sqlite://")
    note_commits(engine)
    note_commits(engine)

    def request(is_writing: bool) -> bool:
        writes = track_writes()
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            if is_writing:
                connection.commit()
        was_writing = writes.take()
        assert not writes.take()
        return was_writing

    assert [copy_context().run(request, is_writing) for is_writing in (True, False, True)] == [True, False, True]
    with engine.begin() as connection:
        connection.execute(text("SELECT 1"))
    engine.dispose()


def test_a_request_within_a_request_commits_for_both() -> None:
    engine = create_engine("sqlite://")
    note_commits(engine)

    def commit() -> None:
        with engine.begin() as connection:
            connection.execute(text("SELECT 1"))

    def outer() -> list[bool]:
        writes = track_writes()
        inner = track_writes()
        commit()
        seen = [inner.take(), writes.take()]
        commit()  # of the outer one again, which has gone on
        return [*seen, writes.take()]

    assert copy_context().run(outer) == [True, True, True]
    engine.dispose()


def test_commits_of_threads_that_a_request_starts_count_for_it(tmp_path: Path) -> None:
    engine = create_engine(sqlite_url(tmp_path))
    note_commits(engine)

    def commit() -> None:
        with engine.begin() as connection:
            connection.execute(text("SELECT 1"))

    def request() -> bool:
        writes = track_writes()
        inside, outside = threading.Thread(target=copy_context().run, args=[commit]), threading.Thread(target=commit)
        outside.start()
        outside.join()
        assert not writes.take(), "a thread of nobody's"
        inside.start()
        inside.join()
        return writes.take()

    assert copy_context().run(request)
    engine.dispose()


def test_probes() -> None:
    healthy, down = PartHealth(PartState.HEALTHY), PartHealth(PartState.DOWN, "no answer")
    degraded = PartHealth(PartState.DEGRADED, "memory")
    assert ready_answer(health_of({"database": healthy, "cache": degraded})).status == 200
    gone = health_of({"database": down})
    assert (ready_answer(gone).status, live_answer(gone).status) == (503, 200)
    document = json.loads(ready_answer(gone).body)
    assert document == {"status": "not ready", "parts": {"database": {"state": "down", "detail": "no answer"}}}
    assert live_answer(health_of({}, live=False)).status == 503


@pytest.mark.parametrize(("module", "extra"), [("fastapi", "fastapi"), ("starlette", "fastapi"), ("flask", "flask")])
def test_without_the_extra_the_import_says_which_one(module: str, extra: str) -> None:
    hide = f"import sys; sys.modules[{module!r}] = None; import araponga_infra.integrations.{module}"
    ran = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, check=False)
    assert ran.stderr.strip().endswith(f"needs the extra {extra!r}: pip install 'araponga_infra[{extra}]'")
