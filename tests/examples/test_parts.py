"""What the examples of single parts print."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

PRINTED = {
    "caching": """\
1. Fifty callers, one load
  (asking the database for 1)
  50 times Territory(id=1, name='Vale do Itamambuca')
2. 'No such territory' is remembered, too
  (asking the database for 3)
  None
  None
3. A rename reaches every instance
  (asking the database for 1)
  Territory(id=1, name='Vale Novo')
4. A database that is down does not matter to what is cached
  Territory(id=1, name='Vale Novo')
  3 loads for 54 look-ups
""",
    "events": """\
1. Rolled back: 0 deliveries
2. Committed:
  called Vale at attempt 2
  2 deliveries
3. Given up: ['alerts.call']
  called Serra at attempt 2
4. Inbox: ['Vale is under water', 'Serra is under water']
""",
    "sessions": """\
report: 2 posts
tidy_up_in_passing: refused by the statement layer: refused, nothing was written: DELETE is not a read. \
Use a session that may write
shout: refused by the session layer: read-only session closed, nothing was written: Post, Post had been changed. \
Use a session that may write
still: 2 posts
""",
}


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_what_it_shows(name: str, tmp_path: Path, plain_environment: dict[str, str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")],
        cwd=tmp_path, env=plain_environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == PRINTED[name]
