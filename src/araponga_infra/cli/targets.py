"""MODULE:NAME, as it is given on the command line: what it may name, and how it is found."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from araponga_infra.errors import InvalidArgumentError
from araponga_infra.events import AsyncBackgroundEventProcessor, BackgroundEventProcessor, EventRouter
from araponga_infra.infrastructure import AsyncInfrastructure, Infrastructure

__all__ = ["Target", "TargetError", "load_target"]

Target: TypeAlias = (
    EventRouter | BackgroundEventProcessor | AsyncBackgroundEventProcessor | Infrastructure | AsyncInfrastructure
)
_KINDS = (EventRouter, BackgroundEventProcessor, AsyncBackgroundEventProcessor, Infrastructure, AsyncInfrastructure)


class TargetError(InvalidArgumentError):
    """MODULE:NAME names nothing that can be run."""


def load_target(spec: str, *, folder: Path | None = None) -> Target:
    """Import what `spec` names; a function without arguments is called.

    Args:
        spec: `package.module:name`, or `package.module:holder.name`.
        folder: put in front of the import path, as the folder of a script is; the working directory by default.

    Raises:
        TargetError: no such module or name, or one that is nothing to run. Errors inside the module propagate.
    """
    module_name, colon, name = spec.partition(":")
    if not (module_name and colon and name):
        raise TargetError(f"{spec!r} is not MODULE:NAME: write it as community.handlers:router")
    found = _attribute(_module(module_name, (folder or Path()).resolve()), name, spec)
    if not isinstance(found, _KINDS) and callable(found):
        found = _made_by(found, spec)
    if not isinstance(found, _KINDS):
        raise TargetError(
            f"{spec} is a {type(found).__name__}: name an EventRouter, a processor, an Infrastructure, or a function "
            "without arguments that makes one"
        )
    return found


def _module(name: str, folder: Path) -> Any:
    sys.path.insert(0, str(folder))
    try:
        return import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{name}.".startswith(f"{missing.name}."):
            raise
        raise TargetError(f"no module {name!r} in {folder} or among what is installed: see --app-dir") from None


def _attribute(module: Any, name: str, spec: str) -> Any:
    found = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise TargetError(f"{spec}: {module.__name__} has no {name!r}") from None
    return found


def _made_by(factory: Any, spec: str) -> Any:
    try:
        return factory()
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:
            raise TargetError(f"{spec} takes arguments: name a function without any") from None
        raise
