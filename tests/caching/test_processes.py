"""Several processes, each with a memory and a journal of its own, one of which is cut off alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.caching.conftest import KINDS, until
from tests.servers.fixtures import StartRedis, StartTcpProxy
from tests.servers.redis_server import RedisOptions, RedisServer

HOST = """
import asyncio, json, sys
from araponga_infra.testing.caching import Uniform
from tests.caching.conftest import build, hears, trusts

async def main():
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        answer = None
        if name == "open":
            kind, url = arguments
            cache = Uniform(build(kind, url, timeout=0.5, isolated_ttl=30))
        elif name == "close":
            await (cache.aclose() if cache.is_async else cache.close())
        elif name == "is whole":
            await cache.exists("nothing")
            answer = trusts(cache.cache) and ("hybrid" not in kind or hears(cache.cache))
        elif name == "load":
            answer = await cache.get_or_set(arguments[0], lambda: arguments[1], type=str)
        elif name == "is degraded":
            answer = cache.cache.is_degraded
        else:
            answer = await getattr(cache, name)(*arguments)
        print(json.dumps(answer), flush=True)

asyncio.run(main())
"""


class Instance:
    """A process with a cache, which does what it is told."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Starting takes long, so a process serves several tests, each with a cache of its own."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-c", HOST],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
            )  # fmt: skip

    def __call__(self, *call: Any) -> Any:
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(call) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def become_whole(self) -> None:
        until(lambda: self("is whole"), 30)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.end()

    def end(self) -> None:
        if self.process is not None:
            self.process.communicate(timeout=30)
            self.process = None


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Instance]]:
    instances = [Instance() for _ in range(3)]
    yield instances
    for instance in instances:
        instance.end()


Open = Callable[..., list[Instance]]


@pytest.fixture
def open_caches(hosts: list[Instance]) -> Iterator[Open]:
    """Caches of one kind, each in a process of its own, which have met their Redis."""

    def opened(kind: str, *urls: str) -> list[Instance]:
        instances = hosts[: len(urls)]
        for instance in instances:
            instance.start()
        for instance, url in zip(instances, urls, strict=True):
            instance("open", kind, url)
            instance.become_whole()
        return instances

    yield opened
    for instance in hosts:
        if instance.process is not None:
            instance("close")


def holds(instance: Instance, values: dict[str, str], names: list[str]) -> bool:
    return bool(instance("get_many", names) == values)


@pytest.fixture
def server(start_redis: StartRedis) -> RedisServer:
    return start_redis(RedisOptions())


@pytest.mark.parametrize("kind", KINDS)
def test_one_process_is_cut_off_alone_and_the_others_go_on(
    kind: str, server: RedisServer, tcp_proxy: StartTcpProxy, open_caches: Open
) -> None:
    proxy = tcp_proxy(server.port)
    alone, *others = everybody = open_caches(kind, server.url(port=proxy.port), server.url(), server.url())
    names = ["row:alone", "row:others", "row:both", "row:neither"]
    others[0]("set_many", dict.fromkeys(names, "old"))
    for each in everybody:
        until(partial(holds, each, dict.fromkeys(names, "old"), names))
    proxy.black_hole()
    alone("set", "row:alone", "by alone")
    alone("set", "row:both", "by alone")
    others[0]("set", "row:others", "by others")
    others[1]("set", "row:both", "by others")
    assert alone("get", "row:alone") in ("by alone", None)
    assert alone("is degraded")
    until(lambda: others[0]("get", "row:both") == "by others")
    assert not others[0]("is degraded")
    proxy.restore()
    for each in everybody:
        each.become_whole()
    for each in everybody:
        found = each("get_many", names)
        assert "row:alone" not in found
        assert found["row:others"] == "by others"
        assert found.get("row:both", "by others") == "by others"
        assert found["row:neither"] == "old"


@pytest.mark.parametrize("kind", ["hybrid", "async hybrid"])
def test_after_an_outage_of_all_the_journals_of_all_count(kind: str, server: RedisServer, open_caches: Open) -> None:
    instances = open_caches(kind, server.url(), server.url(), server.url())
    names = [f"row:{number}" for number in range(4)]
    instances[0]("set_many", dict.fromkeys(names, "old"))
    server.pause()
    for number, each in enumerate(instances):
        each("set" if number else "delete", names[number], *(["new"] if number else []))
    server.resume()
    for each in instances:
        each.become_whole()
    for each in instances:
        until(partial(holds, each, {"row:3": "old"}, names))


@pytest.mark.parametrize("kind", ["hybrid", "async hybrid"])
def test_what_an_instance_killed_while_cut_off_leaves_behind_ends_with_its_ttl(
    kind: str, server: RedisServer, tcp_proxy: StartTcpProxy, open_caches: Open
) -> None:
    """The one thing that may be outdated: its journal went with it."""
    proxy = tcp_proxy(server.port)
    alone, other = open_caches(kind, server.url(port=proxy.port), server.url())
    other("set", "row:1", "old", 1.0)
    proxy.cut()
    alone("delete", "row:1")
    alone.kill()
    until(lambda: other("get", "row:1") is None)
    assert other("load", "row:1", "new") == "new"
