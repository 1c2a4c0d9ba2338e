"""python -m examples.community [serve | migrate]: embedded, unless ARAPONGA_DATABASE_URL names a database."""

import argparse
import asyncio
import os
import socket
from collections.abc import Sequence

import uvicorn

from araponga_infra import AsyncInfrastructure, InfraSettings

from .app import create_app
from .schema import migrate
from .settings import CommunitySettings

GRACE_SECONDS = 20
KEEP_ALIVE_SECONDS = 75  # longer than load balancers keep idle connections, so that they and not we close them


class Server(uvicorn.Server):
    """Says where it is once it is there."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            print(f"Araponga's community API: http://{host}:{port}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = _parser().parse_args(arguments)
    if chosen.command == "migrate" or chosen.migrate:
        asyncio.run(migrate_named_database())
    if chosen.command == "serve":
        serve(chosen.host, chosen.port)


def serve(host: str, port: int) -> None:
    """Until SIGTERM or SIGINT: then requests under way are answered, handlers under way finish, and that is it."""
    app = create_app(CommunitySettings.from_env(embedded=True))
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", lifespan="on",
        timeout_graceful_shutdown=GRACE_SECONDS, timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )  # fmt: skip
    Server(config).run()


async def migrate_named_database() -> None:
    async with AsyncInfrastructure(InfraSettings.from_env(), consume=False) as infra:
        await migrate(infra.engine)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.community", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("serve", "migrate"), default="serve")
    parser.add_argument("--host", default=os.environ.get("COMMUNITY_HOST") or "127.0.0.1")
    parser.add_argument("--port", type=int, default=os.environ.get("COMMUNITY_PORT") or 8000)
    parser.add_argument("--migrate", action="store_true", help="migrate before serving")
    return parser


if __name__ == "__main__":
    main()
