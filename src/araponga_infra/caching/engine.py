"""What every cache does, written once: look up, load, keep, write, delete. Its ports make it sync or async, and with
or without Redis it is the same."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from araponga_infra.caching.backends.memory import MemoryStore, Stamp
from araponga_infra.caching.codec import UnreadableValueError, codec_for, encode, refuse_excess
from araponga_infra.caching.entries import Entry
from araponga_infra.caching.errors import CacheError, LoadTimeoutError, UncacheableValueError
from araponga_infra.caching.flights import ABANDONED, Flight, Flights, Signal
from araponga_infra.caching.freshness import Freshness, Lifetime, judge, lifetime
from araponga_infra.caching.keys import Pattern, group_of, stored_name
from araponga_infra.caching.ports import Port
from araponga_infra.caching.records import (
    CacheEarlyRefresh,
    CacheFallback,
    CacheHit,
    CacheLoad,
    CacheMiss,
    CacheRejected,
    CacheStale,
    CacheWait,
)  # fmt: skip
from araponga_infra.caching.remote import Lease, Reading, Remote, RemoteAwayError
from araponga_infra.caching.values import CachePolicy, Loaded, read_tags, read_ttl
from araponga_infra.telemetry import Record, Report

__all__ = ["Engine", "Request"]

_logger = logging.getLogger("araponga_infra.caching")
_RECHECK_SECONDS = 0.5
"""How long a waiter trusts that it will be woken before it looks whether its leader still lives."""
_FIRST_POLL_SECONDS = 0.003
_LONGEST_POLL_SECONDS = 0.05
_POLL_SHARE_OF_WAIT = 0.1
"""Who waits for another process's load looks again after a tenth of the time it has waited: that late at most."""

Layer = Literal["memory", "redis"]


@dataclass(frozen=True)
class Request:
    """One call of `get_or_set`."""

    key: str
    factory: Callable[[], Any]
    ttl_seconds: float
    declared: Any
    tags: tuple[str, ...]
    policy: CachePolicy


class Found(NamedTuple):
    """What a look-up found: an entry, fresh or stale, where, and what a later store is compared with."""

    entry: Entry | None
    layer: Layer
    stamp: Stamp
    reading: Reading | None


class Landing(NamedTuple):
    """How a flight ended well: an entry, and where it is from."""

    entry: Entry
    origin: Literal["memory", "redis", "load", "stale"]


