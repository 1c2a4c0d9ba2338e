"""Whoever installs the service as the documentation or the image does has all that it imports."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SERVICE = ROOT / "examples" / "community"
OURS = {"araponga_infra", "examples"}


def imported() -> set[str]:
    """The packages that are imported, by their names at the registry."""
    owners = packages_distributions()
    modules = {module for file in SERVICE.rglob("*.py") for module in _absolute_imports(file)}
    return {canonicalize_name(owners[module][0]) for module in modules - OURS - sys.stdlib_module_names}


def _absolute_imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)


def installed(extras: list[str]) -> set[str]:
    """What pip brings along with these extras and the service's own requirements."""
    lines = SERVICE.joinpath("requirements.txt").read_text().splitlines()
    todo = [Requirement(f"araponga_infra[{','.join(extras)}]")]
    todo += [Requirement(line) for line in lines if not line.startswith("#")]
    found: dict[str, None] = {}
    while todo:
        requirement = todo.pop()
        if (name := canonicalize_name(requirement.name)) not in found:
            found[name] = None
            todo += _wanted_by(requirement)
    return set(found)


def _wanted_by(requirement: Requirement) -> Iterator[Requirement]:
    for each in map(Requirement, requires(requirement.name) or ()):
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in requirement.extras or {""}):
            yield each


@pytest.mark.parametrize("place", ["docs/community.md", "deploy/Dockerfile"])
def test_what_is_imported_is_installed(place: str) -> None:
    [command] = re.findall(r"pip install .*-r .*requirements\.txt", ROOT.joinpath(place).read_text())
    [extras] = re.findall(r"'\.\[(.+)\]'", command)
    assert imported() <= installed(extras.split(","))
