"""What the sync and the async services have in common: their parts, and reading their arguments."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from araponga_infra.caching.annotations import declared_result
from araponga_infra.caching.backends.memory import MemoryStore
from araponga_infra.caching.codec import codec_for
from araponga_infra.caching.engine import Engine, Request
from araponga_infra.caching.flights import Flights
from araponga_infra.caching.freshness import DEFAULT_POLICY
from araponga_infra.caching.keys import CacheKey, group_of, key, normalized
from araponga_infra.caching.ports import Port
from araponga_infra.caching.records import CacheEviction, CacheHit
from araponga_infra.caching.values import CachePolicy, Forever, read_policy, read_tags, read_ttl
from araponga_infra.clock import SYSTEM_CLOCK, Clock, Duration, to_seconds
from araponga_infra.errors import ClosedError, InvalidArgumentError
from araponga_infra.telemetry import Observer, Report, reporter

if TYPE_CHECKING:
    from araponga_infra.caching.backends.redis.connected import ConnectedRedis

__all__ = ["CLOSED", "CacheParts", "RedisTarget", "hybrid_parts", "redis_target"]

_alive: weakref.WeakSet[CacheParts] = weakref.WeakSet()
_fork_lock = threading.Lock()
_is_watching_forks = False


@dataclass(frozen=True)
class RedisTarget:
    """Which Redis, and how to treat it."""

    target: Any
    namespace: str
    budget_seconds: float
    max_connections: int
    recovery: Literal["purge", "flush"]
    isolated_seconds: float

    def __repr__(self) -> str:
        return f"RedisTarget(namespace={self.namespace!r})"


class CacheParts:
    """A memory, an engine and perhaps a Redis; the services are thin shells around it.

    Args:
        port: how to wait and to load.
        memory: the bounds of the memory, or one that exists.
        is_async: the colour of the shell.
    """

    def __init__(
        self,
        *,
        port: Port,
        is_async: bool,
        max_entries: int,
        max_bytes: int | None,
        default_ttl: Duration | Forever,
        clock: Clock | None,
        observer: Observer | None,
        redis: RedisTarget | None = None,
        is_front: bool = True,
    ) -> None:
        _check_count(max_entries, "max_entries")
        if max_bytes is not None:
            _check_count(max_bytes, "max_bytes")
        self.default_ttl = default_ttl
        self.default_ttl_seconds: float = read_ttl(default_ttl, "default_ttl")
        self.monotonic: Callable[[], float] = (clock or SYSTEM_CLOCK).monotonic
        self.clock = clock
        self.observer = observer
        self.report: Report | None = reporter(observer)
        self.max_entries: int = max_entries
        self.max_bytes: int | None = max_bytes
        self.redis = redis
        self.is_async = is_async
        self.memory: MemoryStore = MemoryStore(
            max_entries=max_entries, max_bytes=max_bytes, monotonic=self.monotonic,
            on_eviction=_eviction_reporter(self.report),
        )  # fmt: skip
        self.flights: Flights = Flights()
        self.engine: Engine = Engine(
            memory=self.memory, flights=self.flights, port=port, monotonic=self.monotonic,
            isolated_seconds=math.inf if redis is None else redis.isolated_seconds,
            report=self.report, remote=None, is_front=is_front,
        )  # fmt: skip
        self.connected: ConnectedRedis | None = None
        if redis is not None:
            self.connected = self._connect(redis, port, is_async=is_async, listens=is_front)
            self.engine.remote = self.connected.store
            self.memory.trusted_until = -math.inf
        _watch_forks(self)

    def _connect(self, redis: RedisTarget, port: Port, *, is_async: bool, listens: bool) -> ConnectedRedis:
        from araponga_infra.caching.backends.redis.connected import Surroundings, connect

        surroundings = Surroundings(
            memory=self.memory, flights=self.flights, monotonic=self.monotonic, report=self.report, wait=port.wait,
            on_rejected=self.engine.reject, isolated_seconds=redis.isolated_seconds,
        )  # fmt: skip
        return connect(
            redis.target, surroundings, namespace=redis.namespace, budget_seconds=redis.budget_seconds,
            max_connections=redis.max_connections, recovery=redis.recovery, is_async=is_async, listens=listens,
        )  # fmt: skip

    @property
    def is_degraded(self) -> bool:
        return self.engine.remote is not None and self.engine.remote.is_away

    def after_fork(self) -> None:
        self.engine.renew_locks()
        if self.connected is not None:
            self.connected.renew()
            self.memory.trusted_until = -math.inf

    def ttl(self, ttl: Duration | Forever | None) -> float:
        return self.default_ttl_seconds if ttl is None else read_ttl(ttl)

    def request(
        self,
        given: CacheKey,
        factory: Callable[[], Any],
        ttl: Duration | Forever | None,
        declared: Any,
        tags: Iterable[str],
        policy: CachePolicy | None,
    ) -> Request:
        if not callable(factory):
            raise InvalidArgumentError(
                f"factory is a {type(factory).__name__}: pass a function without arguments that loads the value"
            )
        if policy is not None:
            read_policy(policy)
        declared = declared_result(factory) if declared is None else declared
        codec_for(declared)
        return Request(
            normalized(given), factory, self.ttl(ttl), declared,
            read_tags(tags) if tags else (), policy or DEFAULT_POLICY,
        )  # fmt: skip

    def names(self, keys: Iterable[CacheKey]) -> dict[str, CacheKey]:
        """Keys by their names."""
        if isinstance(keys, (str, bytes)) or not isinstance(cast(Any, keys), Iterable):
            raise InvalidArgumentError(f"keys is the {type(keys).__name__} {keys!r}: pass a list of keys")
        return {normalized(given): given for given in keys}

    def named_values(self, mapping: Mapping[CacheKey, object]) -> dict[str, object]:
        """Values by the names of their keys."""
        if not isinstance(cast(Any, mapping), Mapping):
            raise InvalidArgumentError(f"mapping is a {type(mapping).__name__}: pass a dict of keys and values")
        return {normalized(given): value for given, value in mapping.items()}

    def declare_region(self, name: str, declared: Any, policy: CachePolicy | None) -> None:
        codec_for(declared)
        read_policy(policy)
        if isinstance(name, str) and name:
            self.engine.regions.add(key(name))

    def tell_hit(self, given: CacheKey) -> None:
        if self.report is not None:
            group = group_of(given) if isinstance(given, str) else ""
            self.report(CacheHit("memory", group if group in self.engine.regions else ""))


class _Closed:
    """Takes the place of the engine of a cache that was closed, so that open ones need not ask."""

    def __getattr__(self, name: str) -> Any:
        raise ClosedError("this cache is closed: make a new one, or close it after the last call")


CLOSED: Any = _Closed()


def _check_count(count: int, argument: str) -> None:
    """Refuse bounds that are no positive whole number."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise InvalidArgumentError(f"{argument}={count!r} must be a whole number of 1 or more")