class Engine:
    """The decisions of a cache.

    Args:
        memory: entries in this process; with `remote` and without `is_front` only while Redis is away.
        flights: the loads under way.
        port: how to wait and to load.
        monotonic: the clock of the entries.
        isolated_seconds: how long a local copy lives without news from other instances.
        report: the observer.
        remote: entries in Redis.
        is_front: serve from memory although there is Redis.
    """

    def __init__(
        self,
        *,
        memory: MemoryStore,
        flights: Flights,
        port: Port,
        monotonic: Callable[[], float],
        isolated_seconds: float,
        report: Report | None,
        remote: Remote | None,
        is_front: bool,
    ) -> None:
        self.memory = memory
        self.flights = flights
        self.port = port
        self.report = report
        self._monotonic = monotonic
        self._isolated_seconds = isolated_seconds
        self.remote = remote
        self._is_front = is_front
        self._refreshing = Flights()
        self.regions: set[str] = set()
        self._warned: set[tuple[str, str]] = set()

    # Reading

    async def get(self, key: str, default: Any, declared: Any) -> Any:
        codec_for(declared)
        found = await self._look_up(key)
        if found.entry is not None and self._judge(found.entry, 0.0) is Freshness.FRESH:
            try:
                value = found.entry.value(declared)
            except UnreadableValueError as error:
                self.reject(key, f"not of the type asked for ({error})")
            else:
                self._tell(CacheHit(found.layer, self.label(key)) if self.report else None)
                return value
        self._tell(CacheMiss(self.label(key)) if self.report else None)
        return default

    async def exists(self, key: str) -> bool:
        found = await self._look_up(key)
        return found.entry is not None and self._judge(found.entry, 0.0) is Freshness.FRESH

    async def get_many(self, keys: Sequence[str], declared: Any) -> dict[str, Any]:
        now = self._monotonic()
        codec_for(declared)
        stamps = {key: self.memory.stamp(key) for key in keys}
        entries = {key: entry for key in keys if (entry := self._in_memory(key, now)) is not None}
        layers: dict[str, Layer] = dict.fromkeys(entries, "memory")
        missing = [key for key in stamps if key not in entries]
        if missing and self.remote is not None:
            for key, entry in (await self._read_many(self.remote, missing)).items():
                entries[key], layers[key] = entry, "redis"
                self._copy(key, entry, stamps[key])
        values: dict[str, Any] = {}
        for key in stamps:
            entry = entries.get(key)
            value = self._value_or_miss(key, entry, declared)
            if value is not _MISS:
                values[key] = value
                self._tell(CacheHit(layers[key], self.label(key)) if self.report else None)
        return values

    async def _read_many(self, remote: Remote, keys: list[str]) -> dict[str, Entry]:
        try:
            return await remote.read_many(keys)
        except RemoteAwayError:
            self._tell(CacheFallback() if self.report else None)
            now = self._monotonic()
            return {key: entry for key in keys if (entry := self._in_isolation(key, now)) is not None}

    def _value_or_miss(self, key: str, entry: Entry | None, declared: Any) -> Any:
        if entry is not None and self._judge(entry, 0.0) is Freshness.FRESH:
            try:
                return entry.value(declared)
            except UnreadableValueError as error:
                self.reject(key, f"not of the type asked for ({error})")
        self._tell(CacheMiss(self.label(key)) if self.report else None)
        return _MISS

    async def _look_up(self, key: str) -> Found:
        """The freshest entry there is: memory's when it may serve, else Redis's, else memory's of an outage."""
        now = self._monotonic()
        stamp = self.memory.stamp(key)
        entry = self._in_memory(key, now) if self._is_front else None
        if self.remote is None or (entry is not None and now < entry.expires):
            return Found(entry, "memory", stamp, None)
        try:
            reading = await self.remote.read(key)
        except RemoteAwayError:
            self._tell(CacheFallback() if self.report else None)
            return Found(self._in_isolation(key, self._monotonic()), "memory", stamp, None)
        if self._is_front and reading.entry is not None and self._judge(reading.entry, 0.0) is Freshness.FRESH:
            self.memory.put(key, reading.entry, stamp)
        return Found(reading.entry, "redis", stamp, reading)

    def _in_memory(self, key: str, now: float) -> Entry | None:
        """A local copy that may be served: news from other instances arrive, or it is young enough to do without."""
        if not self._is_front:
            return None
        entry = self.memory.get(key, now)
        if entry is None or (now >= self.memory.trusted_until and now >= entry.isolated_until):
            return None
        return entry

    def _in_isolation(self, key: str, now: float) -> Entry | None:
        entry = self.memory.get(key, now)
        return entry if entry is not None and now < entry.isolated_until else None

    def _copy(self, key: str, entry: Entry, stamp: Stamp) -> None:
        if self._is_front:
            self.memory.put(key, entry, stamp)

    def _judge(self, entry: Entry, early_refresh: float) -> Freshness:
        return judge(self._monotonic(), entry.expires, entry.dead, entry.load_seconds, early_refresh)

    # get_or_set

    async def get_or_set(self, request: Request) -> Any:
        while True:
            entry = self._in_memory(request.key, self._monotonic())
            if entry is not None:
                freshness = self._judge(entry, request.policy.early_refresh)
                if freshness is Freshness.EARLY:
                    entry = await self._refreshed(request, entry)
                if freshness in (Freshness.FRESH, Freshness.EARLY) and (
                    landed := self._served(request, Landing(entry, "memory"))
                ):
                    return landed[0]
            flight, leads = self.flights.join(request.key, self.port.liveness())
            refreshed = await self._lead(flight, request) if leads else None
            landing = refreshed or await self._await_landing(flight, request, leads=leads)
            if landing is ABANDONED:
                continue
            served = self._served(request, landing)
            if served:
                return served[0]

    def _served(self, request: Request, landing: Landing) -> tuple[Any] | None:
        """The value in a tuple; None when the entry does not read as the type: it is dropped, and a load follows."""
        try:
            value = landing.entry.value(request.declared)
        except UnreadableValueError as error:
            self.reject(request.key, f"not of the type asked for ({error})")
            self.memory.discard([request.key])
            return None
        if self.report is not None and landing.origin in ("memory", "redis"):
            self._tell(CacheHit(landing.origin, self.label(request.key)))
        return (value,)

    async def _lead(self, flight: Flight, request: Request) -> Landing | None:
        """Look once more, now that nobody else does; load when there is nothing.

        A value that is to be refreshed early lands for all who wait before it is; the leader alone gets the new one.
        """
        try:
            found = await self._look_up(request.key)
            entry = found.entry
            freshness = self._judge(entry, request.policy.early_refresh) if entry is not None else Freshness.DEAD
            if entry is not None and freshness in (Freshness.FRESH, Freshness.EARLY) and self._reads(entry, request):
                self.flights.land(flight, Landing(entry, found.layer))
                if freshness is Freshness.EARLY:
                    return Landing(await self._refreshed(request, entry), found.layer)
                return None
            if self.report is not None:
                self._tell(CacheMiss(self.label(request.key)))
            flight.fallback = entry if freshness is Freshness.STALE else None
            load = self._load(flight, request, found)
            await self.port.start(flight, load, may_outlive_call=request.policy.may_outlive_call)
        except BaseException:
            self.flights.land(flight, ABANDONED)
            raise
        return None

    def _is_usable(self, entry: Entry | None, request: Request) -> bool:
        return entry is not None and self._judge(entry, 0.0) is Freshness.FRESH and self._reads(entry, request)

    def _reads(self, entry: Entry, request: Request) -> bool:
        try:
            entry.value(request.declared)
        except UnreadableValueError as error:
            self.reject(request.key, f"not of the type asked for ({error})")
            return False
        return True

    async def _await_landing(self, flight: Flight, request: Request, *, leads: bool) -> Any:
        """Wait for the flight; give up earlier as the policy says."""
        if flight.has_landed and leads:
            return self._outcome(flight)
        started = time.monotonic()
        soft, hard = request.policy.soft_timeout_seconds, request.policy.hard_timeout_seconds
        self.flights.awaiting(flight)
        try:
            while not flight.has_landed:
                waited = time.monotonic() - started
                if soft is not None and flight.fallback is not None and waited >= soft:
                    self._tell(CacheStale("load slow", self.label(request.key)) if self.report else None)
                    return Landing(flight.fallback, "stale")
                if hard is not None and waited >= hard:
                    raise LoadTimeoutError(
                        f"the load of {request.key!r} took longer than hard_timeout={hard} s; it goes on"
                    )
                limits = [limit - waited for limit in (soft if flight.fallback else None, hard) if limit is not None]
                await self.port.wait(flight, min([_RECHECK_SECONDS, *limits]))
                if not flight.has_landed and not flight.is_alive():
                    self.flights.land(flight, ABANDONED)
        finally:
            self.flights.awaiting(None)
        if self.report is not None and not leads:
            self._tell(CacheWait(time.monotonic() - started, self.label(request.key)))
        return self._outcome(flight)

    def _outcome(self, flight: Flight) -> Any:
        if flight.error is not None:
            raise flight.error
        return flight.outcome

    async def _refreshed(self, request: Request, current: Entry) -> Entry:
        """Load again before expiry, unless somebody does so already; the current entry serves until then."""
        flight, leads = self._refreshing.join(request.key, self.port.liveness())
        if not leads:
            return current
        if self.report is not None:
            self._tell(CacheEarlyRefresh(self.label(request.key)))
        flight.fallback = current
        stamp = self.memory.stamp(request.key)
        try:
            reading = await self.remote.read(request.key) if self.remote is not None else None
            load = self._load(flight, request, Found(current, "memory", stamp, reading), is_refresh=True)
            await self.port.start(flight, load, may_outlive_call=request.policy.may_outlive_call)
        except BaseException as error:
            self._refreshing.land(flight, ABANDONED)
            if isinstance(error, RemoteAwayError):
                return current
            raise
        if request.policy.may_outlive_call:
            return current
        landing = await self._await_landing(flight, request, leads=True)
        return landing.entry if isinstance(landing, Landing) else current

    # Loading

    async def _load(self, flight: Flight, request: Request, found: Found, *, is_refresh: bool = False) -> None:
        """Run the factory under a lease where there is Redis, keep the result, land the flight."""
        flights = self._refreshing if is_refresh else self.flights
        lease: Lease | None = None
        try:
            if self.remote is not None and found.reading is not None:
                outcome = await self._acquire(self.remote, flight, request, gives_way=is_refresh)
                if isinstance(outcome, Entry):
                    self._copy(request.key, outcome, found.stamp)
                    flights.land(flight, Landing(outcome, "redis"))
                    return
                lease = outcome
            landing = await self._run_factory(request, found, lease, flight.fallback)
        except BaseException as error:
            await self._release(request.key, lease)
            if self.port.is_interruption(error):
                flights.land(flight, ABANDONED)
                raise
            flights.land(flight, error=_as_failure(error))
        else:
            flights.land(flight, landing)

    async def _acquire(
        self, remote: Remote, flight: Flight, request: Request, *, gives_way: bool
    ) -> Lease | Entry | None:
        """The lease, or the entry that its holder stored; None when Redis has gone and the load goes without."""
        token, started = remote.new_token(), time.monotonic()
        try:
            while True:
                grant = await remote.acquire(request.key, token)
                entry = grant.reading.entry
                if not gives_way and self._is_usable(entry, request):
                    if grant.is_granted:
                        await remote.release(request.key, token)
                    return entry
                if grant.is_granted:
                    life = Lifetime(request.ttl_seconds, request.policy.stale_for_seconds)
                    return await remote.lease(request.key, token, grant, request.tags, life)
                if gives_way:
                    return flight.fallback
                woken = Signal()
                flight.nudge = woken.land
                pause = (time.monotonic() - started) * _POLL_SHARE_OF_WAIT
                await self.port.wait(woken, min(max(pause, _FIRST_POLL_SECONDS), _LONGEST_POLL_SECONDS))
        except RemoteAwayError:
            self._tell(CacheFallback() if self.report else None)
            return None

    async def _release(self, key: str, lease: Lease | None) -> None:
        if lease is None or self.remote is None:
            return
        try:
            await self.remote.release(key, lease.token)
        except RemoteAwayError:
            return

    async def _run_factory(
        self, request: Request, found: Found, lease: Lease | None, fallback: Entry | None
    ) -> Landing:
        started = self._monotonic()
        try:
            result = await self.port.call(request.factory)
        except BaseException as error:
            self._tell_load(started, request, stored=False, failed=True)
            if fallback is None or not isinstance(error, Exception):
                raise
            await self._release(request.key, lease)
            return self._fall_back(request, fallback, error)
        loaded = _loaded(result)
        payload = encode(loaded.value)
        try:
            codec_for(request.declared).read(payload)
        except UnreadableValueError as error:
            raise UncacheableValueError(
                f"the load of {request.key!r} returned a {type(loaded.value).__name__} that does not read back as "
                f"{request.declared!r}: correct the type or the factory"
            ) from error
        entry, stored = await self._keep(request, found, lease, loaded, payload, self._monotonic() - started)
        self._tell_load(started, request, stored=stored, failed=False)
        return Landing(entry, "load")

    def _fall_back(self, request: Request, stale: Entry, error: Exception) -> Landing:
        _logger.warning(
            "the load of a cached value failed (%s): serving the one that has expired%s",
            type(error).__name__, f" in {label}" if (label := self.label(request.key)) else "",
        )  # fmt: skip
        self._tell(CacheStale("load failed", self.label(request.key)) if self.report else None)
        return Landing(stale, "stale")

    async def _keep(
        self, request: Request, found: Found, lease: Lease | None, loaded: Loaded[Any], payload: bytes, seconds: float
    ) -> tuple[Entry, bool]:
        """Store what was loaded, in Redis under the lease and here, unless it was deleted in the meantime."""
        ttl = request.ttl_seconds if loaded.ttl is None else read_ttl(loaded.ttl, "Loaded.ttl")
        life = lifetime(ttl, request.policy, seconds)
        tags = read_tags((*request.tags, *loaded.tags))
        entry = Entry(payload, life, self._monotonic(), tags, self._isolated_seconds)
        if not loaded.store or not self._is_small(request, loaded, payload):
            await self._release(request.key, lease)
            return entry, False
        if self.remote is None:
            return entry, self.memory.put(request.key, entry, found.stamp)
        stored = False
        if lease is not None:
            try:
                stored = await self.remote.store(lease, payload, life, tags)
            except RemoteAwayError:
                lease = None
            else:
                if not stored:
                    return entry, False
        if stored:
            self._copy(request.key, entry, found.stamp)
        elif lease is None and self.remote.is_away:
            stored = self.memory.put(request.key, entry, found.stamp)
        return entry, stored

    def _is_small(self, request: Request, loaded: Loaded[Any], payload: bytes) -> bool:
        try:
            refuse_excess(payload, type(cast(object, loaded.value)))
        except UncacheableValueError as error:
            self.reject(request.key, "too large or too deep", str(error))
            return False
        return True

    # Writing and deleting

    async def set_many(self, values: Mapping[str, Any], ttl_seconds: float, tags: tuple[str, ...]) -> None:
        payloads = {key: encode(value) for key, value in values.items()}
        for key, payload in payloads.items():
            refuse_excess(payload, type(cast(object, values[key])))
        now = self._monotonic()
        life = Lifetime(ttl_seconds)
        entries = {key: Entry(payload, life, now, tags, self._isolated_seconds) for key, payload in payloads.items()}
        self._detach(entries.__contains__)
        if self.remote is None:
            self.memory.write(entries)
            return
        stamps = self.memory.begin_write(entries)
        stays = False
        try:
            written = await self.remote.write(payloads, life, tags)
            stays = self._is_front if written else self.remote.is_away
        finally:
            self.memory.end_write(entries if stays else dict.fromkeys(entries), stamps)
            self._detach(entries.__contains__)

    async def delete_many(self, keys: Iterable[str]) -> None:
        names = set(keys)

        def forget() -> None:
            self._detach(names.__contains__)
            self.memory.discard(names)

        await self._delete(forget, lambda remote: remote.delete(names))

    async def delete_by_pattern(self, text: str) -> None:
        pattern = Pattern(text)

        def forget() -> None:
            self._detach(lambda key: pattern.matches(stored_name(key)))
            self.memory.discard_matching(pattern)

        await self._delete(forget, lambda remote: remote.delete_matching(pattern))

    async def delete_by_tag(self, tag: str) -> None:
        read_tags((tag,))

        def forget() -> None:
            self._detach(_any)
            self.memory.discard_tag(tag)

        await self._delete(forget, lambda remote: remote.delete_tag(tag))

    async def delete_group(self, group: str) -> None:
        def forget() -> None:
            self._detach(lambda key: group_of(key) == group)
            self.memory.discard_group(group)

        await self._delete(forget, lambda remote: remote.delete_group(group))

    async def clear(self) -> None:
        def forget() -> None:
            self._detach(_any)
            self.memory.clear()

        await self._delete(forget, lambda remote: remote.clear())

    async def _delete(self, forget: Callable[[], None], delete: Callable[[Remote], Awaitable[bool]]) -> None:
        """Forget here, delete there, and forget again what was read from there in between."""
        forget()
        if self.remote is not None:
            try:
                await delete(self.remote)
            finally:
                forget()

    def _detach(self, is_concerned: Callable[[str], bool]) -> None:
        self.flights.detach(is_concerned)
        self._refreshing.detach(is_concerned)

    # Telling

    def reject(self, key: str, reason: str, detail: str = "") -> None:
        """An entry cannot be used: a miss, and one warning for each region and reason.

        The reason is one of a few, since it labels what is reported; what differs from case to case is its detail.
        """
        label = self.label(key)
        if (label, reason) not in self._warned and len(self._warned) < 1000:
            self._warned.add((label, reason))
            _logger.warning(
                "a cached entry%s is passed over: %s", f" of {label!r}" if label else "", detail or reason
            )  # fmt: skip
        self._tell(CacheRejected(reason, label) if self.report else None)

    def label(self, key: str) -> str:
        """The region a key is in, if one was declared; what callers put into keys is no label."""
        group = group_of(key)
        return group if group in self.regions else ""

    def _tell_load(self, started: float, request: Request, *, stored: bool, failed: bool) -> None:
        if self.report is not None:
            self.report(CacheLoad(self._monotonic() - started, stored, failed, self.label(request.key)))

    def _tell(self, record: Record | None) -> None:
        if record is not None and self.report is not None:
            self.report(record)

    def renew_locks(self) -> None:
        """In a forked child."""
        self.memory.renew_lock()
        self.flights.renew_lock()
        self._refreshing.renew_lock()


_MISS: Any = object()


def _any(_key: str) -> bool:
    return True


def _loaded(result: Any) -> Loaded[Any]:
    return cast(Any, result) if isinstance(result, Loaded) else Loaded(result)


def _as_failure(error: BaseException) -> BaseException:
    """A load that was cancelled from within must not cancel those who wait for it."""
    if isinstance(error, Exception):
        return error
    failure = CacheError(f"the load was ended by {type(error).__name__}")
    failure.__cause__ = error
    return failure
