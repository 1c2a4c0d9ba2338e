"""Where the database, its replicas and Redis are: read from the environment, validated, never shown with a password."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from araponga_infra.connection_strings import database_url_from_npgsql, redis_url_from_stackexchange
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.urls import check_pool_size, database_url, masked

__all__ = ["InfraSettings"]

_DATABASE = ("ARAPONGA_DATABASE_URL", "ConnectionStrings__Postgres")
_READONLY = ("ARAPONGA_DATABASE_READONLY_URL", "ConnectionStrings__PostgresReadOnly")
_REDIS = ("ARAPONGA_REDIS_URL", "ConnectionStrings__Redis")
_POOL_SIZE = "ARAPONGA_DATABASE_POOL_SIZE"
_ANOTHER_URL = re.compile(r"[^,\s]\s*[;\s]\s*\w[\w+]*://")


@dataclass(frozen=True, repr=False)
class InfraSettings:
    """The places a service connects to; a frozen value whose repr hides every password.

    Args:
        database_url: the primary, as `postgresql://user:password@host/name` or `sqlite:///file.db`; None: no database.
        database_readonly_urls: its replicas, one URL each.
        redis_url: `redis://`, `rediss://` (TLS) or `unix://`; None: the cache lives in memory.
        is_embedded: without `database_url`, run on a SQLite file in a temporary folder that is gone at close.
        database_pool_size: how many connections to the primary, and to each replica, the pools of a process open at
            most; None: 5 that stay open and 10 more under load. SQLite takes no notice.

    As a field of a pydantic model it takes an instance or a mapping of these names, and no error quotes it.

    Raises:
        InvalidArgumentError: a malformed URL. The message names the field and never repeats the URL.
    """

    database_url: str | None = None
    database_readonly_urls: Sequence[str] = ()
    redis_url: str | None = None
    is_embedded: bool = False
    database_pool_size: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.database_readonly_urls, str) or not isinstance(self.database_readonly_urls, Sequence):
            raise InvalidArgumentError(
                "database_readonly_urls is not a sequence: pass a tuple of URLs, one per replica"
            )
        object.__setattr__(self, "database_readonly_urls", tuple(self.database_readonly_urls))
        if self.database_url is not None:
            database_url(self.database_url, argument="database_url")
        for url in self.database_readonly_urls:
            database_url(url, argument="database_readonly_urls")
        if self.redis_url is not None:
            _check_redis_url(self.redis_url, "redis_url")
        check_pool_size(self.database_pool_size, "database_pool_size")
        if self.is_embedded and self.database_url is not None:
            raise InvalidArgumentError("is_embedded and database_url name two databases: pass one of them")
        if self.database_readonly_urls and self.database_url is None:
            raise InvalidArgumentError("database_readonly_urls names replicas of no primary: pass database_url, too")

    @classmethod
    def embedded(cls) -> Self:
        """SQLite in a temporary folder and memory, whatever the environment says: for tests and first steps."""
        return cls(is_embedded=True)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, *, embedded: bool = False) -> Self:
        """Read the environment.

        `ARAPONGA_DATABASE_URL`, `ARAPONGA_DATABASE_READONLY_URL` (comma separated) and `ARAPONGA_REDIS_URL`; where one
        of them is missing or empty, `ConnectionStrings__Postgres`, `ConnectionStrings__PostgresReadOnly` (in Npgsql's
        form) and `ConnectionStrings__Redis` (in StackExchange.Redis's form) are read instead. Each also takes a URL.
        `ARAPONGA_DATABASE_POOL_SIZE` is a whole number.

        Args:
            environ: `os.environ` when None.
            embedded: with no database named, run on SQLite in a temporary folder instead of failing later.

        Raises:
            InvalidArgumentError: a malformed value; the message names the variable and hides the value.
        """
        variables = os.environ if environ is None else environ
        if not isinstance(variables, Mapping):
            raise InvalidArgumentError(f"environ is a {type(environ).__name__}: pass a mapping of names to values")
        database, name = _first_set(variables, _DATABASE)
        replicas, replicas_name = _first_set(variables, _READONLY)
        redis, redis_name = _first_set(variables, _REDIS)
        if replicas and not database:
            raise InvalidArgumentError(
                f"{replicas_name} names replicas of no primary: set {_DATABASE[0]}, or remove {replicas_name}"
            )
        return cls(
            database_url=_read_database(database, name) if database else None,
            database_readonly_urls=tuple(_read_replicas(replicas, replicas_name)),
            redis_url=_read_redis(redis, redis_name) if redis else None,
            is_embedded=embedded and not database,
            database_pool_size=_read_pool_size(variables.get(_POOL_SIZE, "").strip()),
        )

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> Any:
        """Pydantic quotes the input in its errors: let it see the input under a repr that shows nothing."""
        from pydantic_core import core_schema

        read = core_schema.no_info_plain_validator_function(cls._read_hidden)
        return core_schema.no_info_before_validator_function(_Hidden, read)

    @classmethod
    def _read_hidden(cls, hidden: _Hidden) -> Self:
        given = hidden.value
        if isinstance(given, cls):
            return given
        if isinstance(given, Mapping):
            values = cast("Mapping[str, Any]", given)
            if cls.__dataclass_fields__.keys() >= values.keys():
                return cls(**values)
        raise InvalidArgumentError(f"pass an InfraSettings, or a mapping of {', '.join(cls.__dataclass_fields__)}")

    def __repr__(self) -> str:
        replicas = ", ".join(masked(url) for url in self.database_readonly_urls)
        return (
            f"InfraSettings(database_url={masked(self.database_url)}, database_readonly_urls=({replicas}), "
            f"redis_url={masked(self.redis_url)}, is_embedded={self.is_embedded}, "
            f"database_pool_size={self.database_pool_size})"
        )


@dataclass(frozen=True)
class _Hidden:
    """A value that may hold passwords and is to be shown by nobody."""

    value: Any

    def __repr__(self) -> str:
        return "***"


def _first_set(variables: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str]:
    for name in names:
        if value := variables.get(name, "").strip():
            return value, name
    return "", names[0]


def _read_database(value: str, variable: str) -> str:
    if "://" not in value and "=" in value:
        value = database_url_from_npgsql(value, argument=variable)
    database_url(value, argument=variable)
    return value


def _read_replicas(value: str, variable: str) -> list[str]:
    if _ANOTHER_URL.search(value):
        raise InvalidArgumentError(f"{variable} has several URLs without a comma between them: put one there")
    parts = [value] if "://" not in value and "=" in value else _split_urls(value)
    return [_read_database(part.strip(), variable) for part in parts if part.strip()]


def _split_urls(value: str) -> list[str]:
    """At commas, except those between the hosts of one URL: `postgresql://one,two/name` is one."""
    urls: list[str] = []
    for part in value.split(","):
        if urls and "://" not in part and urls[-1] and "/" not in urls[-1].partition("://")[2]:
            urls[-1] += f",{part}"
        else:
            urls.append(part)
    return urls


def _read_redis(value: str, variable: str) -> str:
    if "://" not in value:
        value = redis_url_from_stackexchange(value, argument=variable)
    _check_redis_url(value, variable)
    return value


def _read_pool_size(value: str) -> int | None:
    if not value:
        return None
    size = int(value) if value.isdecimal() else 0
    check_pool_size(size, _POOL_SIZE)
    return size


def _check_redis_url(url: str, argument: str) -> None:
    """Here and not above: redis is imported where a Redis is named, and nowhere else."""
    from araponga_infra.caching.backends.redis.client import check_redis_url

    check_redis_url(url, argument=argument)
