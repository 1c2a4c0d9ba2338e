"""How long a store may take to answer a processor, before the connection is given up and another one tried."""

from __future__ import annotations

__all__ = ["LONGEST_SECONDS", "SHORTEST_SECONDS", "Patience"]

SHORTEST_SECONDS = 1.0
LONGEST_SECONDS = 30.0
_MARGIN = 4.0


class Patience:
    """Short, so that what a network swallowed is soon asked again; longer for a store that lives and is slow.

    It doubles each time that it was not enough, and goes back to a multiple of what answers take. Whether the store can
    be reached at all is asked with the shortest one, so that it grows with a slow store alone.
    """

    def __init__(self, shortest_seconds: float = SHORTEST_SECONDS) -> None:
        self._shortest_seconds = shortest_seconds
        self.seconds: float = shortest_seconds

    def gave_up(self) -> None:
        self.seconds = min(LONGEST_SECONDS, 2 * self.seconds)

    def answered(self, took_seconds: float) -> None:
        self.seconds = max(self._shortest_seconds, min(self.seconds, _MARGIN * took_seconds))
