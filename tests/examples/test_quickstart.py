"""The quickstart's output, on embedded defaults and on PostgreSQL with a standby and Redis."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.servers.fixtures import ReplicatedDatabase

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.py"

EXPECTED = """\
1. Two editors, one post: a conflict
  Feira de trocas / Domingo, version 3: neither edit is lost
  refused: <why>
2. Territories through the cache
  (asking the database)
  Territory(id=1, name='Vale do Itamambuca')
  Territory(id=1, name='Vale do Itamambuca')
3. A read-only report
  1 post(s)
  refused: <why>
4. Events
  post 2: followers notified at attempt 3
  1 completed, 3 retries, 1 dead
  dead: print_badge of community.badge_awarded after 2 attempts: <why>
  badge 'guardian' printed
"""


def run_quickstart(environment: dict[str, str], folder: Path) -> tuple[str, str]:
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(QUICKSTART)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return re.sub(r"(refused|attempts): .+", r"\1: <why>", ran.stdout), ran.stderr


def test_on_embedded_defaults(tmp_path: Path, plain_environment: dict[str, str]) -> None:
    output, log = run_quickstart(plain_environment, tmp_path)
    assert output == EXPECTED
    assert "no database is named: embedded SQLite" in log
    assert list(tmp_path.iterdir()) == []


def test_on_postgresql_with_its_standby_and_redis(
    tmp_path: Path, plain_environment: dict[str, str], replicated_database: ReplicatedDatabase, redis_url: str
) -> None:
    environment = plain_environment | {
        "ARAPONGA_DATABASE_URL": replicated_database.primary.url(),
        "ARAPONGA_DATABASE_READONLY_URL": replicated_database.standby.url(),
        "ARAPONGA_REDIS_URL": redis_url,
    }
    output, _ = run_quickstart(environment, tmp_path)
    assert output == EXPECTED
    again, _ = run_quickstart(environment, tmp_path)
    assert "neither edit is lost" in again
