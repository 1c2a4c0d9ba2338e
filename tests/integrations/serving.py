"""Real servers on loopback ports, in threads: what a client gets is what was sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from flask import Flask
from werkzeug.serving import make_server

from tests.servers.processes import wait_until

_TIMEOUT_SECONDS = 20.0


@contextmanager
def served_asgi(app: Any) -> Iterator[httpx.Client]:
    config = uvicorn.Config(app, port=0, lifespan="on", ws="none", log_level="critical", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), _TIMEOUT_SECONDS, "uvicorn to start")
        assert server.started, "the application did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_TIMEOUT_SECONDS) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def served_wsgi(app: Flask) -> Iterator[httpx.Client]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=_TIMEOUT_SECONDS) as client:
            yield client
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
