"""The types a caller sees; mypy checks them, the run checks the values."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, assert_type

import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from araponga_infra.queries import IndexAdvice, NPlusOne, Plan, QueryInspector, QueryReport, Statement
from araponga_infra.testing.queries import assert_max_queries, no_n_plus_one


def test_an_engine_answers_at_once(engine: Engine) -> None:
    inspector = QueryInspector(engine)
    assert_type(inspector, QueryInspector[Engine])
    assert isinstance(assert_type(inspector.explain("SELECT 1"), Plan), Plan)
    assert isinstance(assert_type(inspector.missing_indexes(), tuple[IndexAdvice, ...]), tuple)
    with inspector.capture() as report:
        assert_type(report, QueryReport)
    assert_type(report.statements, tuple[Statement, ...])
    assert_type(report.n_plus_one, tuple[NPlusOne, ...])


@pytest.mark.anyio
async def test_an_async_engine_is_awaited(async_engine: AsyncEngine) -> None:
    inspector = QueryInspector(async_engine)
    assert_type(inspector, QueryInspector[AsyncEngine])
    plan = assert_type(inspector.explain("SELECT 1"), Coroutine[Any, Any, Plan])
    assert isinstance(await plan, Plan)
    assert isinstance(assert_type(await inspector.missing_indexes(), tuple[IndexAdvice, ...]), tuple)


def test_expectations_give_their_report() -> None:
    with assert_max_queries(0) as report, no_n_plus_one() as other:
        assert_type(report, QueryReport)
        assert_type(other, QueryReport)
