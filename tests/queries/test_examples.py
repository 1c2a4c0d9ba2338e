"""The examples print what a reader is told they print."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def output_of(example: str, folder: Path) -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLES / example)]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_queries(tmp_path: Path) -> None:
    output = re.sub(r"author\.(\w+) AS \w+", r"author.\1", output_of("queries.py", tmp_path))
    assert (
        re.sub(r"in feed\S*;", "in feed;", output)
        == """\
feed: 5 queries
  N+1, 4 times: SELECT author.id, author.name FROM author WHERE author.id = ?
  in feed; load it with the parents: .options(selectinload(Post.author))
better_feed: 2 queries
reading posts by title: SCAN post
  CREATE INDEX ix_post_title ON post (title);  -- post is read from end to end (10000 rows or more) to compare title
  CREATE INDEX ix_post_author_id ON post (author_id);  -- foreign key to author without an index
"""
    )


def test_queries_async(tmp_path: Path) -> None:
    output = re.sub(r"in 0\.\d+ s", "in 0 s", output_of("queries_async.py", tmp_path))
    first, second, *others = output.splitlines()
    assert first == "INFO GET /feed 200: 2 queries in 0 s"
    assert second.startswith("WARNING GET /feed 200: 3 queries in 0 s, at most 2 expected; N+1: 3 times")
    assert others == [
        "SELECT name FROM author WHERE name = ?", "SCAN author", "CREATE INDEX ix_post_author ON post (author)",
    ]  # fmt: skip
