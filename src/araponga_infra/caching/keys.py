"""Keys: what callers name, how parts become one string without ever meeting, and patterns over them.

A rendered key is readable (`territory:42:summary`). Strings and whole numbers stand as they are; what could be
mistaken for another type, or would end a part early, is marked or escaped, so that different parts never give the
same key.
"""

from __future__ import annotations

import datetime
import enum
import functools
import hashlib
import re
from decimal import Decimal
from typing import TypeAlias, Union
from uuid import UUID

from araponga_infra.errors import InvalidArgumentError

__all__ = [
    "CacheKey",
    "KeyPart",
    "Pattern",
    "group_of",
    "key",
    "namespaced",
    "normalized",
    "refuse_surrogates",
    "stored_name",
]

KeyPart: TypeAlias = Union[
    str, int, bool, float, bytes, Decimal, UUID, datetime.date, datetime.time, datetime.timedelta, enum.Enum,
    "tuple[KeyPart, ...]", None,
]  # fmt: skip
CacheKey: TypeAlias = str | tuple[KeyPart, ...]

_LONGEST_NAME = 200
_KEPT_OF_LONG_NAME = 120

_SPECIAL_IN_PART = re.compile(r"[\x00-\x20\x7f-\xa0%:*?\[\]\\{}'(),=#\u2028\u2029\ud800-\udfff]")
_LOOKS_LIKE_ANOTHER_TYPE = re.compile(
    r"-?[0-9]+|true|false|null|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|"
)
_SPECIAL_IN_NAME = re.compile(r"[\x00-\x20\x7f-\xa0*?\[\]\\{}=#\u2028\u2029\ud800-\udfff]")


def key(*parts: KeyPart) -> str:
    """Render parts into one cache key; different parts give different keys.

    Args:
        parts: strings, whole numbers, UUIDs, None, booleans, dates, enums, bytes, decimals, floats, and tuples of
            them. A string that reads like a number, a UUID or a keyword gets a leading quote; separators, spaces,
            control and glob characters in a string are escaped as %XX.

    Raises:
        InvalidArgumentError: no part, or a part of another type.

    Examples:
        >>> key("territory", 42, "summary")
        'territory:42:summary'
        >>> key("territory", "42")
        "territory:'42"
        >>> key("path", "a:b c")
        'path:a%3Ab%20c'
    """
    if not parts:
        raise InvalidArgumentError("key() got no part: name at least one, as in key('territory', 42)")
    return ":".join([_render(part) for part in parts])


def _render(part: KeyPart) -> str:
    kind = type(part)
    if kind is str:
        return _render_text(part)  # type: ignore[arg-type]
    if kind is int:
        return str(part)
    return _render_other(part)


def _render_text(text: str) -> str:
    if _LOOKS_LIKE_ANOTHER_TYPE.fullmatch(text):
        return f"'{text}"
    return _SPECIAL_IN_PART.sub(_percent, text)


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode("utf-8", "surrogatepass"))


def _render_other(part: KeyPart) -> str:
    """A quote follows the name of every type that has no form of its own; in a string it is always escaped."""
    match part:
        case None:
            return "null"
        case bool():
            return "true" if part else "false"
        case enum.Enum():
            return f"{type(part).__name__}'{part.name}"
        case UUID():
            return str(part)
        case tuple():
            return f"({','.join(map(_render, part))})"
        case bytes():
            return f"bytes'{part.hex()}"
        case datetime.datetime() | datetime.date() | datetime.time():
            return f"{type(part).__name__}'{_render_text(part.isoformat())}"
        case datetime.timedelta():
            return f"timedelta'{part // datetime.timedelta(microseconds=1)}"
        case Decimal() | float():
            return f"{type(part).__name__.lower()}'{part}"
        case int() | str():
            return f"{type(part).__name__}'{_render(int(part) if isinstance(part, int) else str(part))}"
        case _:
            raise InvalidArgumentError(
                f"a key part is a {type(part).__name__}: use strings, numbers, UUIDs, dates, enums or tuples of them, "
                "such as the id of the object instead of the object"
            )


def normalized(given: CacheKey) -> str:
    """The string a caller's key means.

    Raises:
        InvalidArgumentError: empty, neither a string nor a tuple, or text that UTF-8 cannot carry.
    """
    if isinstance(given, tuple) and given:
        given = key(*given)
    if not isinstance(given, str) or not given:
        raise InvalidArgumentError(
            f"key={given!r} must be a string with at least one character, as key('territory', 42) makes"
            if isinstance(given, (str, tuple))
            else f"key is a {type(given).__name__}: pass a string, as key('territory', 42) makes"
        )
    if not given.isascii():
        refuse_surrogates(given, "key")
    return given


