"""The same over Redis Cluster, through redis-py's cluster clients.

Every command of ours names one slot: an entry and its lease share one by their braces, a look-up of several keys is
split by slot, and what concerns a server (which one is it, what does it hold) concerns all primaries.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, cast

import redis
import redis.cluster
from redis.client import NEVER_DECODE

from araponga_infra.caching.backends.redis.link import Reply
from araponga_infra.caching.backends.redis.scripts import Command

__all__ = ["AsyncClusterLink", "ClusterControl", "ClusterLink"]

_ClusterNode: Any = redis.cluster.ClusterNode
Execute: TypeAlias = "Callable[..., Awaitable[Any]]"


class _Routing:
    """How each kind of command finds its nodes; over a coroutine that executes one."""

    def __init__(self, client: Any, execute: Execute) -> None:
        self._client = client
        self._execute = execute

    async def reply(self, command: Command) -> Reply:
        try:
            return await self._route(command)
        except redis.ResponseError as error:
            return error

    async def _route(self, command: Command) -> Reply:
        match command[0]:
            case "MGET":
                return await self._look_up(command[1:])
            case "UNLINK":
                return [await self._run("UNLINK", name) for name in command[1:]]
            case "INFO":
                return await self._identify()
            case "TIME":
                return await self._execute("TIME", target_nodes=self._primaries()[0])
            case "SCAN":
                return await self._scan(command)
            case _:
                return await self._run(*command)

    async def _run(self, *command: Any) -> Reply:
        return await self._execute(*command, **{NEVER_DECODE: True})

    async def _look_up(self, names: Sequence[Any]) -> list[Reply]:
        by_slot: dict[int, list[Any]] = {}
        for name in names:
            by_slot.setdefault(self._client.keyslot(name), []).append(name)
        found: dict[Any, Reply] = {}
        for group in by_slot.values():
            found.update(zip(group, await self._run("MGET", *group), strict=True))
        return [found[name] for name in names]

    def _primaries(self) -> list[Any]:
        return sorted(self._client.get_primaries(), key=lambda node: str(node.name))

    async def _identify(self) -> bytes:
        """One identity for all primaries: it changes when any of them starts anew or fails over."""
        answers = [await self._execute("INFO", "server", target_nodes=node) for node in self._primaries()]
        ids = sorted(str(_only(answer)["run_id"]) for answer in answers)
        return b"run_id:" + hashlib.sha256(",".join(ids).encode()).hexdigest()[:32].encode()

    async def _scan(self, command: Command) -> tuple[bytes, list[bytes]]:
        """One node after the other; the cursor says which."""
        given = command[1] if isinstance(command[1], bytes) else str(command[1]).encode()
        index, _, cursor = given.decode().rpartition(":")
        nodes = self._primaries()
        number = int(index or 0)
        answer = await self._execute(
            "SCAN", int(cursor), *command[2:], target_nodes=nodes[number], **{NEVER_DECODE: True}
        )
        following, names = _only(answer)
        following = int(_only(following))
        if following:
            return f"{number}:{following}".encode(), names
        return (f"{number + 1}:0".encode() if number + 1 < len(nodes) else b"0"), names


def _only(answer: Any) -> Any:
    """Some versions of redis-py answer a command to one node with a dictionary of nodes."""
    if not isinstance(answer, dict):
        return answer
    by_node = cast("dict[str, Any]", answer)
    return next(iter(by_node.values())) if len(by_node) == 1 else by_node


class ClusterLink:
    """Over the host's `redis.RedisCluster`, with its timeouts."""

    def __init__(self, client: Any, *, is_ours: bool = False) -> None:
        self._client = client
        self._is_ours = is_ours

        async def execute(*command: Any, **options: Any) -> Any:
            return client.execute_command(*command, **options)

        self._routing = _Routing(client, execute)

    async def exchange(self, commands: Sequence[Command], packed: bytes | None = None) -> list[Reply]:  # noqa: ARG002
        return [await self._routing.reply(command) for command in commands]

    def forget(self) -> None:
        """In a forked child: redis-py's pools notice by themselves."""

    def close(self) -> None:
        if self._is_ours:
            self._client.close()


class AsyncClusterLink:
    """Over the host's `redis.asyncio.RedisCluster`, on its event loop alone."""

    def __init__(self, client: Any, budget_seconds: float) -> None:
        self._budget_seconds = budget_seconds
        self._client = client
        self._routing = _Routing(client, client.execute_command)

    async def exchange(self, commands: Sequence[Command], packed: bytes | None = None) -> list[Reply]:  # noqa: ARG002
        async with asyncio.timeout(self._budget_seconds):
            await self._client.initialize()
            return [await self._routing.reply(command) for command in commands]

    def forget(self) -> None:
        """In a forked child: the host makes a client there."""

    async def aclose(self) -> None:
        """The client is the host's."""


class ClusterControl:
    """The background connections: a cluster client of our own, and a connection to one node, which hears all."""

    def __init__(self, nodes: Sequence[tuple[str, int]], options: dict[str, Any]) -> None:
        self._nodes = nodes
        self._options = options
        self._link: ClusterLink | None = None
        self._client: Any = None

    async def exchange(self, commands: Sequence[Command], packed: bytes | None = None) -> list[Reply]:
        return await self._opened().exchange(commands, packed)

    def _opened(self) -> ClusterLink:
        if self._link is None:
            startup: list[Any] = [_ClusterNode(host, port) for host, port in self._nodes]
            self._client = redis.RedisCluster(startup_nodes=startup, **self._options)
            self._link = ClusterLink(self._client, is_ours=True)
        return self._link

    def subscriber(self) -> Any:
        """A connection to subscribe on."""
        self._opened()
        node = self._client.get_primaries()[0]
        pool = self._client.get_redis_connection(node).connection_pool
        connection = pool.connection_class(**pool.connection_kwargs)
        connection.connect()
        return connection

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
