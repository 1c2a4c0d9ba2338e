"""How the engine waits, loads and starts loads: blocking in plain code, suspending in async code."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from araponga_infra.caching.driving import drive
from araponga_infra.caching.flights import Flight, Signal, entering
from araponga_infra.errors import InvalidArgumentError

__all__ = ["AsyncPort", "Port", "SyncPort"]


class Port(Protocol):
    """What the engine asks of its surroundings."""

    async def wait(self, signal: Signal, seconds: float) -> None:
        """Until the signal lands, at most so long."""
        ...

    async def call(self, factory: Callable[[], Any]) -> Any:
        """The result of a factory."""
        ...

    async def start(self, flight: Flight, load: Coroutine[Any, Any, None], *, may_outlive_call: bool) -> None:
        """Run the load that will land the flight; in plain code in this very call unless it may outlive it."""
        ...

    def liveness(self) -> Callable[[], bool]:
        """Tells later whether the code that asked can still run."""
        ...

    def is_interruption(self, error: BaseException) -> bool:
        """Whether an error of a load means that it was stopped from outside, so that another may take over."""
        ...


class SyncPort:
    """Blocks the calling thread."""

    async def wait(self, signal: Signal, seconds: float) -> None:
        gate = signal.line_up()
        if gate is None:
            return
        try:
            gate.acquire(timeout=max(0.0, seconds))
        finally:
            signal.leave(gate)

    async def call(self, factory: Callable[[], Any]) -> Any:
        result = factory()
        if inspect.iscoroutine(result):
            result.close()
            raise InvalidArgumentError(
                f"factory={_name_of(factory)} is async: a sync cache takes a plain function; use create_async_cache()"
            )
        return result

    async def start(self, flight: Flight, load: Coroutine[Any, Any, None], *, may_outlive_call: bool) -> None:
        context = entering(flight)
        if not may_outlive_call:
            context.run(drive, load)
            return
        thread = threading.Thread(target=context.run, args=(drive, load), name="araponga-cache-load", daemon=True)
        thread.start()
        flight.is_alive = thread.is_alive

    def liveness(self) -> Callable[[], bool]:
        return threading.current_thread().is_alive

    def is_interruption(self, error: BaseException) -> bool:
        return not isinstance(error, Exception)


class AsyncPort:
    """Suspends the calling task; loads run in tasks of their own."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def wait(self, signal: Signal, seconds: float) -> None:
        if signal.has_landed:
            return
        loop, here = asyncio.get_running_loop(), threading.get_ident()
        landed: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if threading.get_ident() == here:
                _settle(landed)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(_settle, landed)

        timer = loop.call_later(seconds, _settle, landed)
        signal.on_landing(wake)
        try:
            await landed
        finally:
            timer.cancel()
            signal.forget(wake)

    async def call(self, factory: Callable[[], Any]) -> Any:
        result = factory()
        return await result if inspect.isawaitable(result) else result

    async def start(
        self,
        flight: Flight,
        load: Coroutine[Any, Any, None],
        *,
        may_outlive_call: bool,  # noqa: ARG002 - always may
    ) -> None:
        task = asyncio.get_running_loop().create_task(load, context=entering(flight))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def liveness(self) -> Callable[[], bool]:
        loop = asyncio.get_running_loop()
        return lambda: not loop.is_closed()

    def is_interruption(self, error: BaseException) -> bool:
        task = asyncio.current_task()
        return not isinstance(error, (Exception, asyncio.CancelledError)) or (
            task is not None and task.cancelling() > 0
        )


def _settle(landed: asyncio.Future[None]) -> None:
    if not landed.done():
        landed.set_result(None)


def _name_of(factory: Callable[..., Any]) -> str:
    return getattr(factory, "__qualname__", type(factory).__name__)
