"""Optional dependencies: imported where they are used, with an error that names the extra."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from araponga_infra.errors import MissingExtraError

__all__ = ["import_extra"]


def import_extra(module: str, *, extra: str, needed_for: str) -> Any:
    """Import `module`, or raise `MissingExtraError` when its distribution is not installed.

    A module that is installed but fails to import one of its own dependencies is another fault: that ImportError
    propagates untouched.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{module}.".startswith(f"{missing.name}."):
            raise
        raise MissingExtraError(extra, needed_for) from missing
