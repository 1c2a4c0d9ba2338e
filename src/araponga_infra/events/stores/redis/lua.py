"""The Lua scripts, as files next to this module."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

__all__ = ["Script", "script"]


@dataclass(frozen=True)
class Script:
    """A script's text and the hash that Redis knows it by."""

    text: str
    sha: str


@cache
def script(name: str) -> Script:
    folder = files(__name__.rpartition(".")[0]) / "scripts"
    text = (folder / "common.lua").read_text() + (folder / f"{name}.lua").read_text()
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
