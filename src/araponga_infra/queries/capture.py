"""Listens to SQLAlchemy and hands what happens to the captures that are open where it happens."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, TextClause, TextualSelect, event
from sqlalchemy.engine import ExecutionContext, RootTransaction
from sqlalchemy.orm import SessionTransaction

from araponga_infra.clock import SYSTEM_CLOCK, Clock
from araponga_infra.queries.call_sites import Caller, find_caller
from araponga_infra.queries.origins import Facts, classify, facts_of
from araponga_infra.queries.report import QueryReport
from araponga_infra.queries.shapes import parameter_shapes, statement_shape
from araponga_infra.queries.values import CallSite, Statement

__all__ = ["capture", "listen", "unseen"]

_logger = logging.getLogger("araponga_infra.queries")
_open: ContextVar[tuple[_Capture, ...]] = ContextVar("araponga_infra_captures", default=())
_install_lock = threading.Lock()
_is_listening = False
_unit_numbers = itertools.count(1)
_units: WeakKeyDictionary[RootTransaction | SessionTransaction, int] = WeakKeyDictionary()


def listen() -> None:
    """Attach the listeners to every engine's dialect, once and for good.

    These are the events around the driver's own call: SQLAlchemy asks for them once per statement, while a listener of
    `before_cursor_execute` makes it prepare and ask for six more. Where no capture is open each costs one look at a
    context variable. They are never taken off, since SQLAlchemy's lists of listeners must not change while another
    thread's statement walks them.
    """
    global _is_listening
    with _install_lock:
        if not _is_listening:
            event.listen(Engine, "do_execute", _on_execute)
            event.listen(Engine, "do_executemany", _on_executemany)
            event.listen(Engine, "do_execute_no_params", _on_execute_no_params)
            _is_listening = True


@contextmanager
def capture(
    *,
    engine: Engine | None = None,
    clock: Clock = SYSTEM_CLOCK,
    slow_after_seconds: float = 0.1,
    min_repeats: int = 0,
    max_statements: int = 10_000,
) -> Generator[QueryReport]:
    """Record what this block sends, on `engine` or on any; what its tasks and `to_thread` calls send included."""
    listen()
    own = _Capture(engine, clock, max_statements)
    own.report = QueryReport(own.read, slow_after_seconds=slow_after_seconds, min_repeats=min_repeats)
    _open.set((*_open.get(), own))
    try:
        yield own.report
    finally:
        own.is_open = False
        _open.set(tuple(other for other in _open.get() if other is not own))


@contextmanager
def unseen() -> Generator[None]:
    """What this block sends is recorded by no capture."""
    token = _open.set(())
    try:
        yield
    finally:
        _open.reset(token)


class _Capture:
    """One open capture. Tasks that outlive it still see it in their context, so it also knows that it is closed."""

    report: QueryReport

    def __init__(self, engine: Engine | None, clock: Clock, max_statements: int) -> None:
        self.clock = clock
        self.is_open = True
        self._engine = engine
        self._max_statements = max_statements
        self._seen: list[_Seen] = []
        self._lock = threading.Lock()

    def wants(self, connection: Connection) -> bool:
        """An engine with execution options of its own shares its pool with the engine it was made from."""
        return self.is_open and (self._engine is None or connection.engine.pool is self._engine.pool)

    def start(self, sent: _Sent) -> _Seen | None:
        with self._lock:
            if len(self._seen) >= self._max_statements:
                self.report.dropped += 1
                return None
            seen = _Seen(sent, self.clock)
            self._seen.append(seen)
            return seen

    def read(self) -> list[Statement]:
        return [seen.statement() for seen in list(self._seen)]


class _Sent:
    """What every capture that sees a statement shares."""

    __slots__ = ("caller_path", "facts", "parameter_sets", "parameters", "place", "sql", "unit")

    facts: Facts
    parameters: tuple[str, ...]
    parameter_sets: int
    place: CallSite | None
    caller_path: int
    sql: str
    unit: int


class _Seen:
    """A statement on its way through one capture."""

    __slots__ = ("_clock", "_sent", "_started", "failed", "seconds")

    def __init__(self, sent: _Sent, clock: Clock) -> None:
        self._sent = sent
        self._clock = clock
        self._started = clock.monotonic()
        self.seconds: float | None = None
        self.failed = False

    def end(self, *, failed: bool) -> None:
        self.seconds = self._clock.monotonic() - self._started
        self.failed = failed

    def statement(self) -> Statement:
        sent = self._sent
        return Statement(
            shape=sent.facts.shape,
            parameters=sent.parameters,
            parameter_sets=sent.parameter_sets,
            origin=classify(sent.facts),
            place=sent.place,
            unit=sent.unit,
            seconds=self.seconds,
            failed=self.failed,
            loads=sent.facts.loads,
            call_path=sent.caller_path,
            sql=sent.sql,
        )


def _on_execute(cursor: Any, sql: str, parameters: Any, context: ExecutionContext | None) -> bool:
    captures = _open.get()
    if not captures or context is None:
        return False
    return _run(captures, "do_execute", _on_execute, (cursor, sql, parameters, context))


def _on_executemany(cursor: Any, sql: str, parameters: Any, context: ExecutionContext | None) -> bool:
    captures = _open.get()
    if not captures or context is None:
        return False
    return _run(captures, "do_executemany", _on_executemany, (cursor, sql, parameters, context))


def _on_execute_no_params(cursor: Any, sql: str, context: ExecutionContext | None) -> bool:
    captures = _open.get()
    if not captures or context is None:
        return False
    return _run(captures, "do_execute_no_params", _on_execute_no_params, (cursor, sql, context))


def _run(captures: tuple[_Capture, ...], name: str, own: Callable[..., bool], arguments: tuple[Any, ...]) -> bool:
    """Execute the statement here, so that the time is that of the driver's call alone; True says that it is done."""
    seen = _start(captures, arguments, is_many=name == "do_executemany")
    if not seen:
        return False
    failed = True
    try:
        _call(name, own, arguments)
        failed = False
    finally:
        for each in seen:
            each.end(failed=failed)
    return True


