"""The example of a handler that answers 200, 428, 400 and 412."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "concurrency.py"


def test_the_example_answers_each_status() -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert re.findall(r"^  (\d{3})", ran.stdout, re.MULTILINE) == ["200", "428", "400", "200", "412"]
    assert "Post 1 was expected at version 1 and is at version 2 now" in ran.stdout
