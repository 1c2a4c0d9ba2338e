"""Hearing what other instances delete, and knowing whether one hears.

A subscription that has gone silent looks like one on which nothing happens. So a message to oneself goes round every
half second, through the connection that commands take; local copies are trusted only for a time after each echo.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from araponga_infra.caching.backends.memory import MemoryStore
from araponga_infra.caching.backends.redis.scripts import Command
from araponga_infra.caching.backends.redis.wire import Message, Names, read_message, write_message
from araponga_infra.caching.flights import Flights
from araponga_infra.caching.keys import Pattern, stored_name
from araponga_infra.caching.records import CacheIsolation
from araponga_infra.telemetry import Report

__all__ = ["Audience", "Subscription"]

_BEAT_SECONDS = 0.5
_TRUSTED_AFTER_ECHO_SECONDS = 1.6
_HEAR_SECONDS = 0.1


class Audience:
    """The local copies and loads that news from other instances concern.

    Args:
        memory: the local copies.
        flights: the loads under way.
        monotonic: the clock of the copies.
        report: where isolation is reported.
    """

    def __init__(
        self, memory: MemoryStore, flights: Flights, monotonic: Callable[[], float], report: Report | None
    ) -> None:
        self._memory = memory
        self._flights = flights
        self._monotonic = monotonic
        self._report = report
        self._is_isolated = True

    def isolate(self) -> None:
        """No news arrives: copies live for their isolated time at most."""
        self._memory.trusted_until = float("-inf")
        if not self._is_isolated:
            self._is_isolated = True
            self._memory.clear()
            self._tell()

    def confirm(self, age_seconds: float) -> None:
        """News arrive: a message sent `age_seconds` ago has come back."""
        if self._is_isolated:
            self._memory.clear()
            self._is_isolated = False
            self._tell()
        self._memory.trusted_until = self._monotonic() - age_seconds + _TRUSTED_AFTER_ECHO_SECONDS

    def _tell(self) -> None:
        if self._report is not None:
            self._report(CacheIsolation(self._is_isolated))

    def forget_all(self) -> None:
        self._memory.clear()

    def hear(self, message: Message) -> None:
        """Another instance has changed something."""
        names = message.names
        match message.kind:
            case "keys":
                self._flights.detach(names.__contains__)
                self._memory.discard(names)
            case "pattern":
                pattern = Pattern(names[0])
                self._flights.detach(lambda key: pattern.matches(stored_name(key)))
                self._memory.discard_matching(pattern)
            case "tag":
                self._memory.discard_tag(names[0])
            case "group":
                self._flights.detach(lambda key: key.startswith(f"{names[0]}:"))
                self._memory.discard_group(names[0])
            case "all":
                self._flights.detach(lambda _: True)
                self._memory.clear()
            case "stored":
                self._flights.nudge(names[0])
            case _:
                pass


class Subscription:
    """One subscription, from opening to loss. Used by one thread."""

    def __init__(self, names: Names, instance: str, audience: Audience) -> None:
        self._names = names
        self._instance = instance
        self._own_channel = names.own_channel(instance)
        self._audience = audience
        self._sent: dict[str, float] = {}
        self._beats = 0
        self._next_beat = 0.0
        self._heard_at = time.monotonic()
        self._epoch: bytes | None = None
        self.was_confirmed: bool = False

    def open(self, connection: Any) -> None:
        """Subscribe; the answers are heard like everything else."""
        connection.send_command("SUBSCRIBE", self._names.channel, self._own_channel, check_health=False)

    def is_heard(self) -> bool:
        return time.monotonic() - self._heard_at < _TRUSTED_AFTER_ECHO_SECONDS

    def is_beat_due(self) -> bool:
        return time.monotonic() >= self._next_beat

    def beat(self) -> Command:
        """The next message to oneself; until one has come back it takes the channel that news take."""
        self._beats += 1
        self._next_beat = time.monotonic() + _BEAT_SECONDS
        number = str(self._beats)
        self._sent[number] = time.monotonic()
        channel = self._own_channel if self.was_confirmed else self._names.channel
        return ("PUBLISH", channel, write_message(self._instance, "canary", (number,)))

    def saw_epoch(self, epoch: bytes | None) -> None:
        """Everything was cleared, or flushed, without a word; without an epoch no entry is valid."""
        if self.was_confirmed and (epoch is None or epoch != self._epoch):
            self._audience.forget_all()
        self._epoch = epoch

    def hear(self, connection: Any) -> None:
        """Take in what has arrived, waiting a moment for it."""
        wait = _HEAR_SECONDS
        while connection.can_read(timeout=wait):
            wait = 0.0
            reply: Any = connection.read_response(disable_decoding=True)
            if reply[0] == b"message":
                self._take(reply[2])

    def _take(self, data: bytes) -> None:
        message = read_message(data)
        if message is None:
            return
        if message.sender != self._instance:
            self._audience.hear(message)
        elif message.kind == "canary":
            sent_at = self._sent.pop(message.names[0], None)
            if sent_at is not None:
                self._heard_at = time.monotonic()
                self.was_confirmed = True
                self._audience.confirm(time.monotonic() - sent_at)
