"""Connection strings in the forms of .NET, read as URLs.

Npgsql: `Host=db;Port=5432;Database=araponga;Username=app;Password=...` (keywords as in Npgsql's documentation,
"Connection String Parameters"). StackExchange.Redis: `host:6379,password=...,ssl=true` (its documentation,
"Configuration").
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote

from sqlalchemy import URL

from araponga_infra.errors import InvalidArgumentError
from araponga_infra.urls import host_and_port

__all__ = ["database_url_from_npgsql", "redis_url_from_stackexchange"]

_PAIR = re.compile(
    r"""\s*(?P<keyword>[^=;]+?)\s*=\s*
        (?: "(?P<double>(?:[^"]|"")*)" | '(?P<single>(?:[^']|'')*)' | (?P<plain>(?!["'])[^;]*?) )\s*(?:;\s*|$)+""",
    re.VERBOSE,
)
_SAME_KEYWORD = {
    "server": "host",
    "userid": "username",
    "user": "username",
    "uid": "username",
    "pwd": "password",
    "db": "database",
}
_QUERY_OF_KEYWORD = {
    "sslmode": "sslmode",
    "rootcertificate": "sslrootcert",
    "sslcertificate": "sslcert",
    "sslkey": "sslkey",
    "timeout": "connect_timeout",
    "applicationname": "application_name",
    "targetsessionattributes": "target_session_attrs",
    "passfile": "passfile",
    "sslpassword": "sslpassword",
    "channelbinding": "channel_binding",
    "options": "options",
}
_READ_KEYWORDS = {"host", "port", "database", "username", "password", "searchpath"}
_CLIENT_KEYWORDS = {
    "pooling", "minpoolsize", "minimumpoolsize", "maxpoolsize", "maximumpoolsize", "connectionidlelifetime",
    "connectionpruninginterval", "connectionlifetime", "commandtimeout", "internalcommandtimeout",
    "cancellationtimeout", "keepalive", "tcpkeepalive", "noresetonclose", "multiplexing", "maxautoprepare",
    "autoprepareminusages", "readbuffersize", "writebuffersize", "includeerrordetail", "logparameters", "enlist",
    "loadbalancehosts", "hostrecheckseconds", "loadtablecomposites", "arraynullabilitymode", "timezone", "encoding",
    "persistsecurityinfo",
}  # fmt: skip
"""What tunes Npgsql's own pool and client and has no meaning here."""
_WORDS = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "targetsessionattributes": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "channelbinding": ("disable", "prefer", "require"),
}
"""What libpq takes; Npgsql writes the same words in any case, some without their dash."""
_TRUE, _FALSE = {"true", "yes", "1"}, {"false", "no", "0"}
_logger = logging.getLogger("araponga_infra.settings")


def database_url_from_npgsql(text: str, *, argument: str) -> str:
    """A PostgreSQL URL from an Npgsql connection string; several hosts become a multi-host URL.

    Keywords that tune Npgsql's own pool and client have no meaning here and are passed over; others that are not known
    are named in a warning.

    Raises:
        InvalidArgumentError: not in that form, or without a host; the message names `argument` and hides the text.
    """
    pairs = dict(_npgsql_pairs(text, argument))
    _warn_of_unknown(pairs, argument)
    hosts = [host.strip() for host in pairs.get("host", "").split(",") if host.strip()]
    if any("=" in host for host in hosts):
        raise _not_npgsql(argument)
    if not hosts:
        raise InvalidArgumentError(f"{argument} names no host: write Host=...;Port=5432;Database=...;Username=...")
    if "password" in pairs and "username" not in pairs:
        raise InvalidArgumentError(
            f"{argument} has a Password but no Username, whose password it would be: add Username=..."
        )
    user, password = pairs.get("username"), pairs.get("password")
    url = URL.create("postgresql", user, password, database=pairs.get("database", user), query=_query(pairs, argument))
    return _at(url, hosts, pairs.get("port", "5432"), argument).render_as_string(hide_password=False)


def _at(url: URL, hosts: Sequence[str], port: str, argument: str) -> URL:
    """Several hosts and the folder of a socket have their place in the query."""
    parts = [(host, "") if host.startswith("/") else host_and_port(host) for host in hosts]
    ports = [_port(own or port, argument) for _, own in parts]
    if len(parts) == 1 and not hosts[0].startswith("/"):
        return url.set(host=parts[0][0], port=ports[0])
    names = ",".join(host for host, _ in parts)
    return url.update_query_dict({"host": names, "port": ",".join(map(str, ports))})


