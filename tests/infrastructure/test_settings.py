from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url

from araponga_infra import InvalidArgumentError
from araponga_infra.connection_strings import database_url_from_npgsql
from araponga_infra.settings import InfraSettings


def test_nothing_set_names_nothing() -> None:
    assert InfraSettings.from_env({}) == InfraSettings()
    assert InfraSettings.from_env({}, embedded=True) == InfraSettings.embedded()


def test_embedded_gives_way_to_a_named_database() -> None:
    settings = InfraSettings.from_env({"ARAPONGA_DATABASE_URL": "sqlite:///x.db"}, embedded=True)
    assert (settings.database_url, settings.is_embedded) == ("sqlite:///x.db", False)


def test_the_environment_in_our_names() -> None:
    settings = InfraSettings.from_env({
        "ARAPONGA_DATABASE_URL": "postgresql://u@primary/x",
        "ARAPONGA_DATABASE_READONLY_URL": "postgresql://u@one/x, postgresql://u@two/x",
        "ARAPONGA_REDIS_URL": "redis://cache:6379/0",
        "ARAPONGA_DATABASE_POOL_SIZE": " 8 ",
    })  # fmt: skip
    assert settings.database_pool_size == 8
    assert settings.database_url == "postgresql://u@primary/x"
    assert settings.database_readonly_urls == ("postgresql://u@one/x", "postgresql://u@two/x")
    assert settings.redis_url == "redis://cache:6379/0"


def test_the_environment_in_the_names_of_the_system_it_comes_from() -> None:
    settings = InfraSettings.from_env({
        "ConnectionStrings__Postgres": 'Host=db;Port=5433;Database=x;User Id=u;Password="a;b""c";SSL Mode=VerifyFull',
        "ConnectionStrings__PostgresReadOnly": "server=one,two:6000;username=u;Pooling=true",
        "ConnectionStrings__Redis": "cache:6380,user=app,password=p@ss,ssl=true,defaultDatabase=2,abortConnect=false",
    })  # fmt: skip
    assert settings.database_url == "postgresql://u:a%3Bb%22c@db:5433/x?sslmode=verify-full"
    [replica] = settings.database_readonly_urls
    assert make_url(replica).query["host"] == ("one:5432", "two:6000")
    assert settings.redis_url == "rediss://app:p%40ss@cache:6380/2"


def test_our_names_win() -> None:
    settings = InfraSettings.from_env({"ARAPONGA_REDIS_URL": "redis://ours", "ConnectionStrings__Redis": "theirs:6379"})
    assert settings.redis_url == "redis://ours"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ARAPONGA_DATABASE_URL", "hunter2"),
        ("ARAPONGA_REDIS_URL", "http://u:hunter2@h"),
        ("ARAPONGA_REDIS_URL", "redis://u:hunter2@h:port/0"),
        ("ConnectionStrings__Postgres", "Host=h;Password=hunter2;nonsense"),
        ("ConnectionStrings__Postgres", "Password=hunter2;Username=u"),
        ("ConnectionStrings__Postgres", "Host=h;Port=many;Password=hunter2"),
        ("ConnectionStrings__Postgres", "Host=h;Database=d;Password=hunter2"),
        ("ConnectionStrings__Redis", "password=hunter2"),
        ("ConnectionStrings__Redis", "one:1,password=hunter2,ssl=maybe"),
        ("ConnectionStrings__Redis", "one:1,two:2,password=hunter2"),
        ("ConnectionStrings__Redis", "one:1,serviceName=m,password=hunter2"),
        ("ConnectionStrings__Redis", "one:99999,password=hunter2"),
        ("ConnectionStrings__Redis", "one:1,defaultDatabase=hunter2"),
        ("ARAPONGA_DATABASE_READONLY_URL", "postgresql://u:hunter2@h/x"),
        ("ARAPONGA_DATABASE_POOL_SIZE", "hunter2"),
        ("ARAPONGA_DATABASE_POOL_SIZE", "0"),
        ("ARAPONGA_DATABASE_POOL_SIZE", "-5"),
    ],
)
def test_a_malformed_value_names_its_variable_and_hides_itself(variable: str, value: str) -> None:
    with pytest.raises(InvalidArgumentError, match=variable) as raised:
        InfraSettings.from_env({variable: value})
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"database_url": "hunter2"},
        {"redis_url": "hunter2"},
        {"database_url": "sqlite://", "database_readonly_urls": "hunter2"},
        {"database_url": "sqlite://", "database_readonly_urls": ("hunter2",)},
        {"database_readonly_urls": ("sqlite:///hunter2",)},
        {"database_readonly_urls": None},
        {"database_url": "http://hunter2"},
        {"database_url": "sqlite:///hunter2", "is_embedded": True},
        {"database_pool_size": "hunter2"},
        {"database_pool_size": 0},
        {"database_pool_size": True},
    ],
)
def test_malformed_arguments_are_refused(arguments: dict[str, str]) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        InfraSettings(**arguments)  # type: ignore[arg-type]
    assert "hunter2" not in str(raised.value)


def test_the_environment_is_a_mapping() -> None:
    with pytest.raises(InvalidArgumentError, match="environ is a list"):
        InfraSettings.from_env([])  # type: ignore[arg-type]


def test_a_keyword_nobody_knows_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    text = "Host=h;Username=u;Maximum Pool Size=9;Sssl Mode=Require;Password=hunter2"
    assert database_url_from_npgsql(text, argument="x") == "postgresql://u:hunter2@h:5432/u"
    assert caplog.messages == ["x: not understood and passed over: ssslmode"]


def test_the_repr_hides_every_password() -> None:
    settings = InfraSettings(
        "postgresql://u:hunter2@h/x?password=hunter2", ("postgresql://u:hunter2@r/x",), "redis://:hunter2@c/0"
    )
    assert "hunter2" not in repr(settings)
    assert "u:***@h/x" in repr(settings)


_VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=20)


@given(user=_VALUES, password=_VALUES, database=_VALUES)
def test_every_quoted_value_survives_the_npgsql_form(user: str, password: str, database: str) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace('"', '""') + '"'

    text = f"Host=h;Username={quoted(user)};Password={quoted(password)};Database={quoted(database)}"
    url = make_url(database_url_from_npgsql(text, argument="x"))
    assert (url.username, url.password, url.database) == (user, password, database)
