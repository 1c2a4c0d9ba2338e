"""What the cache raises of its own; a failing Redis is never among it."""

from __future__ import annotations

from araponga_infra.errors import ArapongaInfraError

__all__ = ["CacheError", "LoadTimeoutError", "RecursiveLoadError", "UncacheableValueError"]


class CacheError(ArapongaInfraError):
    """The root of what the cache raises."""


class UncacheableValueError(CacheError, ValueError):
    """A value cannot be written as JSON, does not come back as its type, is too large or nested too deeply."""


class RecursiveLoadError(CacheError, RuntimeError):
    """A load asked, directly or through other loads, for the key that it is loading: waiting would never end."""


class LoadTimeoutError(CacheError, TimeoutError):
    """A load took longer than the policy's `hard_timeout`; it goes on in the background and is stored when it ends."""
