"""When a delivery whose worker died may run: alone, but without stopping a processor for long."""

from __future__ import annotations

__all__ = ["Isolation"]


class Isolation:
    """Decides between claiming as usual, waiting, and claiming one suspect. Used by one fetcher; not thread-safe.

    A suspect runs with nothing else in its process, so that what it may take along is itself. Both the waiting for the
    others to finish and the time it has the process for itself are bounded by `patience_seconds`: a suspect that is
    merely slow does not hold up everything else.
    """

    def __init__(self, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._since: float | None = None
        self._is_running = False
        self.has_suspects: bool = False

    def may_fetch(self, now: float) -> bool:
        """Whether ordinary deliveries may be claimed."""
        if self._is_running:
            return self._since is None or now - self._since > self._patience_seconds
        return not self.has_suspects

    def may_claim_alone(self, now: float, *, is_idle: bool, is_buffer_empty: bool) -> bool:
        """Whether it is time for a suspect."""
        if self._is_running and is_idle:
            self._is_running, self._since = False, None
        if not self.has_suspects or self._is_running:
            return False
        if self._since is None:
            self._since = now
        return is_idle or (is_buffer_empty and now - self._since > self._patience_seconds)

    def note_claim(self, now: float, *, is_found: bool) -> None:
        self._is_running = is_found
        self.has_suspects = is_found
        self._since = now if is_found else None
