"""The command `araponga-infra` (extra `cli`), and `run_worker` for a worker in code, which needs no extra."""

from __future__ import annotations

import sys

from araponga_infra.cli.worker import run_worker
from araponga_infra.errors import MissingExtraError
from araponga_infra.extras import import_extra

__all__ = ["main", "run_worker"]


def main() -> None:
    """Run the command line; without the extra, say which one is missing and exit with status 2."""
    try:
        import_extra("click", extra="cli", needed_for="the command araponga-infra")
    except MissingExtraError as missing:
        print(missing, file=sys.stderr)  # noqa: T201 - this is the command line
        sys.exit(2)
    from araponga_infra.cli.commands import command_line

    command_line()
