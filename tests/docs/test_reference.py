"""The reference has every public name, and the examples in docstrings run as it says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import araponga_infra
from tests.docs.test_pages import ROOT, script_of

REFERENCE = sorted((ROOT / "docs" / "reference").glob("*.md"))
SOURCE = ROOT / "src"
ENTRY = re.compile(r"^::: araponga_infra\.(\w+)$", re.MULTILINE)


def modules_with_examples() -> list[str]:
    paths = [path for path in sorted(SOURCE.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
    return [".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in paths]


def test_every_public_name_has_one_place_in_the_reference() -> None:
    entries = Counter(name for page in REFERENCE for name in ENTRY.findall(page.read_text(encoding="utf-8")))
    assert entries == Counter(araponga_infra.__all__)


def test_the_examples_in_docstrings_run(plain_environment: dict[str, str]) -> None:
    prelude = script_of((ROOT / "docs" / "reference" / "index.md").read_text(encoding="utf-8"))
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(Path(__file__).with_name("docstrings.py")), *modules_with_examples()],
        env=plain_environment | {"PRELUDE": prelude}, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