def refuse_surrogates(text: str, argument: str) -> None:
    """Refuse what no connection can carry, before anything is noted to be sent.

    Raises:
        InvalidArgumentError: the text has half of a surrogate pair, as wrongly decoded input does.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(
            f"{argument}={text!r} has a lone surrogate, which UTF-8 cannot carry: decode the input it came from "
            "with errors='replace', or pass it as a part to key(), which escapes it"
        ) from error


def group_of(name: str) -> str:
    """What stands before the first colon: entries of one group can be forgotten at once. Empty without a colon."""
    return name.partition(":")[0] if ":" in name else ""


def stored_name(name: str) -> str:
    """The form a key takes in Redis: printable, without glob characters, bounded; different keys differ in it.

    What `key()` makes passes unchanged. A name that is too long keeps its beginning and ends in a digest.
    """
    if _SPECIAL_IN_NAME.search(name) is not None:
        name = _SPECIAL_IN_NAME.sub(_equals, name)
    if len(name) > _LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()
        return f"{name[:_KEPT_OF_LONG_NAME]}#{digest}"
    return name


def namespaced(namespace: str) -> str:
    """A namespace that stands in Redis as it is.

    Raises:
        InvalidArgumentError: empty, or with characters that have a meaning in names or patterns.
    """
    if not isinstance(namespace, str) or not namespace or stored_name(namespace) != namespace:
        raise InvalidArgumentError(
            f"namespace={namespace!r} must be at least one character, without spaces and none of *?[]{{}}=#\\"
        )
    return namespace


def _equals(match: re.Match[str]) -> str:
    return "".join(f"={byte:02X}" for byte in match.group().encode("utf-8", "surrogatepass"))


class Pattern:
    """A glob over keys: `*` any run of characters, `?` one, `[abc]` or `[a-c]` one of these, backslash escapes.

    Keys are matched in the form they have in Redis (see `stored_name`), the same on every backend.

    Raises:
        InvalidArgumentError: empty, no string, or text that UTF-8 cannot carry.
    """

    __slots__ = ("_regex", "coarse", "text")

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or not text:
            raise InvalidArgumentError(f"pattern={text!r} must be a string with at least one character")
        refuse_surrogates(text, "pattern")
        self.text: str = text
        tokens = _tokens(text)
        self._regex = re.compile("".join(regex for regex, _ in tokens), re.DOTALL)
        self.coarse: str = re.sub(r"\*+", "*", "".join(glob for _, glob in tokens))
        """The same or wider, in Redis's glob, which counts bytes."""

    def matches(self, name: str) -> bool:
        """Whether a key's stored name matches."""
        return self._regex.fullmatch(name) is not None


_TOKEN = re.compile(r"\\(.)|(\*)|(\?)|\[(\^?)([^\]]+)\]|(.)", re.DOTALL)
_ONE_CHARACTER = r"(?:=[0-7][0-9A-F]|=C2=[0-9A-F]{2}|=E[0-9A-F](?:=[0-9A-F]{2}){2}|[^=])"


@functools.lru_cache(maxsize=256)
def _tokens(text: str) -> tuple[tuple[str, str], ...]:
    """Pairs of a regular expression over stored names and a glob that is no narrower."""
    found: list[tuple[str, str]] = []
    for token in _TOKEN.finditer(text):
        escaped, star, question, negated, members, literal = token.groups()
        if star:
            found.append((".*", "*"))
        elif question:
            found.append((_ONE_CHARACTER, "*"))
        elif members:
            found.append((_member_class(members, is_negated=bool(negated)), "*"))
        else:
            found.append(_literal(escaped or literal))
    return tuple(found)


def _literal(character: str) -> tuple[str, str]:
    stored = _SPECIAL_IN_NAME.sub(_equals, character)
    return re.escape(stored), stored


def _member_class(members: str, *, is_negated: bool) -> str:
    """`[...]` as alternatives, since a special character takes more than one character in a stored name."""
    singles: list[str] = []
    for first, last in re.findall(r"(.)(?:-(.))?", members, re.DOTALL):
        span = range(ord(first), ord(last or first) + 1)
        if len(span) > 256:
            raise InvalidArgumentError(f"pattern has the range {first}-{last}, which spans more than 256 characters")
        singles.extend(_literal(chr(code))[0] for code in span)
    alternatives = "|".join(singles)
    return f"(?!{alternatives}){_ONE_CHARACTER}" if is_negated else f"(?:{alternatives})"
