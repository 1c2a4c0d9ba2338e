"""A function bound to a helper: called without its session, it runs as a unit of work."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from araponga_infra.errors import InvalidArgumentError

__all__ = ["UnitOfWork", "UnitOfWorkMethod"]

S = TypeVar("S")
O_contra = TypeVar("O_contra", contravariant=True)
P = ParamSpec("P")
R = TypeVar("R")


class UnitOfWork(Generic[S, P, R]):
    """What `unit_of_work` makes of a function: the same without its session parameter.

    Calling it is `execute`; `within` runs it as part of a unit that is open already.
    """

    def __init__(self, execute: Callable[..., R], work: Callable[..., R]) -> None:
        if not callable(work):
            raise InvalidArgumentError(f"unit_of_work({work!r}): pass a function whose first parameter is the session")
        self._execute = execute
        self._work = work
        self._is_method = False
        update_wrapper(self, work)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._is_method:
            return self.__get__(args[0])(*args[1:], **kwargs)
        return self._execute(self._work, *args, **kwargs)

    def within(self, session: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run in `session`, whose owner commits or rolls back and tries again: nothing of that happens here."""
        return self._work(session, *args, **kwargs)

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._is_method = True

    def __get__(self, obj: Any, owner: type[Any] | None = None) -> UnitOfWork[S, Any, R]:
        if obj is None:
            return self
        return UnitOfWork(self._execute, self._work.__get__(obj))

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
