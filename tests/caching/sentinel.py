"""A Sentinel for the tests, from the same binary as the servers it watches."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import redis

from tests.servers.finding import find_redis_server
from tests.servers.redis_server import RedisOptions, RedisServer


class Watcher:
    """A running Sentinel."""

    def __init__(self, port: int) -> None:
        self.port = port

    def execute(self, *command: str) -> object:
        with redis.Redis(port=self.port, protocol=2, socket_timeout=5) as client:
            return client.execute_command(*command)

    def primary_port(self) -> int:
        """Of the server that it names."""
        _, port = cast(list[bytes], self.execute("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"))
        return int(port)

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self.execute("PING")
                return
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def fail_over(self) -> None:
        """Promote the replica, once it is known."""
        deadline = time.monotonic() + 30
        while True:
            try:
                self.execute("SENTINEL", "FAILOVER", "mymaster")
                return
            except redis.RedisError:
                assert time.monotonic() < deadline
                time.sleep(0.1)


@contextmanager
def watched() -> Iterator[tuple[RedisServer, RedisServer, Watcher]]:
    """A primary, its replica, and a Sentinel that watches them."""
    with RedisServer.create(RedisOptions()) as placeholder:
        port = placeholder.port
    with ExitStack() as running:
        primary = running.enter_context(RedisServer.create(RedisOptions()))
        replica = running.enter_context(RedisServer.create(RedisOptions(replica_of=primary)))
        folder = running.enter_context(tempfile.TemporaryDirectory())
        configuration = Path(folder) / "sentinel.conf"
        configuration.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor mymaster 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 5000\n"
        )
        process = subprocess.Popen(
            [str(find_redis_server()), str(configuration), "--sentinel"], stdout=subprocess.DEVNULL
        )
        try:
            watcher = Watcher(port)
            watcher.wait_until_it_answers()
            yield primary, replica, watcher
        finally:
            process.kill()
            process.wait()
