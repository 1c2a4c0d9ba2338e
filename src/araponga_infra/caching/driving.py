"""Run a coroutine that never suspends as a plain call.

The cache's decisions are written once, as coroutines over ports. The sync ports block instead of suspending, so that
the same code serves plain callers without an event loop.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["drive"]

T = TypeVar("T")


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine all of whose awaits are answered at once.

    Raises:
        RuntimeError: it suspended, which only an event loop can resume.
    """
    try:
        coroutine.send(None)
    except StopIteration as finished:
        result: T = finished.value
        return result
    coroutine.close()
    raise RuntimeError("a sync call suspended: a port of the async cache was used")
