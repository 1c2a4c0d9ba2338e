"""Run the examples in the docstrings of modules, each after the lines that the reference says they begin with."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def examples_in(source: str) -> Iterator[tuple[str, int, str]]:
    """Name, line and text of each docstring with examples; read from the source, so that no object is looked at."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Documented) and ">>> " in (text := ast.get_docstring(node) or ""):
            yield getattr(node, "name", "module"), getattr(node, "lineno", 1), text


@contextlib.contextmanager
def folder_of_its_own() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        yield


def failures_in(module_name: str, prelude: str) -> int:
    module = importlib.import_module(module_name)
    offered = {name: getattr(module, name) for name in module.__all__}
    path = Path(str(module.__file__))
    runner = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST)
    for name, line, text in examples_in(path.read_text(encoding="utf-8")):
        names: dict[str, Any] = {"__name__": "__main__"}
        with folder_of_its_own():
            exec(compile(prelude, "docs/reference/index.md", "exec", dont_inherit=True), names)
            runner.run(doctest.DocTestParser().get_doctest(text, names | offered, name, str(path), line))
    return runner.summarize(verbose=False).failed


if __name__ == "__main__":
    failing = [name for name in sys.argv[1:] if failures_in(name, os.environ["PRELUDE"])]
    sys.exit(f"examples fail in {', '.join(failing)}" if failing else 0)
