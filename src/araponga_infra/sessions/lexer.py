"""SQL text to tokens, as the database itself would cut it.

Only what decides where code ends and a comment or a literal begins is known here; it differs between databases, and a
difference is a way past the guard. Sources: PostgreSQL manual, "4.1. Lexical Structure"; SQLite, "The SQLite Query
Language: tokenize.c" and "SQL Comment Syntax"; MySQL Reference Manual, "11.1.1 String Literals" and "11.7 Comments".
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Literal, NamedTuple, TypeAlias

__all__ = ["Family", "Kind", "Token", "tokenize"]

Kind: TypeAlias = Literal["word", "name", "string", "number", "mark", "broken"]


class Family(Enum):
    """Databases that share a way to cut and to judge SQL. The value is SQLAlchemy's dialect name."""

    POSTGRESQL = "postgresql"
    SQLITE = "sqlite"
    MYSQL = "mysql"


class Token(NamedTuple):
    """`value` of a word is in lower case, of a quoted name or a string without its quotes, else as written."""

    kind: Kind
    value: str


_BEYOND_ASCII = "\x80-\U0010ffff"
_NUMBER = r"(?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?)"
_WORD = rf"(?P<word>[A-Za-z_{_BEYOND_ASCII}][A-Za-z0-9_${_BEYOND_ASCII}]*)"
_DOUBLE_QUOTED_NAME = r'"(?P<name>(?:[^"]|"")*)"'
_PLAIN_STRING = r"'(?P<string>(?:[^']|'')*)'"
_MARK = r"(?P<mark>.)"
_CONTINUED = r"[ \t\f\v]*(?:--[^\n\r]*)?[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*[\n\r])*"
_ESCAPED = r"'(?:[^'\\]|\\.|'')*'"

_PATTERNS = {
    Family.POSTGRESQL: re.compile(
        "|".join(
            (
                r"(?P<space>[ \t\n\r\f\v]+|--[^\n\r]*)",
                r"(?P<comment>/\*)",
                rf"[eE](?P<escaped>{_ESCAPED}(?:{_CONTINUED}{_ESCAPED})*)",
                r'(?P<unicode>[uU]&"(?:[^"]|"")*")',
                rf"(?:[uU]&|[bBxXnN])?{_PLAIN_STRING}",
                rf"\$(?P<tag>(?:[A-Za-z_{_BEYOND_ASCII}][A-Za-z0-9_{_BEYOND_ASCII}]*)?)\$(?P<dollar>.*?)\$(?P=tag)\$",
                _DOUBLE_QUOTED_NAME,
                _WORD,
                _NUMBER,
                _MARK,
            )
        ),
        re.DOTALL,
    ),
    Family.SQLITE: re.compile(
        "|".join(
            (
                r"(?P<space>[ \t\n\r\f]+|--[^\n]*|/\*.*?(?:\*/|\Z))",
                rf"[xX]?{_PLAIN_STRING}",
                _DOUBLE_QUOTED_NAME,
                r"`(?P<backticked>(?:[^`]|``)*)`",
                r"\[(?P<bracketed>[^\]]*)\]",
                _WORD,
                _NUMBER,
                _MARK,
            )
        ),
        re.DOTALL,
    ),
    Family.MYSQL: re.compile(
        "|".join(
            (
                r"(?P<unicode>/\*M?!)",
                r"(?P<space>[ \t\n\r\f\v]+|--(?=[\x00-\x20]|\Z)[^\n]*|#[^\n]*|/\*.*?\*/)",
                r"'(?P<escaped>(?:[^'\\]|\\.|'')*)'",
                r'"(?P<string>(?:[^"\\]|\\.|"")*)"',
                r"`(?P<backticked>(?:[^`]|``)*)`",
                _WORD,
                _NUMBER,
                _MARK,
            )
        ),
        re.DOTALL,
    ),
}

_KINDS: dict[str, Kind] = {
    "word": "word",
    "name": "name",
    "backticked": "name",
    "bracketed": "name",
    "string": "string",
    "escaped": "string",
    "dollar": "string",
    "number": "number",
    "mark": "mark",
    "unicode": "broken",
}
_COMMENT_EDGE = re.compile(r"/\*|\*/")


def tokenize(text: str, family: Family) -> list[Token]:
    """Cut `text` into tokens without comments and white space.

    What has no end (a quote, a comment) and what cannot be read without running it (MySQL's executable comments,
    PostgreSQL's names spelled in Unicode escapes) comes out as one `broken` token.
    """
    match = _PATTERNS[family].match
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        found = match(text, position)
        if found is None:  # pragma: no cover - `mark` takes any character
            break
        position = found.end()
        group = found.lastgroup or "mark"
        if group == "space":
            continue
        if group == "comment":
            position = _end_of_nested_comment(text, position)
            if position < 0:
                return [*tokens, Token("broken", "/*")]
            continue
        tokens.append(_token(_KINDS[group], found.group(group)))
    return tokens


def _token(kind: Kind, value: str) -> Token:
    if kind == "word":
        return Token("word", value.lower())
    if kind == "mark" and value in "'\"`":
        return Token("broken", value)
    return Token(kind, value)


def _end_of_nested_comment(text: str, position: int) -> int:
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(text, position)
        if edge is None:
            return -1
        depth += 1 if edge.group() == "/*" else -1
        position = edge.end()
    return position
