"""What clients were told of their writes, and what must then be true of the database."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Answer", "Edit", "Ledger", "Outcome", "Row"]

_SAVES_NOTHING = "unavailable"
"""The code of a 503 that says so; any other one, and a 502 or 504 of the load balancer, leaves it open."""


class Outcome(Enum):
    """What a client knows of its write."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Answer:
    """One request as its client saw it.

    Attributes:
        kind: method and path, without numbers.
        started: on the clock of the run.
        status: None when the connection was lost or nothing came in time.
        instance: who answered; empty for the load balancer.
        code: of the problem document, if it was one.
    """

    kind: str
    started: float
    seconds: float
    status: int | None
    instance: str = ""
    code: str = ""

    @property
    def is_read(self) -> bool:
        return self.kind.startswith("GET")

    @property
    def has_failed(self) -> bool:
        """Not what the client did wrong, nor that somebody was faster."""
        return self.status is None or self.status >= 500

    @property
    def ended(self) -> float:
        return self.started + self.seconds

    @property
    def outcome(self) -> Outcome:
        if self.status is None:
            return Outcome.UNKNOWN
        if self.status < 300:
            return Outcome.ACKNOWLEDGED
        if self.status < 500 or (self.status == 503 and self.code == _SAVES_NOTHING):
            return Outcome.REFUSED
        return Outcome.UNKNOWN


@dataclass(frozen=True, slots=True)
class Edit:
    """A change with If-Match: of which row, from which version, to what, and the version it was told it made."""

    seen: int
    value: object
    outcome: Outcome
    made: int | None


@dataclass(frozen=True, slots=True)
class Row:
    version: int
    value: object


@dataclass
class Ledger:
    """Written by all clients of one event loop.

    Attributes:
        posts: by title, which no two share.
        likes: by post, how many of each outcome.
        edits: by path of the row.
        stale: reads that showed less than the same client had written before.
        followed: (who took a write, who then answered its client's read) and how often.
        without_token: acknowledged writes whose response carried no write token.
    """

    posts: dict[str, Outcome] = field(default_factory=dict)
    likes: defaultdict[int, Counter[Outcome]] = field(default_factory=lambda: defaultdict(Counter))
    edits: defaultdict[str, list[Edit]] = field(default_factory=lambda: defaultdict(list))
    stale: list[str] = field(default_factory=list)
    followed: Counter[tuple[str, str]] = field(default_factory=Counter)
    without_token: int = 0

    def wrong_posts(self, titles: Sequence[str]) -> list[str]:
        """Acknowledged and lost, refused and there, or there twice."""
        there = Counter(titles)
        return [
            *(f"lost: {title}" for title in self._posts(Outcome.ACKNOWLEDGED) if not there[title]),
            *(f"refused, but saved: {title}" for title in self._posts(Outcome.REFUSED) if there[title]),
            *(f"saved {count} times: {title}" for title, count in there.items() if count > 1),
        ]

    def wrong_likes(self, counted: Mapping[int, int]) -> list[str]:
        """Fewer than were acknowledged, or more than the unknown ones explain."""
        wrong: list[str] = []
        for post, outcomes in self.likes.items():
            least = outcomes[Outcome.ACKNOWLEDGED]
            most = least + outcomes[Outcome.UNKNOWN]
            if not least <= counted[post] <= most:
                wrong.append(f"post {post} has {counted[post]} likes, not {least} to {most}")
        return wrong

    def wrong_edits(self, rows: Mapping[str, Row]) -> list[str]:
        return [wrong for path, edits in self.edits.items() for wrong in _wrong_history(path, edits, rows[path])]

    def unknown(self) -> int:
        """How many writes had an outcome that nobody was told."""
        edits = sum(edit.outcome is Outcome.UNKNOWN for edits in self.edits.values() for edit in edits)
        likes = sum(outcomes[Outcome.UNKNOWN] for outcomes in self.likes.values())
        return edits + likes + len(self._posts(Outcome.UNKNOWN))

    def acknowledged(self) -> int:
        edits = sum(edit.outcome is Outcome.ACKNOWLEDGED for edits in self.edits.values() for edit in edits)
        likes = sum(outcomes[Outcome.ACKNOWLEDGED] for outcomes in self.likes.values())
        return edits + likes + len(self._posts(Outcome.ACKNOWLEDGED))

    def _posts(self, wanted: Outcome) -> list[str]:
        return [title for title, outcome in self.posts.items() if outcome is wanted]


def _wrong_history(path: str, edits: Sequence[Edit], row: Row) -> Iterator[str]:
    """Each version was made by exactly one edit: one that was acknowledged, or one whose client was not told so.

    The latter includes 409 and 412: the load balancer repeats a PUT when the instance that it sent it to dies, and what
    the first one saved makes the second one late.
    """
    acknowledged: dict[int, Edit] = {}
    for edit in edits:
        if edit.outcome is Outcome.ACKNOWLEDGED:
            assert edit.made is not None
            if edit.made in acknowledged:
                yield f"{path}: two clients were told that they made version {edit.made}"
            if edit.made != edit.seen + 1:
                yield f"{path}: an edit of version {edit.seen} made version {edit.made}"
            acknowledged[edit.made] = edit
    for version in range(2, row.version + 1):
        if version not in acknowledged and not _may_have_made(version, edits):
            yield f"{path}: nobody made version {version}"
    if lost := [version for version in acknowledged if version > row.version]:
        yield f"{path}: version {row.version} is behind the acknowledged {max(lost)}"
    last = acknowledged.get(row.version)
    values = [last.value] if last else [edit.value for edit in _may_have_made(row.version, edits)]
    if row.version > 1 and row.value not in values:
        yield f"{path}: version {row.version} is {row.value!r}, not {values}"


def _may_have_made(version: int, edits: Sequence[Edit]) -> list[Edit]:
    return [edit for edit in edits if edit.outcome is not Outcome.ACKNOWLEDGED and edit.seen == version - 1]
