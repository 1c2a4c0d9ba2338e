"""The commands of `araponga-infra`. Exit status: 0 done, 1 failed or not healthy, 2 called wrongly, 130 interrupted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
from sqlalchemy.exc import SQLAlchemyError

from araponga_infra.cli.operating import Operator, Wanted, operator
from araponga_infra.cli.rendering import (
    health_lines,
    letter_json,
    letter_lines,
    letter_table,
    stats_json,
    stats_table,
)
from araponga_infra.cli.signals import INTERRUPTED
from araponga_infra.cli.steps import BrokenOffError, steps
from araponga_infra.cli.targets import Target, TargetError, load_target
from araponga_infra.cli.worker import infrastructure_for, run_until_stopped
from araponga_infra.errors import ArapongaInfraError, InvalidArgumentError
from araponga_infra.events import DeadReason, EventRouter
from araponga_infra.infrastructure import Infrastructure
from araponga_infra.settings import InfraSettings

__all__ = ["command_line"]

P = ParamSpec("P")
T = TypeVar("T")
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def _reporting_errors(command: Callable[P, T]) -> Callable[P, T]:
    """An error that a person can act on is shown as its message, not as a traceback."""

    @wraps(command)
    def reporting(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except InvalidArgumentError as error:
            raise click.UsageError(str(error)) from error
        except BrokenOffError as error:
            click.echo(str(error), err=True)
            return click.get_current_context().exit(INTERRUPTED)
        except ArapongaInfraError as error:
            raise click.ClickException(str(error)) from error
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            first_line = (str(cause).strip().splitlines() or [""])[0]
            raise click.ClickException(f"the database: {type(cause).__name__}: {first_line}") from error

    return reporting


_app_dir = click.option(
    "--app-dir", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path(),
    help="The folder that MODULE is found in.  [default: the current one]",
)  # fmt: skip
_app = click.option(
    "--app", "spec", metavar="MODULE:NAME",
    help="A processor or an Infrastructure, whose store is meant, instead of the one that ARAPONGA_* names.",
)  # fmt: skip
_as_json = click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
_ids = click.argument("ids", nargs=-1, metavar="[ID]...")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


def _wanted(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which dead letters are meant, handed on as one `Wanted`."""

    @click.option("--event", help="Only those of this event.")
    @click.option("--handler", help="Only those of this handler.")
    @click.option("--reason", type=click.Choice([each.value for each in DeadReason]), help="Only those with it.")
    @wraps(command)
    def with_wanted(*args: Any, event: str | None, handler: str | None, reason: str | None, **options: Any) -> Any:
        wanted = Wanted(event, handler, DeadReason(reason) if reason else None)
        return command(*args, wanted=wanted, **options)

    return with_wanted


def _operate(spec: str | None, app_dir: Path, work: Callable[[Operator], Coroutine[Any, Any, T]]) -> T:
    target = load_target(spec, folder=app_dir) if spec else None

    async def operate() -> T:
        async with operator(target) as opened:
            return await work(opened)

    return asyncio.run(operate())


@click.group()
@click.version_option(package_name="araponga_infra")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]),
    help="What goes to standard error.  [default: info for events run, else warning]",
)  # fmt: skip
@click.pass_context
def command_line(context: click.Context, log_level: str | None) -> None:
    """Run event handlers, look after dead letters, and tell an orchestrator how things are.

    The database and Redis are those that ARAPONGA_DATABASE_URL and ARAPONGA_REDIS_URL name.
    """
    logging.basicConfig(level=(log_level or "warning").upper(), format=_LOG_FORMAT)
    context.obj = log_level


@command_line.group()
def events() -> None:
    """Run event handlers, or count what waits for them."""


@events.command()
@click.argument("spec", metavar="MODULE:NAME")
@click.option("--concurrency", type=click.IntRange(min=1), help="Handlers at a time.  [default: 5]")
@click.option("--grace", type=click.FloatRange(min=0), default=25.0, show_default=True, help="Seconds to drain in.")
@click.option("--embedded", is_flag=True, help="Without a database named, run on a temporary SQLite file.")
@_app_dir
@click.pass_obj
@_reporting_errors
def run(log_level: str | None, spec: str, concurrency: int | None, grace: float, embedded: bool, app_dir: Path) -> None:
    """Run handlers until SIGTERM or SIGINT, then drain.

    MODULE:NAME is an EventRouter, a processor, an Infrastructure, or a function without arguments that makes one. A
    second SIGINT ends the process at once.
    """
    if log_level is None:
        logging.getLogger().setLevel(logging.INFO)
    run_until_stopped(_runnable(load_target(spec, folder=app_dir), concurrency, embedded), grace=grace)


def _runnable(target: Target, concurrency: int | None, embedded: bool) -> Any:
    if isinstance(target, EventRouter):
        settings = InfraSettings.from_env(embedded=embedded)
        return infrastructure_for([target], settings=settings, max_concurrency=concurrency or 5)
    if concurrency is not None or embedded:
        raise TargetError(f"--concurrency and --embedded go with a router: a {type(target).__name__} has its own")
    return target


