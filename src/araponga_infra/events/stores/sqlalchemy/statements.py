"""The statements whose shape decides the speed of the SQL store, for PostgreSQL and for SQLite.

Claims take the head of each handler's own index range and lock it with SKIP LOCKED (PostgreSQL manual, "SELECT", The
Locking Clause), so that their cost does not grow with what waits behind. They begin at a floor, so that it does not
grow with what is long done either, as long as somebody's old snapshot keeps that in the index.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, CursorResult, Dialect, TextClause, text

from araponga_infra.events.stores.sqlalchemy.tables import EventTables

__all__ = ["Compiled", "PostgresStatements", "SqliteStatements", "Statements", "statements_for"]

_PENDING = "state IN ('available', 'retryable')"
_HELD_BY_OWNER = "owner = :owner AND state || '' = 'running'"
"""For a row that is found by its id. Not as the index of running rows has it: that one would be taken, since few rows
run, and all that ran since the last vacuum would be looked at."""
_WAITS_AS_SUSPECT = "suspect AND state || '' IN ('available', 'retryable')"
"""Not as the index of what waits has it, which SQLite would take, since it cannot know that few are suspects."""
RELAX = "set_config('synchronous_commit', 'off', true)"
"""For the rest of the transaction, COMMIT does not wait for the disk."""
HURRY = "set_config('idle_in_transaction_session_timeout', '1500', true)"
"""The rest of the transaction is given up by the server, locks and all, when its client is silent for so long."""
_CLAIMED = (
    "id, handler, event_id, name, version, payload, headers, published_at, attempts, losses, ordering_key, claims"
    ", due_at"
)


class Compiled:
    """A statement on a hot path: written for its driver once, which SQLAlchemy would look up at every execution.

    It takes and gives what the driver does, so that it suits texts with casts around their parameters.
    """

    __slots__ = ("_places", "_sql")

    def __init__(self, sql: str, dialect: Dialect) -> None:
        compiled: Any = text(sql).compile(dialect=dialect)
        self._sql: str = compiled.string
        self._places: list[str] | None = compiled.positiontup

    def __call__(self, connection: Connection, values: Mapping[str, Any]) -> CursorResult[Any]:
        if self._places is None:
            return connection.exec_driver_sql(self._sql, {**values})
        return connection.exec_driver_sql(self._sql, tuple([values[each] for each in self._places]))


class Statements(ABC):
    """What both databases share; `now` is a parameter, or the database's own clock."""

    names = ""
    ids = ""
    lock_rows = ""
    lock_all_rows = ""

    def __init__(self, tables: EventTables, dialect: Dialect, *, is_server_clock: bool) -> None:
        table = dialect.identifier_preparer.format_table
        self.deliveries: str = table(tables.deliveries)
        self.workers: str = table(tables.workers)
        self.subscriptions: str = table(tables.subscriptions)
        self.accepted: str = table(tables.accepted)
        self.is_server_clock = is_server_clock
        self.now: str = self._server_clock() if is_server_clock else "CAST(:now AS BIGINT)"
        self._dialect = dialect
        self.claim: Callable[[int, bool], Compiled] = lru_cache(maxsize=256)(self._compiled_claim)
        self.complete: Compiled = Compiled(
            f"DELETE FROM {self.deliveries} WHERE {self.ids} AND claims = CAST(:claim AS INT) AND {_HELD_BY_OWNER}",
            dialect,
        )
        self.acknowledge: TextClause = text(
            f"DELETE FROM {self.deliveries} WHERE id = :id AND claims = :claim AND {_HELD_BY_OWNER}"
        )
        self.settle: TextClause = text(
            f"UPDATE {self.deliveries} SET state = CAST(:state AS TEXT), attempts = :attempts, losses = :losses, "
            f"suspect = :suspect, owner = NULL, reason = :reason, error = :error, "
            f"due_at = CASE WHEN CAST(:state AS TEXT) = 'retryable' THEN {self.now} + CAST(:delay AS BIGINT) "
            f"ELSE due_at END, "
            f"died_at = CASE WHEN CAST(:state AS TEXT) = 'dead' THEN {self.now} END "
            f"WHERE id = :id AND claims = :claim AND {_HELD_BY_OWNER}"
        )
        self.claim_alone: TextClause = text(
            f"UPDATE {self.deliveries} SET state = 'running', owner = :owner, attempts = attempts + 1, "
            f"claims = claims + 1 WHERE id = (SELECT id FROM {self.deliveries} AS d WHERE {_WAITS_AS_SUSPECT} "
            f"AND handler IN ({self.names}) AND {self._key_is_free()} ORDER BY id LIMIT 1 {self.lock_rows}) "
            f"RETURNING {_CLAIMED}"
        )
        self.next_due: TextClause = text(
            f"SELECT min((SELECT due_at FROM {self.deliveries} AS d WHERE d.handler = wanted.name AND {_PENDING} "
            f"AND due_at > {self.now} ORDER BY due_at, id LIMIT 1)) - {self.now} FROM ({self._named()}) AS wanted"
        )
        self.join: TextClause = text(
            f"INSERT INTO {self.workers} (owner, expires_at) VALUES (:owner, {self.now} + CAST(:lease AS BIGINT))"
        )
        self.beat: TextClause = text(
            f"UPDATE {self.workers} SET expires_at = {self.now} + CAST(:lease AS BIGINT) WHERE owner = :owner"
        )
        self.bury_workers: TextClause = text(f"DELETE FROM {self.workers} WHERE expires_at <= {self.now}")
        self.rescue: TextClause = text(
            f"UPDATE {self.deliveries} AS d SET state = 'available', owner = NULL, losses = losses + 1, suspect = TRUE "
            f"WHERE state = 'running' "
            f"AND NOT EXISTS (SELECT 1 FROM {self.workers} AS w WHERE w.owner = d.owner)"
        )
        self.has_suspects: TextClause = text(
            f"SELECT EXISTS (SELECT 1 FROM {self.deliveries} WHERE {_WAITS_AS_SUSPECT} AND handler IN ({self.names}))"
        )
        self.leave: TextClause = text(f"DELETE FROM {self.workers} WHERE owner = :owner")
        self.give_back: TextClause = text(
            f"UPDATE {self.deliveries} SET state = 'available', owner = NULL "
            f"WHERE owner = :owner AND state = 'running' AND NOT {self.ids}"
        )
        self.pending: TextClause = text(
            f"SELECT count(*) FROM {self.deliveries} WHERE handler IN ({self.names}) AND "
            f"(state = 'running' OR ({_PENDING} AND (CAST(:ignore_due AS BOOLEAN) OR due_at <= {self.now})))"
        )
        self.accept: TextClause = text(
            f"INSERT INTO {self.accepted} AS a (event_id, expires_at) VALUES ({self._uuid(':event_id')}, "
            f"{self.now} + CAST(:window AS BIGINT)) ON CONFLICT (event_id) "
            f"DO UPDATE SET expires_at = excluded.expires_at WHERE a.expires_at <= {self.now} RETURNING 1"
        )
        expired = (
            f"SELECT event_id FROM {self.accepted} WHERE expires_at <= {self.now} ORDER BY expires_at LIMIT :batch "
            f"{self.lock_rows}"
        )
        self.forget_accepted: TextClause = text(
            f"DELETE FROM {self.accepted} WHERE {self._picked('event_id', expired)}"
        )
        self.bury_waiting: TextClause = self._bury("the handler was taken out of service", "TRUE")
        long_ago = f"{self.now} - CAST(:patience AS BIGINT)"
        self.bury_gone: TextClause = self._bury("no process has had this handler for long", f"due_at < {long_ago}")
        self.gone: TextClause = text(
            f"WITH RECURSIVE waiting AS (SELECT ({self._next_waiting('TRUE')}) AS handler UNION ALL "
            f"SELECT ({self._next_waiting('d.handler > waiting.handler')}) FROM waiting WHERE handler IS NOT NULL) "
            f"SELECT handler FROM waiting WHERE handler IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {self.subscriptions} "
            f"AS s WHERE s.handler = waiting.handler AND s.seen_at >= {long_ago})"
        )
        self.forget_gone: TextClause = text(f"DELETE FROM {self.subscriptions} WHERE seen_at < {long_ago}")
        self.stats: TextClause = text(
            f"SELECT name, handler, state, attempts > 0 AS is_retry, count(*) AS number, "
            f"min(CASE WHEN {_PENDING} AND due_at <= {self.now} THEN published_at END) AS oldest, {self.now} AS now "
            f"FROM {self.deliveries} GROUP BY name, handler, state, attempts > 0"
        )

    @abstractmethod
    def _server_clock(self) -> str: ...

    def _uuid(self, parameter: str) -> str:
        return parameter

    @abstractmethod
    def _named(self) -> str:
        """Rows of handler names, from the parameter `names`."""

    @abstractmethod
    def _picked(self, column: str, rows: str) -> str:
        """Whether a row's `column` is among `rows`, a SELECT with a LIMIT, which runs once."""

    def _next_waiting(self, is_meant: str) -> str:
        """The first handler in the index of what is due: from one to the next, instead of over all that waits."""
        return (
            f"SELECT d.handler FROM {self.deliveries} AS d WHERE {_PENDING} AND {is_meant} ORDER BY d.handler LIMIT 1"
        )

    def _bury(self, error: str, is_meant: str) -> TextClause:
        """At most `batch` of those that wait for a handler become dead letters."""
        waiting = (
            f"SELECT id FROM {self.deliveries} WHERE handler = :handler AND {_PENDING} AND {is_meant} "
            f"ORDER BY due_at, id LIMIT :batch {self.lock_all_rows}"
        )
        return text(
            f"UPDATE {self.deliveries} SET state = 'dead', reason = 'handler_gone', error = '{error}', "
            f"died_at = {self.now} WHERE {self._picked('id', waiting)}"
        )

    def _compiled_claim(self, handlers: int, ignore_due: bool) -> Compiled:
        return Compiled(self._claim(handlers, ignore_due), self._dialect)

    @abstractmethod
    def _claim(self, handlers: int, ignore_due: bool) -> str: ...

    def _key_is_free(self) -> str:
        """A delivery with an ordering key waits for those before it, and for one that runs."""
        return (
            f"(ordering_key IS NULL OR NOT EXISTS (SELECT 1 FROM {self.deliveries} AS b WHERE b.handler = d.handler "
            f"AND b.ordering_key = d.ordering_key AND b.state <> 'dead' AND b.ordering_key IS NOT NULL "
            f"AND b.id <> d.id AND (b.id < d.id OR b.state = 'running')))"
        )

    def _head(self, number: int, ignore_due: bool) -> str:
        is_due = "TRUE" if ignore_due else f"due_at <= {self.now}"
        return (
            f"SELECT id FROM {self.deliveries} AS d WHERE handler = :handler_{number} AND {_PENDING} AND NOT suspect "
            f"AND due_at >= :floor_{number} AND {is_due} AND {self._key_is_free()} "
            f"ORDER BY due_at, id LIMIT :limit_{number} {self.lock_rows}"
        )


