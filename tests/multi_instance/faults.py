"""What goes wrong. Each ends when what was broken is back, and leaves the rest to the service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

from tests.multi_instance.cluster import Cluster
from tests.multi_instance.load import Load

__all__ = ["FAULTS", "Fault"]

Fault = Callable[[Cluster, Load], Awaitable[None]]
SECONDS_AWAY = 3.0
SECONDS_STANDBY_HANGS = 6.0
SECONDS_OF_BURST = 8.0
CLIENTS_IN_BURST = 90


async def nothing(_cluster: Cluster, _load: Load) -> None:
    await asyncio.sleep(SECONDS_AWAY)


async def burst(_cluster: Cluster, load: Load) -> None:
    """More requests at a time than the pools have connections."""
    async with load.clients(CLIENTS_IN_BURST, per_second_each=20, name="burst"):
        await asyncio.sleep(SECONDS_OF_BURST)


async def kill_instances(cluster: Cluster, _load: Load) -> None:
    for instance in cluster.instances:
        await asyncio.to_thread(instance.kill)
        await asyncio.sleep(SECONDS_AWAY)
        await asyncio.to_thread(instance.start)


async def restart_redis(cluster: Cluster, _load: Load) -> None:
    await asyncio.to_thread(cluster.redis.kill)
    await asyncio.sleep(SECONDS_AWAY)
    await asyncio.to_thread(cluster.redis.start)


async def pause_standby(cluster: Cluster, _load: Load) -> None:
    await asyncio.to_thread(cluster.servers.standby.pause)
    try:
        await asyncio.sleep(SECONDS_STANDBY_HANGS)
    finally:
        await asyncio.to_thread(cluster.servers.standby.resume)


async def restart_primary(cluster: Cluster, _load: Load) -> None:
    await asyncio.to_thread(cluster.servers.primary.stop)
    await asyncio.sleep(SECONDS_AWAY)
    await asyncio.to_thread(cluster.servers.primary.start)


async def kill_primary(cluster: Cluster, _load: Load) -> None:
    await asyncio.to_thread(cluster.servers.primary.kill)
    await asyncio.sleep(SECONDS_AWAY)
    await asyncio.to_thread(cluster.servers.primary.start)


async def kill_worker(cluster: Cluster, _load: Load) -> None:
    worker = cluster.workers[0]
    await asyncio.to_thread(worker.kill)
    await asyncio.sleep(SECONDS_AWAY)
    await asyncio.to_thread(worker.start)


async def roll_out(cluster: Cluster, _load: Load) -> None:
    """One instance at a time: out of the list, SIGTERM, the next version, and in again."""
    for instance in cluster.instances:
        others = [each for each in cluster.instances if each is not instance]
        await asyncio.to_thread(cluster.balancer.send_to, others)
        await asyncio.to_thread(instance.stop)
        instance.become(f"{instance.name}.next")
        await asyncio.to_thread(instance.start)
        await asyncio.to_thread(cluster.balancer.send_to, cluster.instances)


FAULTS: Mapping[str, Fault] = MappingProxyType({
    "nothing": nothing,
    "a burst of 90 clients": burst,
    "each instance is killed in turn": kill_instances,
    "Redis is killed, and starts empty": restart_redis,
    "the standby hangs": pause_standby,
    "the primary shuts down fast, and starts": restart_primary,
    "the primary is killed, and starts": kill_primary,
    "a worker is killed": kill_worker,
    "the next version is rolled out": roll_out,
})  # fmt: skip
