"""A function bound to a helper: called without its session, it runs as a unit of work."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from araponga_infra.errors import InvalidArgumentError

__all__ = [
    "UnitOfWork",
    "UnitOfWorkMethod",
    "refuse_async_work",
    "refuse_awaitable",
    "refuse_plain_result",
    "refuse_sessionless",
    "refuse_uncallable",
]

S = TypeVar("S")
O_contra = TypeVar("O_contra", contravariant=True)
P = ParamSpec("P")
R = TypeVar("R")


class UnitOfWork(Generic[S, P, R]):
    """What `unit_of_work` makes of a function: the same without its session parameter.

    Calling it is `execute`; `within` runs it as part of a unit that is open already.
    """

    def __init__(
        self, execute: Callable[..., R], work: Callable[..., R], session_classes: tuple[type[Any], ...]
    ) -> None:
        self._execute = execute
        self._work = work
        self._session_classes = session_classes
        self._is_method = False
        update_wrapper(self, work)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._is_method:
            return self.__get__(args[0])(*args[1:], **kwargs)
        return self._execute(self._work, *args, **kwargs)

    def within(self, session: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run in `session`, whose owner commits or rolls back and tries again: nothing of that happens here.

        Raises:
            InvalidArgumentError: not a session, or one of the other colour.
        """
        if not isinstance(session, self._session_classes):
            wanted = self._session_classes[0].__name__
            raise InvalidArgumentError(
                f"within() got a {type(session).__name__} as its session: pass the {wanted} of the unit that is open"
            )
        return self._work(session, *args, **kwargs)

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._is_method = True

    def __get__(self, obj: Any, owner: type[Any] | None = None) -> UnitOfWork[S, Any, R]:
        if obj is None:
            return self
        return UnitOfWork(self._execute, self._work.__get__(obj), self._session_classes)

    @property
    def __signature__(self) -> inspect.Signature:
        signature = inspect.signature(self._work)
        session_at = 1 if self._is_method else 0
        kept = [parameter for at, parameter in enumerate(signature.parameters.values()) if at != session_at]
        return signature.replace(parameters=kept)


class UnitOfWorkMethod(Protocol[O_contra, S, P, R]):
    """How type checkers see `unit_of_work` on a method: looked up on an object, it is a `UnitOfWork`."""

    @overload
    def __get__(self, obj: None, owner: type[Any]) -> Callable[Concatenate[O_contra, P], R]: ...
    @overload
    def __get__(self, obj: O_contra, owner: type[Any] | None = None) -> UnitOfWork[S, P, R]: ...


def refuse_uncallable(work: object, call: str) -> None:
    if not callable(work):
        raise InvalidArgumentError(f"{call}({work!r}): pass a function whose first parameter is the session")


def refuse_sessionless(work: Callable[..., Any], call: str) -> None:
    """Refuse a function that has no place for the session."""
    refuse_uncallable(work, call)
    try:
        parameters = inspect.signature(work).parameters.values()
    except (TypeError, ValueError):  # some builtins tell nothing of their parameters
        return
    if not any(parameter.kind not in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD) for parameter in parameters):
        raise InvalidArgumentError(
            f"{call}({_name_of(work)}): it takes no positional parameter; the first one is the session"
        )


def refuse_async_work(work: object, call: str) -> None:
    """Refuse an `async def` where nobody will await it."""
    if inspect.iscoroutinefunction(work):
        raise InvalidArgumentError(
            f"{call}({_name_of(work)}): an async function, which a sync helper cannot await: use AsyncConcurrencyHelper"
        )


def refuse_awaitable(result: object, work: object) -> None:
    """What a sync helper got from its work may have yet to run, and nobody would wait for it."""
    if not hasattr(type(result), "__await__"):
        return
    if inspect.iscoroutine(result):
        result.close()
    raise InvalidArgumentError(
        f"execute({_name_of(work)}): it returned a {type(result).__name__} to be awaited, and was rolled back: "
        "pass a plain function, or use AsyncConcurrencyHelper"
    )


def refuse_plain_result(result: object, work: object) -> None:
    """What an async helper got from its work may be nothing to await."""
    if not hasattr(type(result), "__await__"):
        raise InvalidArgumentError(
            f"execute({_name_of(work)}): it returned a {type(result).__name__} instead of something to await, and was "
            "rolled back: write it as `async def`, or use ConcurrencyHelper"
        )


def _name_of(work: object) -> str:
    return str(getattr(work, "__qualname__", type(work).__name__))