class PostgresStatements(Statements):
    names = "SELECT unnest(CAST(:names AS TEXT[]))"
    ids = "id = ANY(CAST(:ids AS BIGINT[]))"
    lock_rows = "FOR UPDATE SKIP LOCKED"
    lock_all_rows = "FOR UPDATE"

    def __init__(self, tables: EventTables, dialect: Dialect, *, is_server_clock: bool) -> None:
        super().__init__(tables, dialect, is_server_clock=is_server_clock)
        self.lock_keys: TextClause = text(
            "SELECT pg_advisory_xact_lock(hashtextextended(key, 0)) FROM "
            "(SELECT DISTINCT key FROM unnest(CAST(:keys AS TEXT[])) AS key ORDER BY key) AS sorted"
        )
        self.hurry: Compiled = Compiled(f"SELECT {HURRY}", dialect)
        self.relax: Compiled = Compiled(f"SELECT {RELAX}, {HURRY}", dialect)
        one_row = (
            f"INSERT INTO {self.deliveries} (handler, state, due_at, event_id, name, version, payload, headers, "
            f"published_at, ordering_key) VALUES (:handler, 'available', coalesce(CAST(:at AS BIGINT), "
            f"{self.now} + CAST(:delay AS BIGINT)), {self._uuid(':event_id')}, :event_name, CAST(:version AS INT), "
            f"CAST(:payload AS BYTEA), CAST(:headers AS TEXT), {self.now}, CAST(:ordering_key AS TEXT))"
        )
        self.append_one: Compiled = Compiled(one_row, dialect)
        self.append_one_and_notify: Compiled = Compiled(f"{one_row} RETURNING pg_notify(:channel, '')", dialect)
        self.append: Compiled = Compiled(
            f"INSERT INTO {self.deliveries} (handler, state, due_at, event_id, name, version, payload, headers, "
            f"published_at, ordering_key, reason, died_at) "
            f"SELECT n.handler, CASE WHEN n.handler = '' THEN 'dead' ELSE 'available' END, "
            f"coalesce(n.at, {self.now} + n.delay), CAST(n.event_id AS UUID), n.name, n.version, n.payload, n.headers, "
            f"{self.now}, n.key, CASE WHEN n.handler = '' THEN 'no_subscriber' END, "
            f"CASE WHEN n.handler = '' THEN {self.now} END "
            f"FROM unnest(CAST(:handlers AS TEXT[]), CAST(:ats AS BIGINT[]), CAST(:delays AS BIGINT[]), "
            f"CAST(:event_ids AS TEXT[]), CAST(:event_names AS TEXT[]), CAST(:versions AS INT[]), "
            f"CAST(:payloads AS BYTEA[]), CAST(:headers AS TEXT[]), CAST(:ordering_keys AS TEXT[])) WITH ORDINALITY "
            f"AS n(handler, at, delay, event_id, name, version, payload, headers, key, place) ORDER BY n.place",
            dialect,
        )

    def _server_clock(self) -> str:
        """Stable within a statement, so that an index can be searched with it."""
        return "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000000 AS BIGINT)"

    def _uuid(self, parameter: str) -> str:
        return f"CAST(CAST({parameter} AS TEXT) AS UUID)"

    def _named(self) -> str:
        return "SELECT unnest(CAST(:names AS TEXT[])) AS name"

    def _picked(self, column: str, rows: str) -> str:
        return f"{column} = ANY(ARRAY({rows}))"

    def _claim(self, handlers: int, ignore_due: bool) -> str:
        heads = ", ".join(f"h{each} AS MATERIALIZED ({self._head(each, ignore_due)})" for each in range(handlers))
        picked = " UNION ALL ".join(f"SELECT id FROM h{each}" for each in range(handlers))
        return (
            f"WITH {heads} UPDATE {self.deliveries} SET state = 'running', owner = :owner, claims = claims + 1 "
            f"WHERE id = ANY(ARRAY({picked})) AND (SELECT {RELAX}) = 'off' RETURNING {_CLAIMED}"
        )


class SqliteStatements(Statements):
    names = "SELECT value FROM json_each(:names)"
    ids = "id IN (SELECT value FROM json_each(:ids))"

    def _server_clock(self) -> str:
        """To the millisecond only; the host's clock is the same machine's, and finer."""
        return "CAST(unixepoch('subsec') * 1000000 AS BIGINT)"

    def _named(self) -> str:
        return "SELECT value AS name FROM json_each(:names)"

    def _picked(self, column: str, rows: str) -> str:
        return f"{column} IN ({rows})"

    def _claim(self, handlers: int, ignore_due: bool) -> str:
        picked = " UNION ALL ".join(f"SELECT id FROM ({self._head(each, ignore_due)})" for each in range(handlers))
        return (
            f"UPDATE {self.deliveries} SET state = 'running', owner = :owner, claims = claims + 1 "
            f"WHERE id IN ({picked}) RETURNING {_CLAIMED}"
        )


def statements_for(tables: EventTables, dialect: Dialect, *, is_server_clock: bool) -> Statements:
    if dialect.name == "postgresql":
        return PostgresStatements(tables, dialect, is_server_clock=is_server_clock)
    return SqliteStatements(tables, dialect, is_server_clock=False)