def _call(name: str, own: Callable[..., bool], arguments: tuple[Any, ...]) -> None:
    """Do what SQLAlchemy would have done next: ask the listeners behind this one, then the driver."""
    dialect = arguments[-1].dialect
    listeners = iter(getattr(dialect.dispatch, name))
    for listener in listeners:
        if listener is own:
            break
    for listener in listeners:
        if listener(*arguments):
            return
    getattr(dialect, name)(*arguments)


def _start(captures: tuple[_Capture, ...], arguments: tuple[Any, ...], *, is_many: bool) -> list[_Seen]:
    context = arguments[-1]
    try:
        connection = context.root_connection
        transaction = connection.get_transaction()
        if transaction is None:  # what a driver asks at its first connection
            return []
        wanting = [each for each in captures if each.wants(connection)]
        if not wanting:
            return []
        caller = find_caller()
        sent = _sent(context, arguments[1], arguments[2:-1], is_many=is_many)
        sent.place, sent.caller_path = caller.site, caller.path
        sent.unit = _unit(caller, transaction)
        return [seen for each in wanting if (seen := each.start(sent)) is not None]
    except Exception:
        _logger.exception("a statement could not be recorded; it is executed all the same")
        return []


def _sent(context: Any, sql: str, parameters: tuple[Any, ...], *, is_many: bool) -> _Sent:
    sent = _Sent()
    shape = statement_shape(sql, dialect=context.dialect.name, is_by_hand=_is_by_hand(context))
    sent.parameters, sent.parameter_sets = parameter_shapes(parameters[0] if parameters else (), is_many=is_many)
    sent.facts = facts_of(context, shape, len(sent.parameters))
    sent.sql = sql
    return sent


def _is_by_hand(context: Any) -> bool:
    written = getattr(context, "invoked_statement", None)
    return written is None or isinstance(written, (TextClause, TextualSelect))


def _unit(caller: Caller, transaction: RootTransaction) -> int:
    """The session's own transaction where there is a session: it may have joined one that many sessions share."""
    own = None if caller.session is None else caller.session.get_transaction()
    unit = _units.get(own or transaction)
    if unit is None:
        unit = _units[own or transaction] = next(_unit_numbers)
    return unit
