"""Around every request: which instance answered, how long it took, and no body that is larger than allowed."""

import time

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import Metrics

INSTANCE_HEADER = "Araponga-Instance"


class AnsweringInstance:
    """Names this instance in each response, and measures it."""

    def __init__(self, app: ASGIApp, instance: str, metrics: Metrics) -> None:
        self._app = app
        self._instance = instance
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, started = 500, time.perf_counter()

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[INSTANCE_HEADER] = self._instance
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        finally:
            route = getattr(scope.get("route"), "path", "")
            self._metrics.record_request(scope["method"], route, status, time.perf_counter() - started)


class BodyLimit:
    """Refuses a body at its announcement or, where its length is not told, at the first byte too many."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        announced = Headers(scope=scope).get("content-length", "") if scope["type"] == "http" else ""
        received = int(announced) if announced.isdecimal() else 0
        is_announced = received > 0

        async def receive_some() -> Message:
            nonlocal received
            message = await receive()
            if not is_announced:
                received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise HTTPException(413, f"The body is larger than {self._max_bytes} bytes.")
            return message

        await self._app(scope, receive_some, send)
