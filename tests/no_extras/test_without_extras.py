"""What needs no extra works without any, and what needs one says which: in the default run with every extra's imports
blocked, in `nox -s no_extras` where none is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.py"

BLOCK = """
import sys
sys.modules.update(dict.fromkeys(
    ["psycopg", "psycopg2", "asyncpg", "aiosqlite", "opentelemetry", "fastapi", "starlette", "flask", "click", "typer"]
))
"""

NEEDS = {
    "postgres": "ReplicaSet('postgresql://u:hunter2@localhost/x')",
    "postgres ": "Infrastructure(InfraSettings('postgresql://u:hunter2@localhost/x')).engine",
    "sqlite-async": "AsyncReadOnlySessionFactory('sqlite:///x.db')",
    "otel": "OpenTelemetryObserver()",
    "fastapi": "__import__('araponga_infra.integrations.fastapi')",
    "flask": "__import__('araponga_infra.integrations.flask')",
    "cli": "__import__('araponga_infra.cli', fromlist=['main']).main()",
}


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCK + script],
        cwd=folder, env={}, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("extra", NEEDS)
def test_what_needs_an_extra_names_it(extra: str, tmp_path: Path) -> None:
    ran = run(f"from araponga_infra import *\n{NEEDS[extra]}", tmp_path)
    assert ran.returncode != 0
    message = ran.stderr.strip().splitlines()[-1]  # above it, newer Pythons show the lines of the script itself
    assert f"pip install 'araponga_infra[{extra.strip()}]'" in message
    assert "hunter2" not in message


def test_the_quickstart_needs_none(tmp_path: Path) -> None:
    ran = run(f"import runpy; runpy.run_path({str(QUICKSTART)!r}, run_name='__main__')", tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "badge 'guardian' printed" in ran.stdout


def test_the_async_parts_that_need_no_database_need_none(tmp_path: Path) -> None:
    script = """
import asyncio
from araponga_infra import AsyncInfrastructure, InfraSettings

async def main():
    async with AsyncInfrastructure(InfraSettings()) as infra:
        await infra.cache.set("key", 1)
        assert await infra.cache.get("key") == 1

asyncio.run(main())
"""
    ran = run(script, tmp_path)
    assert ran.returncode == 0, ran.stderr
