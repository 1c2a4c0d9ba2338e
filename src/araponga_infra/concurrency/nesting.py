"""Is a unit of work open here? Kept in a context variable, so that tasks and `asyncio.to_thread` know as well."""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType

from araponga_infra.concurrency.errors import NestedUnitOfWorkError

__all__ = ["OpenUnit"]

_current: ContextVar[OpenUnit | None] = ContextVar("araponga_infra_open_unit", default=None)


class OpenUnit:
    """Marks the unit of work that this context runs, and refuses a second one inside it.

    A child task and a thread started with a copy of the context (`asyncio.to_thread`) are inside the unit for as long
    as it is open, and outside as soon as it has ended; a plain thread begins with an empty context and is outside.
    """

    __slots__ = ("_is_open", "_token")

    _is_open: bool
    _token: Token[OpenUnit | None]

    def __enter__(self) -> None:
        outer = _current.get()
        if outer is not None and outer._is_open:
            raise NestedUnitOfWorkError(
                "execute() was called inside a unit of work that is still open: its COMMIT would stand even if the "
                "outer unit is rolled back and tried again. Pass the session on and call the function itself, or its "
                ".within(session, ...); or call execute() after the outer unit"
            )
        self._is_open = True
        self._token = _current.set(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_open = False
        _current.reset(self._token)
