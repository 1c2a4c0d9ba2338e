"""Read-only sessions by the call."""

from __future__ import annotations

import inspect
from typing import Any, Self

from sqlalchemy import URL, Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from araponga_infra.errors import ClosedError, InvalidArgumentError
from araponga_infra.sessions.engines import ReadOnlyEngine, async_own_engine, guarded, own_engine
from araponga_infra.sessions.session import AsyncReadOnlySession, ReadOnlySession

__all__ = ["AsyncReadOnlySessionFactory", "ReadOnlySessionFactory"]


class ReadOnlySessionFactory:
    """Makes read-only sessions: calling it gives a `ReadOnlySession`, to be used in a `with` block.

    Args:
        url_or_engine: a URL makes an engine of its own, whose connections are read-only from the first. An engine is
            shared: each connection is guarded while a read-only session holds it, and given back as it was.
        session_options: passed to each session, as for `sessionmaker`.

    Raises:
        InvalidArgumentError: neither of both, a malformed URL, a SQLite database in memory named by URL, a database
            other than PostgreSQL, SQLite, MySQL and MariaDB, or an option that `Session` does not know.
        ClosedError: called after `close()`.
        MissingExtraError: the driver that the URL names is not installed.

    Thread-safe. Opens no connection before a session is used; make it after a fork.

    Examples:
        >>> from sqlalchemy import create_engine, text
        >>> with ReadOnlySessionFactory(create_engine("sqlite://")) as sessions, sessions() as session:
        ...     session.scalar(text("SELECT 1"))
        1
    """

    def __init__(self, url_or_engine: str | URL | Engine, **session_options: Any) -> None:
        self._is_own = isinstance(url_or_engine, (str, URL))
        self._engine = _engine(url_or_engine)
        self._session_options = _known(session_options)
        self._is_closed = False

    @property
    def engine(self) -> Engine:
        """The guarded engine that the sessions use."""
        return self._engine

    def __call__(self) -> ReadOnlySession:
        if self._is_closed:
            raise _closed(self)
        options = self._session_options
        return ReadOnlySession(self._engine, **options) if options else ReadOnlySession(self._engine)

    def close(self) -> None:
        """Close the engine's connections if it was made here; the host's engine is left open."""
        self._is_closed = True
        if self._is_own:
            self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ReadOnlySessionFactory({self._engine.url.render_as_string(hide_password=True)!r})"


class AsyncReadOnlySessionFactory:
    """Makes read-only `AsyncSession`s: calling it gives one, to be used in an `async with` block.

    Args:
        url_or_engine: a URL makes an async engine of its own, an `AsyncEngine` is shared and guarded.
        session_options: passed to each session, as for `async_sessionmaker`.

    Raises:
        InvalidArgumentError: as `ReadOnlySessionFactory`; also a sync `Engine`.
        ClosedError: called after `aclose()`.
        MissingExtraError: the driver that the URL names is not installed.

    Its connections belong to the event loop that first used them.

    Examples:
        >>> import asyncio
        >>> from sqlalchemy import text
        >>> from sqlalchemy.ext.asyncio import create_async_engine
        >>> async def main() -> None:
        ...     engine = create_async_engine("sqlite+aiosqlite://")
        ...     async with AsyncReadOnlySessionFactory(engine) as sessions, sessions() as session:
        ...         print(await session.scalar(text("SELECT 1")))
        ...     await engine.dispose()
        >>> asyncio.run(main())
        1
    """

    def __init__(self, url_or_engine: str | URL | AsyncEngine, **session_options: Any) -> None:
        self._is_own = isinstance(url_or_engine, (str, URL))
        self._engine = _async_engine(url_or_engine)
        self._session_options = _known(session_options)
        self._is_closed = False

    @property
    def engine(self) -> AsyncEngine:
        """The guarded engine that the sessions use."""
        return self._engine

    def __call__(self) -> AsyncReadOnlySession:
        if self._is_closed:
            raise _closed(self)
        return AsyncReadOnlySession(self._engine, **self._session_options)

    async def aclose(self) -> None:
        """Close the engine's connections if it was made here; the host's engine is left open."""
        self._is_closed = True
        if self._is_own:
            await self._engine.dispose()

    close = aclose

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncReadOnlySessionFactory({self._engine.url.render_as_string(hide_password=True)!r})"


_OPTIONS = frozenset(inspect.signature(Session.__init__).parameters) - {"self", "bind"}


def _known(options: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(options.keys() - _OPTIONS)
    if unknown:
        raise InvalidArgumentError(
            f"{', '.join(unknown)}: no option of a session; those that are: {', '.join(sorted(_OPTIONS))}"
        )
    return options


def _closed(factory: object) -> ClosedError:
    return ClosedError(f"this {type(factory).__name__} is closed: make a new one, or close it after the last session")


def _engine(url_or_engine: object) -> ReadOnlyEngine:
    if isinstance(url_or_engine, (str, URL)):
        return own_engine(url_or_engine, argument="url_or_engine")
    if isinstance(url_or_engine, Engine) and not url_or_engine.dialect.is_async:
        return guarded(url_or_engine)
    raise InvalidArgumentError(
        f"url_or_engine is a {type(url_or_engine).__name__}: pass a database URL or an Engine; "
        "an AsyncEngine goes to AsyncReadOnlySessionFactory"
    )


def _async_engine(url_or_engine: object) -> AsyncEngine:
    if isinstance(url_or_engine, (str, URL)):
        return AsyncEngine(async_own_engine(url_or_engine, argument="url_or_engine"))
    if isinstance(url_or_engine, AsyncEngine):
        return AsyncEngine(guarded(url_or_engine.sync_engine))
    raise InvalidArgumentError(
        f"url_or_engine is a {type(url_or_engine).__name__}: pass a database URL or an AsyncEngine; "
        "an Engine goes to ReadOnlySessionFactory"
    )
