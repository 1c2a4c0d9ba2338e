"""The errors of this room."""

from __future__ import annotations

from typing import Literal, TypeAlias

from araponga_infra.errors import ArapongaInfraError

__all__ = ["Layer", "ReadOnlyViolationError"]

Layer: TypeAlias = Literal["session", "statement", "server"]


class ReadOnlyViolationError(ArapongaInfraError, RuntimeError):
    """Something that is not a read was tried through a read-only session; nothing was written.

    Attributes:
        layer: which guard refused: `session` (changed objects, merge, bulk), `statement` (the text is not a read) or
            `server` (the database itself; its own error is the `__cause__`).
    """

    layer: Layer

    def __init__(self, message: str, *, layer: Layer) -> None:
        super().__init__(message)
        self.layer = layer