def redis_target(
    target: Any,
    namespace: str,
    timeout: Duration,
    max_connections: int,
    recovery: str,
    isolated_ttl: Duration,
) -> RedisTarget:
    """Read the arguments that concern Redis.

    Raises:
        InvalidArgumentError: one of them is of no use.
    """
    _check_count(max_connections, "max_connections")
    if recovery not in ("purge", "flush"):
        raise InvalidArgumentError(f"recovery={recovery!r} must be 'purge' or 'flush'")
    return RedisTarget(
        target, namespace, to_seconds(timeout, "timeout", allow_zero=False), max_connections,
        recovery,  # type: ignore[arg-type]
        to_seconds(isolated_ttl, "isolated_ttl"),
    )  # fmt: skip


def hybrid_parts(
    memory: CacheParts,
    redis: CacheParts,
    port: Port,
    isolated_ttl: Duration | None,
    recovery: str | None,
    observer: Observer | None,
) -> CacheParts:
    """The parts of a hybrid of two services: the bounds of the one, the Redis of the other."""
    target = cast(RedisTarget, redis.redis)
    return CacheParts(
        port=port, is_async=redis.is_async, max_entries=memory.max_entries, max_bytes=memory.max_bytes,
        default_ttl=redis.default_ttl, clock=memory.clock or redis.clock,
        observer=observer or redis.observer or memory.observer,
        redis=redis_target(
            target.target, target.namespace, target.budget_seconds, target.max_connections,
            recovery or target.recovery, target.isolated_seconds if isolated_ttl is None else isolated_ttl,
        ),
    )  # fmt: skip


def _eviction_reporter(report: Report | None) -> Callable[[int], None] | None:
    return None if report is None else lambda entries: report(CacheEviction(entries))


def _watch_forks(parts: CacheParts) -> None:
    """Locks and threads of the parent are of no use in a child; registered with the first cache, not at import."""
    global _is_watching_forks
    with _fork_lock:
        _alive.add(parts)
        if not _is_watching_forks and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_renew_all)
            _is_watching_forks = True


def _renew_all() -> None:
    global _fork_lock
    _fork_lock = threading.Lock()
    for parts in list(_alive):
        parts.after_fork()
