"""The thread behind a cache on Redis: meets Redis, brings trust back after an outage, listens for what other
instances delete, and keeps leases alive.

It uses connections of its own and plain calls, in async services too: event loops come and go, a process stays.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis

from araponga_infra.caching.backends.redis.availability import Availability
from araponga_infra.caching.backends.redis.client import Control
from araponga_infra.caching.backends.redis.link import Reply
from araponga_infra.caching.backends.redis.operations import Operations, new_token, run_id_in
from araponga_infra.caching.backends.redis.scripts import Command, script
from araponga_infra.caching.backends.redis.subscription import Audience, Subscription
from araponga_infra.caching.backends.redis.wire import Names
from araponga_infra.caching.driving import drive

__all__ = ["Attendant", "verify_server", "verify_server_async"]

_logger = logging.getLogger("araponga_infra.caching")
_RENEW_SECONDS = 0.4
_LEASE_MS = 1500
_IDLE_SECONDS = 2.0
_POLL_SECONDS = 0.25
_RETRY_SUBSCRIPTION_SECONDS = 0.5
_TROUBLE = (redis.RedisError, OSError, TimeoutError, EOFError)


class Attendant:
    """One background thread, started when there is something to do.

    Args:
        open_control: opens the connections of the thread.
        names: the namespace.
        instance: this instance's name.
        availability: what it brings back.
        audience: who hears of deletes and outages.
        budget_seconds: a Redis that takes longer to answer than a call may wait is as good as away.
        listens: whether to subscribe to what other instances delete.
        flush_on_recovery: drop everything after each outage, instead of what is known to be outdated.
    """

    def __init__(
        self,
        open_control: Callable[[], Control],
        names: Names,
        instance: str,
        availability: Availability,
        audience: Audience,
        *,
        budget_seconds: float,
        listens: bool,
        flush_on_recovery: bool,
    ) -> None:
        self._open_control = open_control
        self._names = names
        self._instance = instance
        self._availability = availability
        self._audience = audience
        self._budget_seconds = budget_seconds
        self._listens = listens
        self._flush_on_recovery = flush_on_recovery
        self.reset()

    def reset(self) -> None:
        """In a forked child: the thread stayed in the parent."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._leases: dict[str, str] = {}
        self._is_closed = False
        self._was_met = False

    def wake(self) -> None:
        """Start the thread, or make it look around at once."""
        self._wake.set()
        if self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            if self._is_closed or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._run, name="araponga-cache", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread and its connections; returns when they are gone, within about a second."""
        with self._lock:
            self._is_closed = True
            thread = self._thread
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=3.0)

    def keep_alive(self, key: str, token: str) -> None:
        """Renew a lease until `let_go`."""
        self._leases[token] = key
        self.wake()

    def let_go(self, token: str) -> None:
        self._leases.pop(token, None)

    def _run(self) -> None:
        self._link = self._open_control()
        self._operations = Operations(self._link.exchange, self._names, self._instance)
        self._renew_at = 0.0
        idle_since = time.monotonic()
        try:
            while not self._is_closed:
                if self._round():
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > _IDLE_SECONDS and self._retire():
                    return
        finally:
            self._audience.isolate()
            self._link.close()

    def _retire(self) -> bool:
        with self._lock:
            if self._leases or not self._availability.is_trusted:
                return False
            self._thread = None
            return True

    def _round(self) -> bool:
        """One look around; False when there was nothing to do."""
        if not self._availability.is_trusted:
            self._recover()
        elif self._listens:
            self._listen()
        else:
            self._rest(_RENEW_SECONDS)
            self._renew()
            return bool(self._leases)
        return True

    def _rest(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    # Recovery

    def _recover(self) -> None:
        availability = self._availability
        if not availability.may_probe():
            self._rest(0.02)
            return
        availability.begin_probe()
        try:
            self._link.close()
            drive(self._bring_back())
        except _TROUBLE as error:
            availability.fail(type(error).__name__)
        except Exception as error:
            _logger.exception("the cache could not recover")
            availability.fail(type(error).__name__)

    async def _bring_back(self) -> None:
        """Trust Redis only once nothing that this instance knows to be outdated is left in it.

        A server that has started anew may have loaded an old snapshot: the epoch remembers which server it was made
        on, so that whoever meets another one first drops everything, once.
        """
        availability, operations = self._availability, self._operations
        server_id, server_time, epoch = await operations.identify()
        if server_time.received_at - server_time.sent_at > self._budget_seconds:
            raise redis.TimeoutError("it answers, but not within the time that a call may take")
        if epoch is not None and server_id and not epoch.endswith(f"@{server_id}".encode()):
            await operations.unmark_epoch(only=epoch)
        availability.server_id, availability.server_time = server_id, server_time
        if self._flush_on_recovery and self._was_met:
            availability.note_everything()
        while True:
            missed = availability.take_missed()
            try:
                await operations.purge(missed)
            except _TROUBLE:
                availability.put_back(missed)
                raise
            except BaseException:  # something in it cannot be sent: the next probe drops everything instead
                availability.note_everything()
                raise
            await operations.marks((self._names.epoch,), 0, f"{new_token()}@{server_id}")
            availability.tell_purge(missed)
            self._audience.forget_all()
            if availability.trust_unless_missed():
                self._was_met = True
                return

    # Leases

    def _renew(self) -> None:
        leases = list(self._leases.items())
        if not leases or time.monotonic() < self._renew_at:
            return
        self._renew_at = time.monotonic() + _RENEW_SECONDS
        calls = [script("extend").call((self._names.lease(key),), token, _LEASE_MS) for token, key in leases]
        try:
            drive(self._operations.run(calls))
        except _TROUBLE as error:
            self._availability.fail(type(error).__name__)

    # Listening

    def _listen(self) -> None:
        subscription = Subscription(self._names, self._instance, self._audience)
        try:
            connection = self._link.subscriber()
        except _TROUBLE as error:
            self._availability.fail(type(error).__name__)
            return
        try:
            subscription.open(connection)
            while not self._is_closed and self._availability.is_trusted and subscription.is_heard():
                if subscription.is_beat_due():
                    self._beat(subscription)
                subscription.hear(connection)
                self._renew()
        except _TROUBLE as error:
            _logger.debug("the subscription of the cache ended: %s", type(error).__name__)
        finally:
            self._audience.isolate()
            connection.disconnect()
        if self._availability.is_trusted and not self._is_closed:
            self._renew()
            self._rest(_RETRY_SUBSCRIPTION_SECONDS if not subscription.was_confirmed else 0.0)

    def _beat(self, subscription: Subscription) -> None:
        """Send the subscription a message through the connection that commands take, and look at the epoch."""
        try:
            replies = self._exchange((subscription.beat(), ("GET", self._names.epoch)))
        except _TROUBLE as error:
            self._availability.fail(type(error).__name__)
            return
        subscription.saw_epoch(replies[1])

    def _exchange(self, commands: Sequence[Command]) -> list[Reply]:
        return drive(self._link.exchange(commands))


def verify_server(availability: Availability) -> Callable[[Any], None]:
    """A hook for new connections: one that leads to another server than was met is refused, and Redis met anew."""

    def on_connect(connection: Any) -> None:
        connection.on_connect()
        if not (availability.server_id and availability.is_trusted):
            return
        connection.send_command("INFO", "server", check_health=False)
        with contextlib.suppress(redis.ResponseError):
            _compare(availability, connection.read_response(disable_decoding=True))

    return on_connect


def verify_server_async(availability: Availability) -> Callable[[Any], Any]:
    """The same for async connections."""

    async def on_connect(connection: Any) -> None:
        await connection.on_connect()
        if not (availability.server_id and availability.is_trusted):
            return
        await connection.send_command("INFO", "server", check_health=False)
        with contextlib.suppress(redis.ResponseError):
            _compare(availability, await connection.read_response(disable_decoding=True))

    return on_connect


def _compare(availability: Availability, info: Any) -> None:
    if run_id_in(info) not in ("", availability.server_id):
        availability.fail("the server has started anew")
        raise redis.ConnectionError("another server than before")
