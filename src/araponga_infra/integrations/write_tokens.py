"""The write token's way to the client and back, and whether a request has written at all."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from weakref import ref

from sqlalchemy import Connection, Engine, event

from araponga_infra.clock import Duration, to_seconds
from araponga_infra.errors import InvalidArgumentError
from araponga_infra.sessions import WriteToken

__all__ = ["DEFAULT_COOKIE", "DEFAULT_HEADER", "RequestWrites", "TokenCarrier", "note_commits", "track_writes"]

DEFAULT_COOKIE = "araponga_write_token"
DEFAULT_HEADER = "Araponga-Write-Token"
_NAME_CHARACTERS = frozenset("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


@dataclass(frozen=True)
class TokenCarrier:
    """In which cookie and which header a client carries its write token.

    The cookie is for browsers, which send it back by themselves; the header is for clients that keep no cookies. A
    request that brings both is taken at its header's word.
    """

    cookie: str
    header: str
    max_age_seconds: int

    @classmethod
    def checked(cls, cookie: str, header: str, max_age: Duration) -> TokenCarrier:
        """
        Raises:
            InvalidArgumentError: a name that HTTP does not allow, or no duration.
        """
        for argument, name in (("write_token_cookie", cookie), ("write_token_header", header)):
            if not isinstance(name, str) or not name or not _NAME_CHARACTERS.issuperset(name):
                raise InvalidArgumentError(f"{argument}={name!r} is not a name for HTTP: use letters and dashes")
        seconds = to_seconds(max_age, "write_token_max_age", allow_zero=False)
        return cls(cookie, header, max(1, round(seconds)))

    def set_cookie(self, token: WriteToken, *, is_secure: bool) -> str:
        """The value of Set-Cookie. Out of reach of scripts, and sent along when a link leads here from elsewhere."""
        value = f"{self.cookie}={token}; Max-Age={self.max_age_seconds}; Path=/; HttpOnly; SameSite=Lax"
        return f"{value}; Secure" if is_secure else value


class RequestWrites:
    """Whether a request has committed something on the primary since the last token was taken.

    A request that is made within another one, on an application of the same process, commits for both.
    """

    __slots__ = ("__weakref__", "_around", "is_committed")

    def __init__(self, around: RequestWrites | None = None) -> None:
        self.is_committed: bool = False
        self._around = None if around is None else ref(around)

    def note(self) -> None:
        """Something was committed."""
        self.is_committed = True
        around = None if self._around is None else self._around()
        if around is not None:
            around.note()

    def take(self) -> bool:
        """Whether a token is due now; asked again, only what is committed from here on counts."""
        was_committed = self.is_committed
        self.is_committed = False
        return was_committed


_current: ContextVar[RequestWrites | None] = ContextVar("araponga_infra_request_writes", default=None)


def track_writes() -> RequestWrites:
    """From here on, note what this thread or task commits, and those that it starts.

    There is no end to it: the next request starts with a record of its own, and a record that nobody asks is harmless.
    """
    writes = RequestWrites(_current.get())
    _current.set(writes)
    return writes


def note_commits(engine: Engine) -> None:
    """From now on, each COMMIT on `engine` counts for the request that it happens in.

    On the engine rather than on sessions, so that units of work, plain sessions, Core connections and published events
    all count. The engine announces a COMMIT before it is sent; the token is taken later, when the response starts.
    """
    for name in ("commit", "commit_twophase"):
        listener = _note_commit if name == "commit" else _note_twophase
        if not event.contains(engine, name, listener):
            event.listen(engine, name, listener)


def _note_commit(_connection: Connection) -> None:
    if (writes := _current.get()) is not None:
        writes.note()


def _note_twophase(connection: Connection, _xid: object, _is_prepared: bool) -> None:
    _note_commit(connection)
