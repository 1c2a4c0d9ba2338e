"""Work on many dead letters, a step at a time: shown as it grows, and ended by SIGINT between two steps."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from araponga_infra.errors import ArapongaInfraError

__all__ = ["BrokenOffError", "steps"]


class BrokenOffError(ArapongaInfraError):
    """SIGINT has ended a command between two of its steps; the message says how far it came."""


@contextmanager
def steps(doing: str, done: str, *, expected: int | None) -> Generator[Callable[[int], None], None, None]:
    """Takes the number done after each step.

    Args:
        doing: what a bar is labelled with.
        done: what has happened to those that are done.
        expected: how many there are, for a bar on a terminal; a running number is shown when None, nothing when 0.

    Raises:
        BrokenOffError: after a step in which SIGINT came. A second SIGINT does not wait for the step's end.
    """
    with _interruption() as is_asked, _progress(doing, expected) as show:

        def note(number: int) -> None:
            show(number)
            if is_asked():
                raise BrokenOffError(f"interrupted: {number} {done}, the others are as they were; call again to go on")

        yield note


@contextmanager
def _interruption() -> Generator[Callable[[], bool], None, None]:
    """Tells whether SIGINT has come, which an event loop would keep from sync code until that returns.

    Signals reach the main thread alone; in another one nothing is changed.
    """
    came = list[int]()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous: Any = signal.signal(signal.SIGINT, on_signal)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def _progress(doing: str, expected: int | None) -> Generator[Callable[[int], object], None, None]:
    """A bar ends at its total, though others may have died since they were counted."""
    terminal = sys.stderr
    if not terminal.isatty() or expected == 0:
        yield lambda _number: None
    elif expected is None:
        try:
            yield lambda number: click.echo(f"\r{doing}: {number}", err=True, nl=False)
        finally:
            click.echo(err=True)
    else:
        with click.progressbar(length=expected, label=doing, file=terminal, show_pos=True) as bar:
            yield lambda number: bar.update(min(number, expected) - bar.pos)
