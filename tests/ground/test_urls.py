from __future__ import annotations

import pytest

from araponga_infra import InvalidArgumentError
from araponga_infra.urls import async_engine_from_url, database_url, engine_from_url, masked


@pytest.mark.parametrize(
    ("url", "is_async", "driver"),
    [
        ("postgresql://h/x", False, "postgresql+psycopg"),
        ("postgres://h/x", False, "postgresql+psycopg"),
        ("postgresql://h/x", True, "postgresql+psycopg"),
        ("postgresql+asyncpg://h/x", True, "postgresql+asyncpg"),
        ("sqlite:///x.db", False, "sqlite"),
        ("sqlite:///x.db", True, "sqlite+aiosqlite"),
    ],
)
def test_a_url_without_a_driver_gets_ours(url: str, is_async: bool, driver: str) -> None:
    assert database_url(url, is_async=is_async).drivername == driver


@pytest.mark.parametrize("url", ["", "hunter2", "postgresql:/hunter2@h", "postgresql://u:hunter2@h:port/x", 7, None])
def test_a_malformed_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(InvalidArgumentError, match="database_url is not a database URL") as raised:
        database_url(url, argument="database_url")
    assert "hunter2" not in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("open_engine", [engine_from_url, async_engine_from_url])
def test_an_unknown_dialect_names_the_scheme_only(open_engine: object) -> None:
    with pytest.raises(InvalidArgumentError, match="nosuch://") as raised:
        open_engine("nosuch://u:hunter2@h/x")  # type: ignore[operator]
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:p@ss-hunter2@h/d", "write it as %40"),
        ("postgresql://u:hunter2@h:99999/d", "from 1 to 65535"),
        ("redis://:hunter2@h/0", "which SQLAlchemy does not know"),
        ("postgresql://u:hunter2@a b/d", "spaces in it"),
        ("postgresql://u:hunter2@one,/d", "a host that is empty"),
        ("sqlite://hunter2.db", "takes a third slash"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_never_repeated(url: str, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said) as raised:
        database_url(url)
    assert "hunter2" not in str(raised.value)
    assert "ss-hunter2" not in masked(url)


@pytest.mark.parametrize(
    ("url", "hosts", "ports"),
    [
        ("postgresql://u:p@one,two:6000/d", "one,two", "5432,6000"),
        ("postgresql://[::1],[::2]:6000/d?sslmode=require", "::1,::2", "5432,6000"),
    ],
)
def test_several_hosts(url: str, hosts: str, ports: str) -> None:
    query = database_url(url).query
    assert (query["host"], query["port"]) == (hosts, ports)


def test_masked_hides_passwords_wherever_they_stand() -> None:
    assert masked("postgresql://u:hunter2@h:5432/x?password=hunter2&sslmode=require") == (
        "postgresql://u:***@h:5432/x?sslmode=require"
    )
    assert masked("redis://:hunter2@h:6379/0") == "redis://:***@h:6379/0"
    assert masked("redis://hunter2@h:6379/0") == "redis://:***@h:6379/0", "a password without its colon"
    assert masked("postgresql://u:hunter2@one:1,two:2/x") == "postgresql://u:***@/x?host=one%2Ctwo&port=1%2C2"
    assert masked("not a url: hunter2") == "***"
    assert masked(None) == "None"
