"""Each promise on the page of guarantees names tests, and there are such tests."""

from __future__ import annotations

import re

import pytest

from tests.docs.test_pages import ROOT

PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
PROMISES = re.findall(r"^- (\*\*.*?)(?=^- |^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"`((?:tests|src)/[\w/]+\.py)::(test_\w+)`")


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: re.sub(r"\W+", "-", promise[2:42]))
def test_a_promise_names_tests_that_exist(promise: str) -> None:
    named = NAMED.findall(promise)
    assert named
    missing = [
        f"{path}::{test}"
        for path, test in named
        if not (ROOT / path).exists()
        or not re.search(rf"^\s*(async )?def {test}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert missing == []


def test_every_part_promises_something() -> None:
    assert len(PROMISES) >= 50
    assert re.findall(r"^## (.*)$", PAGE, re.MULTILINE) == [
        "Concurrency", "Caching", "Sessions and replicas", "Events", "Queries and telemetry", "In a service",
    ]  # fmt: skip
