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
    ],
)
def test_what_cannot_be_meant_is_refused_and_never_repeated(url: str, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said) as raised:
        database_url(url)
    assert "hunter2" not in str(raised.value)
    assert "ss-hunter2" not in masked(url)


def test_masked_hides_passwords_wherever_they_stand() -> None:
    assert masked("postgresql://u:hunter2@h:5432/x?password=hunter2&sslmode=require") == (
        "postgresql://u:***@h:5432/x?sslmode=require"
    )
    assert masked("redis://:hunter2@h:6379/0") == "redis://:***@h:6379/0"
    assert masked("not a url: hunter2") == "***"
    assert masked(None) == "None"
