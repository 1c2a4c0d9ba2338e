"""The last slow statements and N+1 that requests of this instance had, for people to look at."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from araponga_infra import Record
from araponga_infra.queries import NPlusOneFound, SlowStatementFound

from ..domain import now

MOST = 10


@dataclass(frozen=True)
class Finding:
    at: datetime
    what: str
    shape: str
    place: str


class RecentFindings:
    """An observer. The newest come first."""

    def __init__(self) -> None:
        self._kept: deque[Finding] = deque(maxlen=MOST)

    def observe(self, record: Record) -> None:
        match record:
            case NPlusOneFound():
                what = f"{record.times} times ({record.origin})"
            case SlowStatementFound():
                what = f"{record.seconds:.2f} s"
            case _:
                return
        place = f"{record.file}:{record.line} in {record.function}" if record.file else ""
        self._kept.appendleft(Finding(now(), what, record.shape, place))

    def __iter__(self) -> Iterator[Finding]:
        return iter(tuple(self._kept))
