"""The session layer: what SQLAlchemy's unit of work would write is refused before any SQL is made of it."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import Any, NoReturn

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IllegalStateChangeError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn

from araponga_infra.errors import InvalidArgumentError
from araponga_infra.sessions.engines import ReadOnlyEngine, guarded
from araponga_infra.sessions.errors import ReadOnlyViolationError

__all__ = ["AsyncReadOnlySession", "ReadOnlySession"]

_NAMED = 3


class ReadOnlySession(Session):
    """A `Session` that reads and does nothing else.

    Changed, new or deleted objects raise at `flush()` and `commit()`, which roll back, and at `close()` after the
    connection has been given back. A SELECT is never preceded by a flush. Every statement and every connection it uses
    is guarded, also when it was made from an ordinary engine. It holds no reference to what it loaded.

    Args:
        bind: an engine; statements through this session run on it read-only, the engine itself stays as it is.
        options: as for `Session`; `autoflush` is always off and objects do not expire at commit unless asked for.

    Raises:
        InvalidArgumentError: bound to a connection, whose transaction cannot be made read-only from here.
        ReadOnlyViolationError: on anything that is not a read.

    One session serves one thread or task at a time, as any `Session`.

    Examples:
        >>> from sqlalchemy import create_engine, text
        >>> with ReadOnlySession(create_engine("sqlite://")) as session:
        ...     session.scalar(text("SELECT 1"))
        1
    """

    def __init__(
        self,
        bind: Engine | Connection | None = None,
        *,
        autoflush: bool = False,  # noqa: ARG002 - a flush before a SELECT would break it
        expire_on_commit: bool = False,
        **options: Any,
    ) -> None:
        if bind is not None and not isinstance(bind, ReadOnlyEngine):
            bind = _read_only(bind)
        if options:
            super().__init__(bind, autoflush=False, expire_on_commit=expire_on_commit, **options)
        else:
            super().__init__(bind, autoflush=False, expire_on_commit=expire_on_commit)
        self._raised_at_start = id(sys.exc_info()[1])

    def get_bind(self, *args: Any, **options: Any) -> Engine | Connection:
        bind = super().get_bind(*args, **options)
        return bind if isinstance(bind, ReadOnlyEngine) else _read_only(bind)

    def connection(self, bind_arguments: Any = None, execution_options: Any = None) -> Connection:
        if bind_arguments and bind_arguments.get("bind") is not None:
            # SQLAlchemy takes this one as it is, without asking `get_bind`.
            bind_arguments = {"bind": self.get_bind(**bind_arguments)}
        return super().connection(bind_arguments, execution_options)

    # What writes

    def flush(self, objects: Any = None) -> None:
        changed = self._changed()
        if changed:
            self._refuse(f"{_listed(changed)} would be written by this flush")
        super().flush(objects) if objects is not None else super().flush()

    def commit(self) -> None:
        try:
            super().commit()
        except ReadOnlyViolationError:
            self.rollback()
            raise

    def merge(self, instance: Any, *, load: bool = True, options: Any = None) -> Any:
        if load:
            self._refuse("merge() copies changes onto a row; merge(load=False) only takes an object in")
        return super().merge(instance, load=load, options=options)

    def bulk_save_objects(self, *_arguments: Any, **_options: Any) -> None:
        self._refuse("bulk_save_objects() writes")

    def bulk_insert_mappings(self, *_arguments: Any, **_options: Any) -> None:
        self._refuse("bulk_insert_mappings() writes")

    def bulk_update_mappings(self, *_arguments: Any, **_options: Any) -> None:
        self._refuse("bulk_update_mappings() writes")

    def _refuse(self, what: str) -> NoReturn:
        # Inside a COMMIT a rollback cannot be called; it rolls back itself when this error reaches it.
        with suppress(IllegalStateChangeError):
            self.rollback()
        raise ReadOnlyViolationError(
            f"read-only session, nothing was written: {what}. Use a session that may write", layer="session"
        )

    def _changed(self) -> list[object]:
        """Objects that a flush would write; one that was set to what it was before is not changed."""
        if self._is_clean():
            return []
        changed = [instance for instance in self.dirty if self.is_modified(instance)]
        return [*self.new, *changed, *self.deleted]

    # The end

    def close(self) -> None:
        self._close(is_failing=id(sys.exc_info()[1]) not in (id(None), self._raised_at_start))

    def reset(self) -> None:
        changed = self._names_of_changed()
        super().reset()
        _complain(changed)

    def __exit__(self, type_: object, value: object, traceback: object) -> None:
        if value is None and not self._is_clean():
            self._close(is_failing=False)
        else:
            super().close()

    def _close(self, *, is_failing: bool) -> None:
        if is_failing or self._is_clean():
            super().close()
            return
        changed = self._names_of_changed()
        super().close()
        _complain(changed)

    def _names_of_changed(self) -> str:
        return "" if self._is_clean() else _listed(self._changed())


def _complain(changed: str) -> None:
    if changed:
        raise ReadOnlyViolationError(
            f"read-only session closed, nothing was written: {changed} had been changed. Use a session that may write",
            layer="session",
        )


def _read_only(bind: Engine | Connection) -> Engine:
    if isinstance(bind, Engine):
        return guarded(bind)
    raise InvalidArgumentError(
        f"bind is a {type(bind).__name__}: pass the engine, since a connection may be inside a transaction "
        "that writes and cannot be made read-only from here"
    )


def _listed(changed: list[object]) -> str:
    names = [type(instance).__name__ for instance in changed]
    shown = ", ".join(names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown


class AsyncReadOnlySession(AsyncSession):
    """An `AsyncSession` over `ReadOnlySession`; it only takes care that closing never hides an error in flight.

    Takes the arguments of `AsyncSession`, an async engine first.

    Examples:
        >>> import asyncio
        >>> from sqlalchemy import text
        >>> from sqlalchemy.ext.asyncio import create_async_engine
        >>> async def main() -> None:
        ...     engine = create_async_engine("sqlite+aiosqlite://")
        ...     async with AsyncReadOnlySession(engine) as session:
        ...         print(await session.scalar(text("SELECT 1")))
        ...     await engine.dispose()
        >>> asyncio.run(main())
        1
    """

    sync_session_class: type[Session] = ReadOnlySession
    sync_session: ReadOnlySession  # pyright: ignore[reportIncompatibleVariableOverride] - narrower by construction

    async def close(self) -> None:
        await self._closing(is_failing=id(sys.exc_info()[1]) not in (id(None), self.sync_session._raised_at_start))

    async def __aexit__(self, type_: object, value: object, traceback: object) -> None:
        await asyncio.shield(asyncio.ensure_future(self._closing(is_failing=value is not None)))

    async def _closing(self, *, is_failing: bool) -> None:
        await greenlet_spawn(self.sync_session._close, is_failing=is_failing)
