"""The Lua scripts, read from the files beside this module."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TypeAlias

__all__ = ["Command", "Script", "script"]

Command: TypeAlias = "tuple[bytes | str | int, ...]"


@dataclass(frozen=True)
class Script:
    """A Lua script; Redis runs each one as a whole."""

    text: str = field(repr=False)
    sha: str

    def call(self, keys: tuple[str, ...], *arguments: bytes | str | int) -> Command:
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)

    def in_full(self, command: Command) -> Command:
        """The same call for a server that does not know the script yet."""
        return ("EVAL", self.text, *command[2:])


@cache
def script(name: str) -> Script:
    """One of the scripts by the name of its file."""
    text = files("araponga_infra.caching.backends.redis").joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def in_full(command: Command) -> Command:
    """An EVALSHA as EVAL."""
    sha = command[1]
    for name in ("acquire", "extend", "release", "store", "write", "delete", "mark", "unmark"):
        if script(name).sha == sha:
            return script(name).in_full(command)
    raise LookupError("an EVALSHA of none of our scripts")
