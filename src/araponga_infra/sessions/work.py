"""What `run` takes: a function of the colour of its replica set, since one of the other colour would not run at all."""

from __future__ import annotations

import inspect

from araponga_infra.errors import InvalidArgumentError

__all__ = ["refuse_awaitable", "refuse_plain_result", "refuse_uncallable"]


def refuse_uncallable(work: object) -> None:
    """Refuse what is no function."""
    if not callable(work):
        raise InvalidArgumentError(f"run({work!r}): pass a function whose first parameter is the session")


def refuse_awaitable(result: object) -> None:
    """Refuse what would be awaited after its session is closed, if at all."""
    if not hasattr(type(result), "__await__"):
        return
    if inspect.iscoroutine(result):
        result.close()
    raise InvalidArgumentError(
        f"run() got a {type(result).__name__} to be awaited from its work: pass a plain function or use AsyncReplicaSet"
    )


def refuse_plain_result(result: object) -> None:
    """Refuse what cannot be awaited."""
    if not hasattr(type(result), "__await__"):
        raise InvalidArgumentError(
            f"run() got a {type(result).__name__} from its work instead of something to await: write it as "
            "`async def`, or use ReplicaSet"
        )
