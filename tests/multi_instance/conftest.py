"""The run, played once for all promises, and its table at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.multi_instance import report
from tests.multi_instance.cluster import Cluster
from tests.multi_instance.run import Run, play
from tests.servers import PostgresCluster, RedisServer

_TABLE = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write", action="store_true", help="keep the result in docs/benchmarks/multi_instance.*")


@pytest.fixture(scope="session")
def run(
    request: pytest.FixtureRequest, shared_postgres_pair: PostgresCluster, shared_redis: RedisServer
) -> Iterator[Run]:
    with Cluster.started(shared_postgres_pair, shared_redis) as cluster:
        played = asyncio.run(play(cluster))
    request.config.stash[_TABLE] = report.table(played)
    yield played
    if request.config.getoption("--write") and not request.session.testsfailed:
        report.write(played)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if table := config.stash.get(_TABLE, ""):
        terminalreporter.write_line(table)