def _query(pairs: Mapping[str, str], argument: str) -> dict[str, str]:
    """
    Raises:
        InvalidArgumentError: a value that libpq would refuse at the first connection.
    """
    query = {
        name: _word(pairs[keyword], keyword, argument) if keyword in _WORDS else pairs[keyword]
        for keyword, name in _QUERY_OF_KEYWORD.items()
        if keyword in pairs
    }
    if not query.get("connect_timeout", "0").isdecimal():
        raise InvalidArgumentError(f"{argument} has a Timeout that is no number of seconds: write Timeout=15")
    if "searchpath" in pairs:
        path = re.sub(r"([\\\s])", r"\\\1", pairs["searchpath"])
        query["options"] = f"{query.get('options', '')} -c search_path={path}".strip()
    return query


def _word(value: str, keyword: str, argument: str) -> str:
    for word in _WORDS[keyword]:
        if value.lower().replace("-", "") == word.replace("-", ""):
            return word
    raise InvalidArgumentError(f"{argument} has a {keyword} that is none: write one of {', '.join(_WORDS[keyword])}")


def _warn_of_unknown(pairs: Mapping[str, str], argument: str) -> None:
    """Keywords that we neither read nor know to be Npgsql's own business may be misspelt, or matter for security."""
    unknown = sorted(pairs.keys() - _READ_KEYWORDS - _QUERY_OF_KEYWORD.keys() - _CLIENT_KEYWORDS)
    if unknown:
        _logger.warning("%s: not understood and passed over: %s", argument, ", ".join(unknown))


def _npgsql_pairs(text: str, argument: str) -> Iterator[tuple[str, str]]:
    position, end = 0, len(text.rstrip("; \t\n"))
    while position < end:
        pair = _PAIR.match(text, position, end)
        if pair is None:
            raise _not_npgsql(argument)
        keyword = pair["keyword"].lower().replace(" ", "").replace("_", "")
        yield _SAME_KEYWORD.get(keyword, keyword), _unquoted(pair)
        position = pair.end()


def _not_npgsql(argument: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{argument} is not an Npgsql connection string: write Host=...;Port=5432;Database=...;Username=...;"
        "Password=..., values with ; or quotes in double quotes"
    )


def _unquoted(pair: re.Match[str]) -> str:
    if pair["double"] is not None:
        return pair["double"].replace('""', '"')
    if pair["single"] is not None:
        return pair["single"].replace("''", "'")
    return pair["plain"]


def redis_url_from_stackexchange(text: str, *, argument: str) -> str:
    """A Redis URL from a StackExchange.Redis configuration string.

    Raises:
        InvalidArgumentError: not in that form, no endpoint or several (a URL has one: hand a client for Sentinel or
            Cluster to `create_cache` instead); the message names `argument` and hides the text.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    endpoints = [part for part in parts if "=" not in part]
    options = {
        name.strip().lower(): value.strip() for name, _, value in (part.partition("=") for part in parts if "=" in part)
    }
    if len(endpoints) != 1 or "servicename" in options:
        raise InvalidArgumentError(
            f"{argument} names {len(endpoints)} endpoints or a Sentinel service, and a URL has one endpoint: "
            "name one host:port, or hand a redis-py client for Sentinel or Cluster to create_cache"
        )
    host, port = _endpoint(endpoints[0], argument)
    is_encrypted = options.get("ssl", "false").lower()
    if is_encrypted not in _TRUE | _FALSE:
        raise InvalidArgumentError(f"{argument} has an ssl that is neither true nor false: write ssl=true or ssl=false")
    scheme = "rediss" if is_encrypted in _TRUE else "redis"
    user, password = quote(options.get("user", ""), safe=""), options.get("password")
    login = f"{user}:{quote(password, safe='')}@" if password else ""
    database = options.get("defaultdatabase", "0")
    if not (database.isascii() and database.isdecimal()):
        raise InvalidArgumentError(f"{argument} has a defaultDatabase that is not a number: write defaultDatabase=0")
    return f"{scheme}://{login}{host}:{port}/{database}"


def _endpoint(endpoint: str, argument: str) -> tuple[str, int]:
    host, port = host_and_port(endpoint)
    if not host or any(mark in host for mark in " /@"):
        raise InvalidArgumentError(f"{argument} begins with no host: write host:6379,password=...,ssl=true")
    return f"[{host}]" if ":" in host else host, _port(port or "6379", argument)


def _port(text: str, argument: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 0 < int(text) < 65536:
        raise InvalidArgumentError(f"{argument} has a port that is not a number from 1 to 65535")
    return int(text)
