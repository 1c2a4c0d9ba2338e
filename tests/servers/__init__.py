"""Real servers for the tests: PostgreSQL with a streaming standby, Redis, and a proxy that breaks the network.

They listen on free loopback ports, keep their data in temporary folders, and are ended by process id, also after a
run that was killed. `fixtures` offers them to pytest. SQLite needs none of this.
"""

from __future__ import annotations

from .finding import PostgresInstallation, ServerNotFoundError, find_postgres, find_redis_server, wheel_postgres
from .postgres import PASSWORD, PASSWORD_USER, PostgresDatabase, PostgresServer
from .postgres_cluster import PostgresCluster, PostgresStandby
from .processes import ServerStartError, wait_until
from .redis_server import RedisOptions, RedisServer
from .run_folder import reap_abandoned
from .tcp_proxy import Cut, TcpProxy

__all__ = [
    "PASSWORD",
    "PASSWORD_USER",
    "Cut",
    "PostgresCluster",
    "PostgresDatabase",
    "PostgresInstallation",
    "PostgresServer",
    "PostgresStandby",
    "RedisOptions",
    "RedisServer",
    "ServerNotFoundError",
    "ServerStartError",
    "TcpProxy",
    "find_postgres",
    "find_redis_server",
    "reap_abandoned",
    "wait_until",
    "wheel_postgres",
]
