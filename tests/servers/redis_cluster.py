"""A Redis Cluster for the tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from .processes import wait_until
from .redis_server import RedisOptions, RedisServer

__all__ = ["redis_cluster"]

_SLOTS = 16_384
_START_TIMEOUT_SECONDS = 30.0


@contextmanager
def redis_cluster() -> Iterator[list[RedisServer]]:
    """Three primaries, which know each other."""
    options = RedisOptions(settings={"cluster-enabled": "yes", "cluster-node-timeout": "2000"})
    with ExitStack() as running:
        servers = [running.enter_context(RedisServer.create(options)) for _ in range(3)]
        for number, server in enumerate(servers):
            slots = range(number * _SLOTS // 3, (number + 1) * _SLOTS // 3)
            server.execute("CLUSTER", "ADDSLOTS", *slots)
            server.execute("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in servers[1:]:
            server.execute("CLUSTER", "MEET", "127.0.0.1", servers[0].port)
        wait_until(
            lambda: all(_knows_all(server) for server in servers), _START_TIMEOUT_SECONDS, "the cluster to be formed"
        )
        yield servers


def _knows_all(server: RedisServer) -> bool:
    info = server.execute("CLUSTER", "INFO").split()
    return "cluster_state:ok" in info and "cluster_known_nodes:3" in info
