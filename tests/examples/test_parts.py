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
    "caching_async": """\
1. Fifty callers, one load, and the first of them goes away
  (asking the database for 1)
  49 times Territory(id=1, name='Vale do Itamambuca')
2. 'No such territory' is remembered, too
  (asking the database for 3)
  None
  None
3. A rename reaches every instance
  (asking the database for 1)
  Territory(id=1, name='Vale Novo')
  3 loads for 53 look-ups
""",
    "concurrency": """\
  428 If-Match is missing: send the ETag of the version that this change was made from, as in If-Match: "3"
  400 If-Match 'seven' cannot be read: send quoted tags as in "3" or "3", "4", or *
  200 ETag "2": Bazar, 0 likes
  412 Post 1 was expected at version 1 and is at version 2 now: read it again before changing it
  200 ETag "4": Bazar, 2 likes
  409 Post 1 was expected at version 4 and is at version 5 now; nothing was committed after 1 attempt: \
read again and repeat the change
""",
    "concurrency_async": """\
Bazar, ETag "2"
412: Post 1 was expected at version 1 and is at version 2 now: read it again before changing it
10 likes of 10 people, 10 of whom had read version 2
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
    "events_async": """\
1. In the order of COMMIT, one at a time
  Vale at 1 m
  Vale at 2 m
  Vale at 3 m
  5 completed, dead: attempts_exhausted
2. Redriven
  1 completed
3. Said twice, accepted once; tomorrow is now in tests
  Serra at 1 m
  2 completed
""",
    "sessions": """\
report: 2 posts
tidy_up_in_passing: refused by the statement layer: refused, nothing was written: DELETE is not a read. \
Use a session that may write
shout: refused by the session layer: read-only session closed, nothing was written: Post, Post had been changed. \
Use a session that may write
still: 2 posts
""",
    "sessions_async": """\
feed: ['Feira', 'Mutirão']
refused by the statement layer: refused, nothing was written: INSERT is not a read. Use a session that may write
refused by the session layer: read-only session closed, nothing was written: Post had been changed. \
Use a session that may write
still: 2 posts
""",
    "telemetry_async": """\
announced: Vale Novo
events.published 1
events.completed 1
cache.miss 1
cache.load 1
cache.hit 2
""",
}


def output_of(name: str, environment: dict[str, str], folder: Path) -> str:
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_what_it_shows(name: str, tmp_path: Path, plain_environment: dict[str, str]) -> None:
    assert output_of(name, plain_environment, tmp_path) == PRINTED[name]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["caching", "caching_async"])
def test_a_cache_on_redis_shows_the_same(
    name: str, tmp_path: Path, plain_environment: dict[str, str], redis_url: str
) -> None:
    assert output_of(name, plain_environment | {"ARAPONGA_REDIS_URL": redis_url}, tmp_path) == PRINTED[name]


@pytest.mark.parametrize("part", ["caching", "concurrency", "events", "queries", "sessions", "telemetry"])
@pytest.mark.parametrize("suffix", ["", "_async"])
def test_each_part_is_shown_in_sync_and_in_async_code(part: str, suffix: str) -> None:
    lines = (EXAMPLES / f"{part}{suffix}.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 70, "an example is read in one go"
