"""A process that only handles events: runs until it is told to stop, drains, gives back what is left."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any

from araponga_infra.cli.signals import StopSignals
from araponga_infra.clock import Clock, Duration, to_seconds
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.events import (
    AsyncBackgroundEventProcessor,
    BackgroundEventProcessor,
    EventRouter,
    SessionMismatchError,
)
from araponga_infra.infrastructure import AsyncInfrastructure, Infrastructure
from araponga_infra.settings import InfraSettings
from araponga_infra.telemetry import Observer

__all__ = ["Runnable", "infrastructure_for", "run_until_stopped", "run_worker"]

_logger = logging.getLogger("araponga_infra.worker")
_PATIENCE_SECONDS = 1.0
Runnable = Infrastructure | AsyncInfrastructure | BackgroundEventProcessor | AsyncBackgroundEventProcessor


def run_worker(
    *,
    routers: Sequence[EventRouter],
    settings: InfraSettings | None = None,
    embedded: bool = False,
    max_concurrency: int = 5,
    grace: Duration = 25,
    clock: Clock | None = None,
    observer: Observer | None = None,
) -> None:
    """Handle events until SIGTERM or SIGINT, then return, so that the process ends with status 0.

    After the signal nothing new is begun; handlers that run have `grace` to finish, and what is left then is given back
    for other workers. A second SIGINT ends the process at once, with status 130; its deliveries are rescued by other
    workers when its lease lapses.

    Handlers that ask for an `AsyncSession` run on an async engine, those that ask for a `Session` on a plain one; all
    others, sync and async, on either.

    Args:
        routers: the handlers.
        settings: where things are; None: the environment.
        embedded: with no database named, run on a SQLite file in a temporary folder; for trying things out.
        max_concurrency: how many handlers run at a time.
        grace: a `timedelta` or seconds; a few seconds less than the orchestrator waits before it kills.
        clock: the time, for tests.
        observer: told of everything the parts report.

    Raises:
        InvalidArgumentError: no routers, an argument or a variable out of range, or handlers of which some ask for a
            `Session` and some for an `AsyncSession`.
        NotConfiguredError: no database is named.
        NotInMainThreadError: signals reach the main thread alone.
    """
    infra = infrastructure_for(
        routers, settings=settings or InfraSettings.from_env(embedded=embedded),
        max_concurrency=max_concurrency, clock=clock, observer=observer,
    )  # fmt: skip
    run_until_stopped(infra, grace=grace)


def infrastructure_for(
    routers: Sequence[EventRouter],
    *,
    settings: InfraSettings,
    max_concurrency: int = 5,
    clock: Clock | None = None,
    observer: Observer | None = None,
) -> Infrastructure | AsyncInfrastructure:
    """The kind of infrastructure whose sessions these handlers ask for."""
    if not any(router.handlers for router in routers):
        raise InvalidArgumentError("routers hold no handler: pass the routers whose handlers this worker is to run")
    kind = AsyncInfrastructure if _need_async(routers) else Infrastructure
    return kind(
        settings, routers=routers, consume=True, max_concurrency=max_concurrency, clock=clock, observer=observer
    )


def run_until_stopped(runnable: Runnable, *, grace: Duration = 25) -> None:
    """Open it, wait for SIGTERM or SIGINT, drain and close it."""
    grace_seconds = to_seconds(grace, "grace")
    with StopSignals() as signals:
        if isinstance(runnable, (AsyncInfrastructure, AsyncBackgroundEventProcessor)):
            asyncio.run(_serve_async(runnable, signals, grace_seconds))
        else:
            _serve(runnable, signals, grace_seconds)


def _serve(runnable: Infrastructure | BackgroundEventProcessor, signals: StopSignals, grace_seconds: float) -> None:
    with runnable:
        events = runnable.events if isinstance(runnable, Infrastructure) else runnable
        _check_works(events)
        _logger.info("handling events")
        signals.wait()
        events.stop(grace=grace_seconds)
    _logger.info("stopped")


async def _serve_async(
    runnable: AsyncInfrastructure | AsyncBackgroundEventProcessor, signals: StopSignals, grace_seconds: float
) -> None:
    async with runnable:
        events = runnable.events if isinstance(runnable, AsyncInfrastructure) else runnable
        _check_works(events)
        _logger.info("handling events")
        await signals.async_wait()
        await events.stop(grace=grace_seconds)
    _logger.info("stopped")
    await _leave_behind_what_ignores_its_cancellation()


def _check_works(events: BackgroundEventProcessor | AsyncBackgroundEventProcessor) -> None:
    if not (events._consume and events._catalog.handlers):
        raise InvalidArgumentError(
            f"{events!r} would run no handler: include routers, and make it without consume=False"
        )


async def _leave_behind_what_ignores_its_cancellation() -> None:
    """Given back already, such a handler would keep the event loop, and with it the process, for ever."""
    ending = asyncio.all_tasks() - {asyncio.current_task()}
    for task in ending:
        task.cancel()
    stuck = (await asyncio.wait(ending, timeout=_PATIENCE_SECONDS))[1] if ending else set[asyncio.Task[Any]]()
    if stuck:
        _logger.warning("%d task(s) ignore their cancellation: the process ends without them", len(stuck))
        logging.shutdown()
        os._exit(0)


def _need_async(routers: Iterable[EventRouter]) -> bool:
    """Sessions decide; without any, async handlers are at home on an event loop and sync ones need none."""
    handlers = [handler for router in routers for handler in router.handlers]
    by_kind = {str(handler.session_kind): handler.name for handler in handlers if handler.session_kind is not None}
    if len(by_kind) > 1:
        raise SessionMismatchError(
            f"handler {by_kind['Session']!r} asks for a Session, {by_kind['AsyncSession']!r} for an AsyncSession: "
            "one worker has one kind of engine, so run them in two workers, with a router each"
        )
    if by_kind:
        return "AsyncSession" in by_kind
    return any(handler.is_async for handler in handlers)
