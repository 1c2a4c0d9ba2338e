"""Which line of the host's own code is behind a statement, and which session."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import greenlet
import sqlalchemy
from sqlalchemy.orm import Session

from araponga_infra.queries.values import CallSite

__all__ = ["Caller", "find_caller"]


class Caller(NamedTuple):
    """Who sent a statement."""

    site: CallSite | None
    """The innermost line of the host's code."""

    path: int
    """A hash of every call on the stack as its code and instruction: in one loop they are the same, recursion folds."""

    session: Session | None


_OURS = str(Path(__file__).parents[1])
_INTERNAL = (_OURS, str(Path(sqlalchemy.__file__).parent), str(Path(greenlet.__file__).parent))
_STANDARD_LIBRARY = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})
_INSTALLED = ("/site-packages/", "/dist-packages/", "\\site-packages\\")

_HOST, _LIBRARY, _INTERNAL_CODE = 2, 1, 0
_kinds: dict[str, int] = {}


_SESSION_EXECUTE = getattr(Session, "_execute_internal", Session.execute).__code__


def find_caller() -> Caller:
    """Walk the stack outwards.

    Code under site-packages is taken for the host's only where nothing else is on the stack, as in a service that
    is itself installed as a package. The stack goes on in the greenlet that waits for this one: SQLAlchemy's asyncio
    code runs in a greenlet of its own.
    """
    host: list[FrameType] = []
    libraries: list[FrameType] = []
    session: Session | None = None
    frame: FrameType | None = sys._getframe(1)
    current: greenlet.greenlet | None = greenlet.getcurrent()
    while current is not None:
        while frame is not None:
            code = frame.f_code
            kind = _kinds.get(code.co_filename)
            if kind is None:
                kind = _kinds[code.co_filename] = _kind(code.co_filename)
            if kind == _HOST:
                host.append(frame)
            elif kind == _LIBRARY and not host:
                libraries.append(frame)
            elif code is _SESSION_EXECUTE and session is None:
                session = frame.f_locals.get("self")
            frame = frame.f_back
        current = current.parent
        frame = None if current is None else current.gr_frame
    path = host or libraries
    if not path:
        return Caller(None, 0, session)
    inner = path[0]
    site = CallSite(inner.f_code.co_filename, inner.f_lineno, inner.f_code.co_qualname)
    return Caller(site, hash(frozenset([(id(frame.f_code), frame.f_lasti) for frame in path])), session)


def _kind(file: str) -> int:
    if file.startswith(("<frozen", "<attrs", *_INTERNAL)):
        return _INTERNAL_CODE
    if any(part in file for part in _INSTALLED):
        return _LIBRARY
    return _INTERNAL_CODE if file.startswith(_STANDARD_LIBRARY) else _HOST
