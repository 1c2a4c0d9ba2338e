"""A write token: how far the primary's write-ahead log was when a write had been committed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from araponga_infra.errors import InvalidArgumentError

__all__ = ["WriteToken", "position_of", "reachable"]

_LSN = re.compile(r"([0-9A-F]{1,8})/([0-9A-F]{1,8})", re.IGNORECASE)
_PAGE = 8192
_SEGMENT = 16 * 1024 * 1024
_PAGE_HEADER, _SEGMENT_HEADER = 24, 40


@dataclass(frozen=True, order=True)
class WriteToken:
    """Carried by a client from its write to its next read, so that the read sees the write.

    Tokens are ordered; `merge` keeps the later of two. The text form is PostgreSQL's own (`16/B374D848`) and fits a
    header or a cookie as it stands.

    Args:
        position: a place in the write-ahead log, in bytes.

    Raises:
        InvalidArgumentError: not a place in a log. A read with a token that no server reaches, since it was made up or
            is from before a restore, is served as one without.

    Examples:
        >>> token = WriteToken.parse("16/B374D848")
        >>> str(token), token > WriteToken.parse("0/1")
        ('16/B374D848', True)
    """

    position: int

    def __post_init__(self) -> None:
        if not isinstance(self.position, int) or not 0 <= self.position < 2**64:
            raise InvalidArgumentError(f"position={self.position!r} is not a place in a write-ahead log")

    @classmethod
    def parse(cls, text: str) -> WriteToken:
        """Read the text form.

        Raises:
            InvalidArgumentError: not a token. `ReplicaSet.read(after=...)` takes a client's text as it is, and ignores
                what is no token.
        """
        if not isinstance(text, str):
            raise InvalidArgumentError(f"text is a {type(text).__name__}: a write token's text looks like 16/B374D848")
        try:
            return cls(position_of(text))
        except ValueError:
            raise InvalidArgumentError("text is not a write token: it looks like 16/B374D848") from None

    def merge(self, other: WriteToken | None) -> WriteToken:
        """The later of both; None stands for "no write"."""
        return self if other is None or other <= self else other

    def __str__(self) -> str:
        return f"{self.position >> 32:X}/{self.position & 0xFFFFFFFF:X}"


def position_of(lsn: str) -> int:
    """PostgreSQL's `pg_lsn` text as a number of bytes.

    Raises:
        ValueError: not one.
    """
    found = _LSN.fullmatch(lsn)
    if found is None:
        raise ValueError("not a log sequence number")
    return int(found[1], 16) << 32 | int(found[2], 16)


def reachable(position: int) -> int:
    """An insert position right behind a page header, as the end of the page before it.

    On an idle primary the insert position may stand there, and a standby reaches it only with the next record that is
    written. Source: PostgreSQL, src/include/access/xlog_internal.h (sizes of the short and the long page header).
    """
    into_page = position % _PAGE
    header = _SEGMENT_HEADER if position % _SEGMENT < _PAGE else _PAGE_HEADER
    return position - into_page if into_page == header else position
