"""A statement without its values: the same text for the same question, whoever asks and whatever for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

__all__ = ["numbered_placeholders", "parameter_shapes", "statement_shape"]

_LONGEST_SHAPE = 4_000
_MOST_PARAMETERS = 100

_TEXT = r"""
    \b[eE]'(?:[^'\\]|\\.|'')*(?:'|$)                   # E'...', where a backslash escapes
  | (?:\b(?:[nNbBxX]|[uU]&))?'(?:[^']|'')*(?:'|$)      # '...', N'...', B'...', X'...', U&'...'
  | \$(?P<tag>[A-Za-z_]\w*|)\$.*?(?:\$(?P=tag)\$|$)    # $tag$...$tag$
"""
_MYSQL_TEXT = r"""(?:\b[nNbBxX])?(?:'(?:[^'\\]|\\.|'')*(?:'|$) | "(?:[^"\\]|\\.|"")*(?:"|$))"""
_DOUBLE_QUOTED = r'"(?:[^"]|"")*(?:"|$)'
_BACKTICKED = r"`(?:[^`]|``)*(?:`|$)"
_COMMENT = r"--[^\n]* | /\*.*?(?:\*/|$)"
_MYSQL_COMMENT = rf"{_COMMENT} | \#[^\n]*"
_PLACEHOLDER = r"%\([^)]*\)s | %s | \?\d* | \$\d+ | (?<![:\w]):\w+"
_NUMBER = r"(?<![\w$.])(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w$])"


def _pattern(*, comment: str, text: str, identifier: str) -> re.Pattern[str]:
    return re.compile(
        rf"(?P<comment>{comment}) | (?P<identifier>{identifier}) | (?P<value>{text} | {_PLACEHOLDER} | {_NUMBER})",
        re.VERBOSE | re.DOTALL,
    )


_COMPILED = _pattern(comment=_COMMENT, text=_TEXT, identifier=f"{_DOUBLE_QUOTED} | {_BACKTICKED}")
_MYSQL = _pattern(comment=_MYSQL_COMMENT, text=_MYSQL_TEXT, identifier=_BACKTICKED)
_SQLITE_BY_HAND = _pattern(comment=_COMMENT, text=f"{_TEXT} | {_DOUBLE_QUOTED}", identifier=_BACKTICKED)

_SPACES = re.compile(r"\s+")
_ONE = r"\?(?:::\w+(?:\([^()]*\))?)?"
_LIST = re.compile(rf"(?i:(\bIN)) ?\( ?{_ONE}(?: ?, ?{_ONE})+ ?\)")
_ROWS = re.compile(r"(\([^()]*\?[^()]*\))(?: ?, ?\1)+")


@lru_cache(maxsize=1024)
def statement_shape(sql: str, *, dialect: str = "", is_by_hand: bool = True) -> str:
    """The statement with `?` for every literal and parameter, comments dropped, lists of them shortened.

    Args:
        sql: the text as the driver gets it, with placeholders of any style.
        dialect: SQLAlchemy's name of the database, which decides what a double quote and a backslash mean.
        is_by_hand: somebody wrote the text. In SQLite, `"..."` in such a text may be a string.

    Examples:
        >>> statement_shape("SELECT * FROM post WHERE id IN (1, 2, 3) AND title = 'Feira' -- by ana")
        'SELECT * FROM post WHERE id IN (?, ...) AND title = ?'
    """
    if dialect in {"mysql", "mariadb"}:
        pattern = _MYSQL
    else:
        pattern = _SQLITE_BY_HAND if dialect == "sqlite" and is_by_hand else _COMPILED
    shape = _SPACES.sub(" ", pattern.sub(_without_value, sql)).strip()
    shape = _ROWS.sub(r"\1, ...", _LIST.sub(r"\1 (?, ...)", shape))
    return shape if len(shape) <= _LONGEST_SHAPE else f"{shape[:_LONGEST_SHAPE]} ..."


def _without_value(token: re.Match[str]) -> str:
    if token["comment"] is not None:
        return " "
    return token["identifier"] or "?"


_BY_STYLE = {
    "pyformat": r"%\([^)]*\)s | %s",
    "format": "%s",
    "qmark": r"\?",
    "numeric_dollar": r"\$\d+",
    "named": r"(?<![:\w]):\w+",
}


def numbered_placeholders(sql: str, *, style: str, prefix: str) -> tuple[str, int]:
    """The statement with placeholders `$1`, `$2` (or another prefix), the same one for the same name, and their count.

    Args:
        sql: the text as it went to the driver.
        style: the driver's `paramstyle`.
        prefix: what the numbers follow.

    Examples:
        >>> numbered_placeholders("SELECT '%%' WHERE a = %(a)s OR b = %(b)s OR c = %(a)s", style="pyformat", prefix="$")
        ("SELECT '%' WHERE a = $1 OR b = $2 OR c = $1", 2)
    """
    numbers: dict[str, int] = {}

    def numbered(token: re.Match[str]) -> str:
        placeholder = token["placeholder"]
        if placeholder is None:
            return token[0]
        name = placeholder if placeholder not in {"?", "%s"} else f"{placeholder}{len(numbers)}"
        return f"{prefix}{numbers.setdefault(name, len(numbers) + 1)}"

    result = _placeholder_pattern(style).sub(numbered, sql)
    return (result.replace("%%", "%") if "format" in style else result), len(numbers)


@lru_cache
def _placeholder_pattern(style: str) -> re.Pattern[str]:
    untouched = f"{_COMMENT} | {_DOUBLE_QUOTED} | {_BACKTICKED} | {_TEXT}"
    return re.compile(rf"(?P<other>{untouched}) | (?P<placeholder>{_BY_STYLE[style]})", re.VERBOSE | re.DOTALL)


def parameter_shapes(parameters: Any, *, is_many: bool) -> tuple[tuple[str, ...], int]:
    """The types of one set of parameters, and how many sets there are."""
    if is_many:
        return (_types(parameters[0]) if parameters else ()), len(parameters)
    return _types(parameters), 1


def _types(parameters: Any) -> tuple[str, ...]:
    if not parameters:
        return ()
    is_named = isinstance(parameters, Mapping)
    values = list(cast("Mapping[str, Any]", parameters).values() if is_named else cast("Sequence[Any]", parameters))
    types = tuple(_type(value) for value in values[:_MOST_PARAMETERS])
    return types if len(values) <= _MOST_PARAMETERS else (*types, f"... {len(values)} in all")


def _type(value: Any) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        return f"{name}[{len(cast('Sequence[Any]', value))}]"
    return name
