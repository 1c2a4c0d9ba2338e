"""What the cache reports to an observer. No record holds a key or a value: `region` is the name of a declared region
or decorator, empty for calls on the cache itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from araponga_infra.telemetry import Record

__all__ = [
    "CacheBreaker", "CacheEarlyRefresh", "CacheEviction", "CacheFallback", "CacheHit", "CacheIsolation", "CacheLoad",
    "CacheMiss", "CachePurge", "CacheRejected", "CacheStale", "CacheWait",
]  # fmt: skip


@dataclass(frozen=True)
class CacheHit(Record):
    """A value was served without a load."""

    name: ClassVar[str] = "cache.hit"
    layer: Literal["memory", "redis"]
    region: str = ""


@dataclass(frozen=True)
class CacheMiss(Record):
    """No fresh value was found."""

    name: ClassVar[str] = "cache.miss"
    region: str = ""


@dataclass(frozen=True)
class CacheStale(Record):
    """A value past its TTL was served, since its load failed or was slow."""

    name: ClassVar[str] = "cache.stale"
    reason: Literal["load failed", "load slow"]
    region: str = ""


@dataclass(frozen=True)
class CacheEarlyRefresh(Record):
    """A value is being loaded again before it expires."""

    name: ClassVar[str] = "cache.early_refresh"
    region: str = ""


@dataclass(frozen=True)
class CacheLoad(Record):
    """A factory ran. `stored` is False when it failed, asked not to be stored, or a delete voided it."""

    name: ClassVar[str] = "cache.load"
    seconds: float
    stored: bool
    failed: bool
    region: str = ""


@dataclass(frozen=True)
class CacheWait(Record):
    """A caller waited for a load that another one had started."""

    name: ClassVar[str] = "cache.wait"
    seconds: float
    region: str = ""


@dataclass(frozen=True)
class CacheFallback(Record):
    """A call was answered without Redis, which did not answer it."""

    name: ClassVar[str] = "cache.fallback"


@dataclass(frozen=True)
class CacheBreaker(Record):
    """Redis was found to be gone (`open`), is being tried (`half-open`), or is trusted again (`closed`)."""

    name: ClassVar[str] = "cache.breaker"
    state: Literal["open", "half-open", "closed"]
    reason: str = ""


@dataclass(frozen=True)
class CacheIsolation(Record):
    """Whether invalidations from other instances reach this one."""

    name: ClassVar[str] = "cache.isolation"
    isolated: bool


@dataclass(frozen=True)
class CachePurge(Record):
    """What was written while Redis was away was removed from it; `epoch_raised`: all entries were."""

    name: ClassVar[str] = "cache.purge"
    keys: int
    epoch_raised: bool


@dataclass(frozen=True)
class CacheRejected(Record):
    """A stored entry could not be read and counts as a miss, or a loaded value was too large to keep."""

    name: ClassVar[str] = "cache.rejected"
    reason: str
    region: str = ""


@dataclass(frozen=True)
class CacheEviction(Record):
    """Memory was full: the entries least recently used went."""

    name: ClassVar[str] = "cache.eviction"
    entries: int
