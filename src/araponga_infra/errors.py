"""The errors every part shares; each part adds its own below `ArapongaInfraError`."""

from __future__ import annotations

from typing import Any, Self

__all__ = [
    "ArapongaInfraError",
    "ClosedError",
    "InvalidArgumentError",
    "MissingExtraError",
    "NotConfiguredError",
]


class ArapongaInfraError(Exception):
    """The root: `except ArapongaInfraError` catches whatever this package raises of its own.

    Every subclass survives pickling with its fields, whatever its constructor takes, so that errors cross
    process pools and test runners.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args), self.__dict__

    @classmethod
    def _blank(cls, args: tuple[Any, ...]) -> Self:
        error = cls.__new__(cls)
        error.args = args
        return error


def _rebuild(kind: type[ArapongaInfraError], args: tuple[Any, ...]) -> ArapongaInfraError:
    return kind._blank(args)


class InvalidArgumentError(ArapongaInfraError, ValueError):
    """An argument was refused at the call; nothing was done. The message names the argument and what to pass."""


class ClosedError(ArapongaInfraError, RuntimeError):
    """Something was used after its close; make a new one, or close it later."""


class NotConfiguredError(ArapongaInfraError):
    """A part was asked for that the settings do not name; the message says which variable would."""


class MissingExtraError(ArapongaInfraError, ImportError):
    """An optional dependency is not installed; the message has the `pip install` that helps.

    Args:
        extra: the extra of this package that brings the dependency, as in `araponga_infra[postgres]`.
        needed_for: what was asked for, in the caller's words.
    """

    extra: str

    def __init__(self, extra: str, needed_for: str) -> None:
        super().__init__(f"{needed_for} needs the extra {extra!r}: pip install 'araponga_infra[{extra}]'")
        self.extra = extra
