"""The deployment under test: a primary with its standby, Redis, three instances behind nginx, two workers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from araponga_infra import AsyncInfrastructure, InfraSettings
from examples.community.schema import migrate
from tests.multi_instance.processes import Instance, LoadBalancer, Worker
from tests.servers import PostgresCluster, PostgresDatabase, RedisServer

__all__ = ["POOL_SIZE", "Cluster"]

POOL_SIZE = 10
INSTANCES = ("web-1", "web-2", "web-3")
WORKERS = ("worker-1", "worker-2")


@dataclass(frozen=True)
class Cluster:
    servers: PostgresCluster
    redis: RedisServer
    database: PostgresDatabase
    balancer: LoadBalancer
    instances: tuple[Instance, ...]
    workers: tuple[Worker, ...]

    @classmethod
    @contextmanager
    def started(cls, servers: PostgresCluster, redis: RedisServer) -> Iterator[Cluster]:
        with servers.primary.temporary_database() as database, ExitStack() as closing:
            standby = PostgresDatabase(servers.standby, database.name)
            settings = InfraSettings(
                database_url=database.url(), database_readonly_urls=(standby.url(),), redis_url=redis.url()
            )
            asyncio.run(_migrate(settings))
            servers.wait_for_catch_up()
            environment = _environment(settings)
            instances = tuple(Instance(name, environment) for name in INSTANCES)
            workers = tuple(Worker(name, environment) for name in WORKERS)
            for process in (*instances, *workers):
                closing.callback(process.close)
                process.start()
            balancer = LoadBalancer()
            closing.callback(balancer.close)
            balancer.start(instances)
            yield cls(servers, redis, database, balancer, instances, workers)


async def _migrate(settings: InfraSettings) -> None:
    async with AsyncInfrastructure(settings, consume=False) as infra:
        await migrate(infra.engine)


def _environment(settings: InfraSettings) -> dict[str, str]:
    """As deploy/compose/compose.yaml has it, and nothing of what a developer's machine says."""
    foreign = ("ARAPONGA_", "COMMUNITY_", "ConnectionStrings__", "PG")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return inherited | {
        "ARAPONGA_DATABASE_URL": settings.database_url or "",
        "ARAPONGA_DATABASE_READONLY_URL": settings.database_readonly_urls[0],
        "ARAPONGA_REDIS_URL": settings.redis_url or "",
        "ARAPONGA_DATABASE_POOL_SIZE": str(POOL_SIZE),
        "COMMUNITY_CONSUME": "0",
    }
