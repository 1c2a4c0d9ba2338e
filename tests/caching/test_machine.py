"""Several instances, each with a memory and a journal of its own, a truth, and a Redis that is killed, paused, flushed,
restarted with what it held or empty, made to refuse, and cut off from one instance alone, at any moment.

Whatever the order: no call raises; what was overwritten or deleted before the last healthy moment is not served after
it; nothing comes back as another key's value or as another type.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from araponga_infra.caching import MISSING
from araponga_infra.testing.caching import Uniform
from tests.caching.conftest import KINDS, availability_of, build, hears, until
from tests.servers.redis_server import RedisOptions, RedisServer
from tests.servers.tcp_proxy import TcpProxy

NAMES = ["row:1", "row:2", "other:1"]
TAG = "rows"
INSTANCES = (0, 1, 2)


@dataclass(frozen=True)
class Value:
    """Says which key it was written under, and when."""

    name: str
    number: int


@pytest.fixture(scope="module")
def machine_redis() -> Iterator[RedisServer]:
    with RedisServer.create(RedisOptions(persistent=True)) as server:
        yield server


class CacheMachine(RuleBasedStateMachine):
    kind: str
    server: RedisServer

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.server.ensure_healthy()
        self.until_loaded()
        self.server.flush()
        self.proxies = [TcpProxy(self.server.port) for _ in INSTANCES]
        self.caches = [
            Uniform(build(self.kind, self.server.url(port=proxy.port), timeout=0.15, isolated_ttl=0.3))
            for proxy in self.proxies
        ]
        self.numbers = itertools.count(1)
        self.floor: dict[str, int] = dict.fromkeys(NAMES, 0)
        """The number of the last change before which nothing may be served any more."""
        self.changed: dict[str, int] = dict.fromkeys(NAMES, 0)
        self.run_healthy()

    def call(self, called: Any) -> Any:
        started = time.monotonic()
        result = self.runner.run(called)
        assert time.monotonic() - started < 3.0
        return result

    def check(self, name: str, found: Any) -> None:
        if found is MISSING:
            return
        assert type(found) is Value
        assert found.name == name
        assert found.number >= self.floor[name], f"{found} is older than {self.floor[name]}"

    @rule(instance=st.sampled_from(INSTANCES), name=st.sampled_from(NAMES))
    def write(self, instance: int, name: str) -> None:
        number = self.changed[name] = next(self.numbers)
        self.call(self.caches[instance].set(name, Value(name, number), tags=(TAG,)))

    @rule(instance=st.sampled_from(INSTANCES))
    def write_several(self, instance: int) -> None:
        for name in NAMES:
            self.changed[name] = next(self.numbers)
        self.call(self.caches[instance].set_many({name: Value(name, self.changed[name]) for name in NAMES}))

    @rule(instance=st.sampled_from(INSTANCES), name=st.sampled_from(NAMES))
    def remove(self, instance: int, name: str) -> None:
        self.changed[name] = next(self.numbers)
        self.call(self.caches[instance].delete(name))

    @rule(instance=st.sampled_from(INSTANCES), how=st.sampled_from(["names", "pattern", "region", "clear"]))
    def remove_several(self, instance: int, how: str) -> None:
        concerned = NAMES if how == "clear" else [name for name in NAMES if name.startswith("row:")]
        for name in concerned:
            self.changed[name] = next(self.numbers)
        cache = self.caches[instance]
        if how == "names":
            self.call(cache.delete_many(concerned))
        elif how == "pattern":
            self.call(cache.delete_by_pattern("row:*"))
        elif how == "region":
            self.call(Uniform(cache.cache.region("row", Value)).clear())
        else:
            self.call(cache.clear())

    @rule(instance=st.sampled_from(INSTANCES), name=st.sampled_from(NAMES))
    def remove_tagged(self, instance: int, name: str) -> None:
        """By the tag, after a write that bears it; entries that were written without it stay."""
        self.changed[name] = next(self.numbers)
        self.call(self.caches[instance].set(name, Value(name, self.changed[name]), tags=(TAG, name)))
        self.changed[name] = next(self.numbers)
        self.call(self.caches[instance].delete_by_tag(name))

    @rule(instance=st.sampled_from(INSTANCES), name=st.sampled_from(NAMES))
    def read(self, instance: int, name: str) -> None:
        self.check(name, self.call(self.caches[instance].get(name, MISSING, type=Value)))

    @rule(instance=st.sampled_from(INSTANCES), name=st.sampled_from(NAMES))
    def load(self, instance: int, name: str) -> None:
        """The database always has the last change."""
        value = Value(name, self.changed[name])
        self.check(name, self.call(self.caches[instance].get_or_set(name, lambda: value, type=Value)))

    @rule(instance=st.sampled_from(INSTANCES))
    def read_many(self, instance: int) -> None:
        for name, found in self.call(self.caches[instance].get_many(NAMES, type=Value)).items():
            self.check(name, found)

    @rule()
    def kill(self) -> None:
        self.server.kill()

    @rule()
    def restart(self) -> None:
        self.server.resume()
        self.server.kill()
        self.server.start()

    @rule()
    def restart_empty(self) -> None:
        self.server.resume()
        self.server.start()
        self.flush()
        self.restart()

    @precondition(lambda self: self.server.is_running)
    @rule()
    def pause(self) -> None:
        self.server.pause()

    @precondition(lambda self: self.server.is_running and not self.server.is_paused)
    @rule()
    def flush(self) -> None:
        self.until_loaded()
        self.accept_writes()
        self.server.flush()

    @precondition(lambda self: self.server.is_running and not self.server.is_paused)
    @rule(how=st.sampled_from(["refuse writes", "deafen"]))
    def trouble(self, how: str) -> None:
        """Writes are refused until the next healthy moment, or every subscription is lost at once."""
        self.until_loaded()
        if how == "deafen":
            self.server.execute("CLIENT", "KILL", "TYPE", "pubsub")
        else:
            self.server.execute("CONFIG", "SET", "min-replicas-to-write", "3")

    @rule(instance=st.sampled_from(INSTANCES), how=st.sampled_from(["cut", "black_hole", "reset_connections"]))
    def cut(self, instance: int, how: str) -> None:
        getattr(self.proxies[instance], how)()

    @rule()
    def run_healthy(self) -> None:
        """Everything is whole again, and every instance has noticed: the last healthy moment."""
        if not self.server.is_running:
            self.server.start()
        self.server.resume()
        self.until_loaded()
        self.accept_writes()
        for proxy in self.proxies:
            proxy.restore()
        for cache in self.caches:
            until(partial(self.is_whole, cache))
        self.floor = dict(self.changed)
        for cache in self.caches:
            for name, found in self.call(cache.get_many(NAMES, type=Value)).items():
                self.check(name, found)

    def accept_writes(self) -> None:
        self.server.execute("CONFIG", "SET", "min-replicas-to-write", "0")

    def until_loaded(self) -> None:
        """A server that has just started may still read its log."""

        def is_loaded() -> bool:
            return int(self.server.execute("INFO", "persistence")["loading"]) == 0

        until(is_loaded)

    def is_whole(self, cache: Uniform) -> bool:
        self.call(cache.exists("nothing"))
        return availability_of(cache.cache).is_trusted and ("hybrid" not in self.kind or hears(cache.cache))

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        for cache in self.caches:
            self.call(cache.aclose() if cache.is_async else cache.close())
        self.runner.close()
        for proxy in self.proxies:
            proxy.__exit__(None, None, None)
        self.server.ensure_healthy()


def check_machine(kind: str, server: RedisServer, examples: int, steps: int) -> None:
    machine = type("Machine", (CacheMachine,), {"kind": kind, "server": server})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stale_comes_back(kind: str, machine_redis: RedisServer) -> None:
    check_machine(kind, machine_redis, examples=4, steps=15)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stale_comes_back_at_length(kind: str, machine_redis: RedisServer) -> None:
    check_machine(kind, machine_redis, examples=60, steps=40)
