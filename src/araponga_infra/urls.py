"""Database URLs: which driver a URL without one means, and how a URL is shown."""

from __future__ import annotations

import re

from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from araponga_infra.errors import InvalidArgumentError, MissingExtraError

__all__ = [
    "async_engine_from_url",
    "check_pool_size",
    "database_url",
    "engine_from_url",
    "host_and_port",
    "masked",
    "pool_options",
]

_SYNC_DRIVERS = {"postgresql": "psycopg", "postgres": "psycopg"}
_ASYNC_DRIVERS = {"postgresql": "psycopg", "postgres": "psycopg", "sqlite": "aiosqlite"}
_SECRET_OPTIONS = ("password", "sslpassword", "passfile")
_REDIS = ("redis", "rediss")
_SEVERAL_HOSTS = re.compile(
    r"(?P<start>postgres(?:ql)?(?:\+\w+)?://(?:[^/?]*@)?)(?P<hosts>[^/?@]*,[^/?@]*)(?P<path>/[^?]*)?(?:\?(?P<query>.*))?"
)
_DEFAULT_PORT = "5432"
_EXTRA_OF_DRIVER = {"psycopg": "postgres", "aiosqlite": "sqlite-async"}


def database_url(url: str | URL, *, is_async: bool = False, argument: str = "url") -> URL:
    """Read a database URL; without a driver it means psycopg 3, and in async use aiosqlite or psycopg's async.

    Raises:
        InvalidArgumentError: not a URL, or of no database that SQLAlchemy knows; the message names `argument` and never
            repeats the text, which may hold a password.
    """
    try:
        parsed = make_url(_with_hosts_in_query(url) if isinstance(url, str) else url)
    except (ArgumentError, ValueError, TypeError, AttributeError):
        raise InvalidArgumentError(
            f"{argument} is not a database URL: write it as postgresql://user:password@host:5432/name "
            "or sqlite:///file.db"
        ) from None
    drivers = _ASYNC_DRIVERS if is_async else _SYNC_DRIVERS
    backend, _, driver = parsed.drivername.partition("+")
    if backend == "postgres":
        backend = "postgresql"
    driver = driver or drivers.get(backend, "")
    return _checked(parsed.set(drivername=f"{backend}+{driver}" if driver else backend), argument)


def _checked(url: URL, argument: str) -> URL:
    if "@" in (url.host or ""):
        raise InvalidArgumentError(f"{argument} has an @ in its user or password: write it as %40")
    if url.port is not None and not 0 < url.port < 65536:
        raise InvalidArgumentError(f"{argument} has port {url.port}: a port is a number from 1 to 65535")
    if any(not host or (len(host.split()) > 1 and not host.startswith("/")) for host in _hosts_of(url)):
        raise InvalidArgumentError(
            f"{argument} has a host that is empty or has spaces in it: write it as "
            "postgresql://user:password@host:5432/name, several hosts with a comma between them"
        )
    if url.get_backend_name() == "sqlite" and url.host:
        raise InvalidArgumentError(
            f"{argument} begins with sqlite:// and names a host: a file takes a third slash, as in sqlite:///file.db"
        )
    try:
        url.get_dialect()
    except NoSuchModuleError:
        raise _unknown(url, argument) from None
    return url


def _with_hosts_in_query(url: str) -> str:
    """PostgreSQL's own form for several hosts, `//a:5432,b:5433/name`, in the form SQLAlchemy reads."""
    found = _SEVERAL_HOSTS.fullmatch(url)
    if found is None:
        return url
    hosts, ports = zip(*(host_and_port(each) for each in found["hosts"].split(",")), strict=True)
    named = f"host={','.join(hosts)}&port={','.join(str(int(port or _DEFAULT_PORT)) for port in ports)}"
    rest = f"&{found['query']}" if found["query"] else ""
    return f"{found['start']}{found['path'] or '/'}?{named}{rest}"


def _hosts_of(url: URL) -> list[str]:
    named = url.query.get("host", ())
    in_query = [host for part in ((named,) if isinstance(named, str) else named) for host in part.split(",")]
    return [*in_query, *([url.host] if url.host else [])]


def host_and_port(text: str) -> tuple[str, str]:
    """`host:5432` in its parts, the port empty where there is none; IPv6 as `::1`, `[::1]` or `[::1]:5432`."""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        return host, port.removeprefix(":")
    if text.count(":") > 1:
        return text, ""
    host, _, port = text.partition(":")
    return host, port


def engine_from_url(url: str | URL, *, argument: str = "url", **options: object) -> Engine:
    """`create_engine` with our reading of the URL and our errors; opens no connection.

    Raises:
        InvalidArgumentError: a malformed URL, an unknown database or a driver that is none of our extras' and missing.
        MissingExtraError: the driver is not installed.
    """
    parsed = database_url(url, argument=argument)
    try:
        return create_engine(parsed, **options)
    except ModuleNotFoundError as error:
        raise _without_driver(parsed, argument) from error


def async_engine_from_url(url: str | URL, *, argument: str = "url", **options: object) -> AsyncEngine:
    """`create_async_engine`, likewise."""
    parsed = database_url(url, is_async=True, argument=argument)
    try:
        return create_async_engine(parsed, **options)
    except ModuleNotFoundError as error:
        raise _without_driver(parsed, argument) from error


def _without_driver(url: URL, argument: str) -> Exception:
    driver = url.drivername.partition("+")[2]
    if driver in _EXTRA_OF_DRIVER:
        return MissingExtraError(_EXTRA_OF_DRIVER[driver], f"a database URL that begins with {url.drivername}://")
    return InvalidArgumentError(
        f"{argument} begins with {url.drivername}://, whose driver is not installed: pip install its driver "
        "or name another one"
    )


def _unknown(url: URL, argument: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{argument} begins with {url.drivername}://, which SQLAlchemy does not know: "
        "use postgresql://, sqlite:/// or an installed dialect"
    )


def check_pool_size(size: object, argument: str) -> None:
    """
    Raises:
        InvalidArgumentError: neither None nor a whole number of 1 or more.
    """
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise InvalidArgumentError(
            f"{argument} is not a whole number of 1 or more: set it to the connections that one process may open"
        )


def pool_options(url: URL, pool_size: int | None) -> dict[str, int]:
    """Engine options for at most so many connections; None, or SQLite, whose connections cost nothing: the default."""
    if pool_size is None or url.get_backend_name() == "sqlite":
        return {}
    return {"pool_size": pool_size, "max_overflow": 0}


def masked(url: str | URL | None) -> str:
    """A URL fit for a log line or a message: the password is hidden, also one among the options."""
    if url is None:
        return "None"
    try:
        parsed = make_url(_with_hosts_in_query(url) if isinstance(url, str) else url)
    except (ArgumentError, ValueError):
        return "***"
    if "@" in (parsed.host or ""):
        return "***"
    if parsed.drivername in _REDIS and parsed.username and parsed.password is None:
        parsed = parsed.set(username="", password=parsed.username)  # most likely written without its colon
    return parsed.difference_update_query(_SECRET_OPTIONS).render_as_string(hide_password=True)