@events.command()
@_app
@_app_dir
@_as_json
@_reporting_errors
def stats(spec: str | None, app_dir: Path, as_json: bool) -> None:
    """Count queued, running, retrying and dead deliveries."""
    counted = _operate(spec, app_dir, Operator.stats)
    click.echo(stats_json(counted) if as_json else stats_table(counted))


@command_line.group("dead-letters")
def dead_letters() -> None:
    """Look at what ended without success; redrive or discard it."""


@dead_letters.command("list")
@_wanted
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@click.option("--after", metavar="CURSOR", help="Continue behind the page that ended with this.")
@_app
@_app_dir
@_as_json
@_reporting_errors
def list_letters(wanted: Wanted, limit: int, after: str | None, spec: str | None, app_dir: Path, as_json: bool) -> None:
    """List dead letters, oldest first."""
    page = _operate(spec, app_dir, lambda opened: opened.page(wanted, limit=limit, after=after))
    if as_json:
        for letter in page.items:
            click.echo(letter_json(letter))
    elif page.items:
        click.echo(letter_table(page.items))
    else:
        click.echo("no dead letters")
    if page.next is not None:
        click.echo(f"there are more: --after {page.next}", err=True)


@dead_letters.command()
@click.argument("id_", metavar="ID")
@_app
@_app_dir
@_as_json
@_reporting_errors
def show(id_: str, spec: str | None, app_dir: Path, as_json: bool) -> None:
    """Show everything about one, its payload included."""
    letter = _operate(spec, app_dir, lambda opened: opened.get(id_))
    click.echo(letter_json(letter) if as_json else letter_lines(letter))


@dead_letters.command()
@_ids
@click.option("--all", "is_all", is_flag=True, help="All that --event, --handler and --reason leave.")
@_wanted
@_app
@_app_dir
@_reporting_errors
def redrive(ids: tuple[str, ...], is_all: bool, wanted: Wanted, spec: str | None, app_dir: Path) -> None:
    """Try dead letters again, with all their attempts ahead of them."""
    _check_choice(ids, is_all, wanted)

    async def work(opened: Operator) -> int:
        return await (_redrive_all(opened, wanted) if is_all else _each(ids, opened.redrive, "redriven"))

    click.echo(f"{_operate(spec, app_dir, work)} redriven")


@dead_letters.command()
@_ids
@click.option("--all", "is_all", is_flag=True, help="All that --event, --handler, --reason and --older-than leave.")
@click.option("--older-than", type=click.FloatRange(min=0), default=0.0, help="With --all: died so many seconds ago.")
@_wanted
@_yes
@_app
@_app_dir
@_reporting_errors
def discard(
    ids: tuple[str, ...], is_all: bool, older_than: float, wanted: Wanted, yes: bool, spec: str | None, app_dir: Path
) -> None:
    """Throw dead letters away for good."""
    _check_choice(ids, is_all, wanted)
    if not yes:
        which = "all that match" if is_all else f"{len(ids)}"
        click.confirm(f"Discard {which}? Their events are lost", abort=True)

    async def work(opened: Operator) -> int:
        return await (_discard_all(opened, wanted, older_than) if is_all else _each(ids, opened.discard, "discarded"))

    click.echo(f"{_operate(spec, app_dir, work)} discarded")


@command_line.command()
@click.option(
    "--ready/--live",
    "is_ready",
    default=True,
    help="Fit for traffic (the default), or alive: would a restart help?",
)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=2.0, show_default=True, help="Seconds.")
@_reporting_errors
def health(is_ready: bool, timeout: float) -> None:
    """Ask the parts how they are: an exec probe.

    Exit status 0 for yes, 1 for no. A part that runs on its fallback is degraded, and degraded is ready.
    """
    with Infrastructure(InfraSettings.from_env(), consume=False) as infra:
        found = infra.health(timeout=timeout)
    is_good, asked = (found.ready, "ready") if is_ready else (found.live, "live")
    if found.parts:
        click.echo(health_lines(found))
    click.echo(asked if is_good else f"not {asked}")
    click.get_current_context().exit(0 if is_good else 1)


def _check_choice(ids: tuple[str, ...], is_all: bool, wanted: Wanted) -> None:
    if bool(ids) == is_all:
        raise click.UsageError("name IDs, or say --all")
    if ids and wanted != Wanted():
        raise click.UsageError("--event, --handler and --reason go with --all")


async def _redrive_all(opened: Operator, wanted: Wanted) -> int:
    with steps("redriving", "redriven", expected=wanted.count_in(await opened.stats())) as note:
        return await opened.redrive_all(wanted, note)


async def _discard_all(opened: Operator, wanted: Wanted, older_than: float) -> int:
    expected = None if older_than else wanted.count_in(await opened.stats())
    with steps("discarding", "discarded", expected=expected) as note:
        return await opened.discard_all(wanted, older_than, note)


async def _each(ids: tuple[str, ...], act: Callable[[str], Awaitable[None]], done: str) -> int:
    with steps("", done, expected=0) as note:
        for number, each in enumerate(ids, 1):
            await act(each)
            note(number)
    return len(ids)
