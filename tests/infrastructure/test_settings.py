from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from sqlalchemy import make_url
from sqlalchemy import text as sql

from araponga_infra import Infrastructure, InvalidArgumentError
from araponga_infra.connection_strings import database_url_from_npgsql, redis_url_from_stackexchange
from araponga_infra.settings import InfraSettings
from tests.servers import PostgresDatabase


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
    assert make_url(replica).query == {"host": "one,two", "port": "5432,6000"}
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
        ("ConnectionStrings__Redis", "one:1,defaultDatabase=\u0661,password=hunter2"),
        ("ConnectionStrings__Redis", "unix:/run/redis.sock,password=hunter2"),
        ("ConnectionStrings__Postgres", "Host=h:many;Username=u;Password=hunter2"),
        ("ConnectionStrings__Postgres", "Host=h;Username=u;Password='hunter2"),
        ("ConnectionStrings__Postgres", 'Host=h;Username=u;Password="hunter2"!'),
        ("ConnectionStrings__Postgres", "Host=h;Username=u;Password=hunter2;SSL Mode=Sometimes"),
        ("ConnectionStrings__Postgres", "Host=h;Username=u;Password=hunter2;Target Session Attributes=prefer-primary"),
        ("ConnectionStrings__Postgres", "Host=h;Username=u;Password=hunter2;Timeout=soon"),
        ("ConnectionStrings__Postgres", "host=h user=u password=hunter2 dbname=x"),
        ("ARAPONGA_DATABASE_URL", "host=h user=u password=hunter2 dbname=x"),
        ("ARAPONGA_DATABASE_URL", "postgresql://u:hunter2@h h/x"),
        ("ARAPONGA_DATABASE_URL", "postgresql://u:hunter2@one,,two/x"),
        ("ARAPONGA_DATABASE_URL", "sqlite://hunter2.db"),
        ("ARAPONGA_REDIS_URL", "redis://:hunter2@h/zero"),
        ("ARAPONGA_REDIS_URL", "redis://:hunter2/@h/0"),
        ("ARAPONGA_REDIS_URL", "redis://:hunter2@h?socket_timeout=soon"),
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


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("Host=h;;Username=u; ;Database=d;", "postgresql://u@h:5432/d"),
        ("Host=h:5433;Username=u", "postgresql://u@h:5433/u"),
        ("Host=::1;Username=u", "postgresql://u@[::1]:5432/u"),
        ("Host=[::1]:5433;Username=u", "postgresql://u@[::1]:5433/u"),
        ("Host=/run/pg;Username=u", "postgresql://u@/u?host=%2Frun%2Fpg&port=5432"),
        ("Host=::1,[::2]:6000,h;Username=u", "postgresql://u@/u?host=%3A%3A1%2C%3A%3A2%2Ch&port=5432%2C6000%2C5432"),
        ("Host=h;Username=u;SslMode=verifyCA;Target Session Attributes=PreferStandby",
         "postgresql://u@h:5432/u?sslmode=verify-ca&target_session_attrs=prefer-standby"),
        ("Host=h;Username=u;Options=-c a=b;Search Path=app,public",
         "postgresql://u@h:5432/u?options=-c+a%3Db+-c+search_path%3Dapp%2Cpublic"),
    ],
)  # fmt: skip
def test_the_npgsql_form(text: str, url: str) -> None:
    assert database_url_from_npgsql(text, argument="x") == url


def test_a_connection_string_of_several_hosts_connects(postgres_database: PostgresDatabase) -> None:
    server, closed = postgres_database.server, "127.0.0.1:1"
    text = f"Host={closed},127.0.0.1;Port={server.port};Username=araponga;Search Path=app, public;"
    settings = InfraSettings.from_env({"ConnectionStrings__Postgres": text + f"Database={postgres_database.name}"})
    with Infrastructure(settings) as infra, infra.read() as session:
        assert session.scalar(sql("SHOW search_path")) == "app, public"


@pytest.mark.parametrize(("text", "url"), [("::1", "redis://[::1]:6379/0"), ("[::1]:7000", "redis://[::1]:7000/0")])
def test_the_stackexchange_form_of_ipv6(text: str, url: str) -> None:
    assert redis_url_from_stackexchange(text, argument="x") == url


def test_a_comma_between_hosts_is_none_between_replicas() -> None:
    settings = InfraSettings.from_env({
        "ARAPONGA_DATABASE_URL": "postgresql://primary/x",
        "ARAPONGA_DATABASE_READONLY_URL": "postgresql://u:a,b@one,two:6000/x?sslmode=require, postgresql://three/x,",
    })  # fmt: skip
    assert settings.database_readonly_urls == (
        "postgresql://u:a,b@one,two:6000/x?sslmode=require", "postgresql://three/x",
    )  # fmt: skip


@pytest.mark.parametrize("separator", [" ", ";", "\n"])
def test_replicas_without_a_comma_between_them_are_refused(separator: str) -> None:
    environ = {"ARAPONGA_DATABASE_URL": "postgresql://primary/x"}
    environ["ARAPONGA_DATABASE_READONLY_URL"] = f"postgresql://one/x{separator}postgresql://two/x"
    with pytest.raises(InvalidArgumentError, match="ARAPONGA_DATABASE_READONLY_URL has several URLs without a comma"):
        InfraSettings.from_env(environ)


class _HostSettings(BaseModel):
    infra: InfraSettings


@pytest.mark.parametrize(
    "given",
    [
        {"database_url": "hunter2"},
        {"database_url": "sqlite://", "hunter2": 1},
        {"database_readonly_urls": "hunter2"},
        "postgresql://u:hunter2@h/x",
    ],
)
def test_no_error_of_pydantic_quotes_what_it_was_given(given: object) -> None:
    with pytest.raises(ValidationError) as raised:
        _HostSettings.model_validate({"infra": given})
    assert "hunter2" not in str(raised.value)


def test_a_field_of_a_pydantic_model() -> None:
    read = _HostSettings.model_validate({"infra": {"redis_url": "redis://:hunter2@h"}})
    assert read.infra == InfraSettings(redis_url="redis://:hunter2@h")
    assert _HostSettings(infra=read.infra) == read
    assert "hunter2" not in repr(read)


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
