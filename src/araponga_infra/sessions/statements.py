"""The statement layer's decision: does this text only read?

The whole statement is read, not its first word: a CTE may delete, a SELECT may lock, create a table or call a function
that notifies, EXPLAIN may run what it explains. Everything that is not known to read is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial

from araponga_infra.sessions.functions import is_denied, places_of_sql
from araponga_infra.sessions.lexer import Family, Token, tokenize
from araponga_infra.sessions.pragmas import is_reading_pragma

__all__ = ["JUDGES", "Verdict", "judge"]

_QUERY_HEADS = frozenset(("select", "values", "table", "with"))
_LOCKS = frozenset((("for", "update"), ("for", "share"), ("for", "no"), ("for", "key")))
_DEEPEST = 100
_UNREADABLE = "a quote, a comment or an escape in it cannot be read safely"
_REMEMBERED = 4096

_PLANNER_AND_TIME_LIMITS = frozenset(
    (
        "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "transaction_timeout", "work_mem",
        "hash_mem_multiplier", "temp_buffers", "effective_cache_size", "effective_io_concurrency", "random_page_cost",
        "seq_page_cost", "cpu_tuple_cost", "cpu_index_tuple_cost", "cpu_operator_cost", "cursor_tuple_fraction",
        "from_collapse_limit", "join_collapse_limit", "constraint_exclusion", "plan_cache_mode", "jit",
        "jit_above_cost", "max_parallel_workers_per_gather", "parallel_setup_cost", "parallel_tuple_cost",
        "min_parallel_table_scan_size", "min_parallel_index_scan_size", "default_statistics_target", "geqo",
        "timezone", "datestyle", "intervalstyle", "extra_float_digits", "bytea_output", "xmlbinary", "xmloption",
        "lc_monetary", "lc_numeric", "lc_time", "search_path", "application_name", "client_min_messages",
        "default_text_search_config", "row_security",
    )
)  # fmt: skip
_TRANSACTION_MODES = frozenset(
    (
        "transaction", "isolation", "level", "serializable", "repeatable", "read", "committed", "uncommitted", "only",
        "deferrable", "not", "snapshot",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """Whether a text only reads, and if not, why in words for the message of the error."""

    is_read: bool
    reason: str = ""


def judge(text: str, family: Family) -> Verdict:
    """Judge one text, which may hold several statements; remembered per text.

    Args:
        text: what would be sent to the database, placeholders and all.
        family: the database that would cut and run it.
    """
    return JUDGES[family](text)


def _judge(family: Family, text: str) -> Verdict:
    try:
        for statement in _split(tokenize(text, family)):
            _Statement(statement, family).check()
    except _NotAReadError as refusal:
        return Verdict(False, refusal.reason)
    return _READ


_READ = Verdict(True)
JUDGES = {family: lru_cache(maxsize=_REMEMBERED)(partial(_judge, family)) for family in Family}
"""`judge` per family: one argument whose hash is known already makes the remembered case cheap."""


class _NotAReadError(Exception):
    def __init__(self, reason: str) -> None:
        self.reason = reason


def _split(tokens: list[Token]) -> list[list[Token]]:
    statements: list[list[Token]] = [[]]
    for token in tokens:
        if token == ("mark", ";"):
            statements.append([])
        else:
            statements[-1].append(token)
    return [statement for statement in statements if statement]


_END = Token("mark", "")


class _Statement:
    """One statement's tokens, checked by walking them once; raises `_NotAReadError` at the first thing that is none."""

    def __init__(self, tokens: list[Token], family: Family) -> None:
        self._tokens = tokens
        self._family = family
        self._closing = _closing_marks(tokens)

    def check(self) -> None:
        self._check_from(0)

    def _check_from(self, start: int) -> None:
        head = self._word(start)
        if head in _QUERY_HEADS or self._is_mark(start, "("):
            self._query(start, len(self._tokens), 0)
            return
        reader = _READERS[self._family].get(head)
        if reader is None:
            raise _NotAReadError(f"{self._shown(start)} is not a read")
        reader(self, start)

    # Looking at tokens

    def _at(self, index: int) -> Token:
        return self._tokens[index] if 0 <= index < len(self._tokens) else _END

    def _word(self, index: int) -> str:
        token = self._at(index)
        return token.value if token.kind == "word" else ""

    def _is_mark(self, index: int, mark: str) -> bool:
        return self._at(index) == ("mark", mark)

    def _shown(self, index: int) -> str:
        token = self._at(index)
        return token.value.upper() if token.kind == "word" else "this text"

    def _after_opening_marks(self, index: int) -> int:
        while self._is_mark(index, "("):
            index += 1
        return index

    def _words(self) -> list[str]:
        return [token.value for token in self._tokens if token.kind == "word"]

    def _is_label(self, index: int) -> bool:
        """After AS or a dot, any keyword is only a name, and so is a second AS."""
        if self._is_mark(index - 1, "."):
            return True
        return self._word(index - 1) == "as" and not self._is_label(index - 1)

    # Queries

    def _query(self, start: int, end: int, depth: int) -> None:
        """tokens[start:end] is one query expression, maybe in parentheses, maybe with CTEs."""
        if depth > _DEEPEST:
            raise _NotAReadError(f"it is nested deeper than {_DEEPEST} levels")
        if self._word(start) == "with":
            start = self._after_ctes(start + 1, depth)
        head = self._after_opening_marks(start)
        if self._word(head) not in _QUERY_HEADS:
            raise _NotAReadError(f"{self._shown(head)} is not a read")
        self._clauses(start, end, depth, is_query=True)

    def _after_ctes(self, index: int, depth: int) -> int:
        """Check each `name [(columns)] AS [[NOT] MATERIALIZED] (query) [...]` and find the main query."""
        if self._word(index) == "recursive":
            index += 1
        while True:
            index += 1
            if self._is_mark(index, "("):
                index = self._closing[index] + 1
            if self._word(index) != "as":
                raise _NotAReadError("its WITH clause cannot be read")
            index += 1
            while self._word(index) in ("not", "materialized"):
                index += 1
            if not self._is_mark(index, "("):
                raise _NotAReadError("its WITH clause cannot be read")
            self._query(index + 1, self._closing[index], depth + 1)
            index = self._after_search_and_cycle(self._closing[index] + 1)
            if not self._is_mark(index, ","):
                return index
            index += 1

    def _after_search_and_cycle(self, index: int) -> int:
        if self._word(index) not in ("search", "cycle"):
            return index
        while index < len(self._tokens) and self._word(index) not in _QUERY_HEADS:
            is_next_cte = self._is_mark(index, ",") and self._word(index + 2) == "as" and self._is_mark(index + 3, "(")
            if is_next_cte or self._is_mark(index, "("):
                break
            index += 1
        return index

    def _clauses(self, start: int, end: int, depth: int, *, is_query: bool) -> None:
        index = start
        while index < end:
            kind, value = self._tokens[index]
            if kind == "broken":
                raise _NotAReadError(_UNREADABLE)
            if kind == "mark" and value == "(":
                index = self._parenthesis(index, depth)
            elif kind == "word" and not self._is_label(index):
                self._keyword(index, value, is_query=is_query)
            index += 1

    def _parenthesis(self, opening: int, depth: int) -> int:
        """Check what stands between, and a call whose arguments it holds; the index of the closing mark."""
        closing = self._closing[opening]
        self._call(opening)
        inner = self._after_opening_marks(opening + 1)
        if self._word(inner) in _QUERY_HEADS and not self._is_values_function(opening):
            self._query(opening + 1, closing, depth + 1)
        elif depth > _DEEPEST:
            raise _NotAReadError(f"it is nested deeper than {_DEEPEST} levels")
        else:
            self._clauses(opening + 1, closing, depth + 1, is_query=False)
        return closing

    def _is_values_function(self, opening: int) -> bool:
        """A column or function may be called `values` or `table`; a query follows them with something else."""
        return self._word(opening + 1) in ("values", "table") and self._at(opening + 2).value in (")", ",", ".", "::")

    def _keyword(self, index: int, word: str, *, is_query: bool) -> None:
        if word == "into":
            raise _NotAReadError("SELECT ... INTO writes")
        if is_query and (word, self._word(index + 1)) in _LOCKS:
            raise _NotAReadError("it locks the rows it reads")
        if word == "lock" and self._word(index + 1) == "in" and self._word(index + 2) == "share":
            raise _NotAReadError("it locks the rows it reads")
        if word == "next" and self._word(index + 1) == "value" and self._word(index + 2) == "for":
            raise _NotAReadError("NEXT VALUE FOR moves a sequence")

    def _call(self, opening: int) -> None:
        kind, value = self._at(opening - 1)
        if kind not in ("word", "name"):
            return
        function = value if kind == "word" or self._family is Family.POSTGRESQL else value.lower()
        for place in places_of_sql(function, self._family):
            self._argument_is_a_read(opening, place)
        if is_denied(function, self._family) and not self._sets_own_setting_locally(function, opening):
            raise _NotAReadError(f"{function}() does more than read")

    def _argument_is_a_read(self, opening: int, place: int) -> None:
        """A literal, whole and without escapes, whose text only reads; a number is no SQL."""
        arguments = self._arguments(opening)
        argument = arguments[place] if place < len(arguments) else []
        literal = argument[0] if len(argument) == 1 else _END
        is_plain = literal.kind == "string" and "\\" not in literal.value
        is_read = is_plain and judge(literal.value.replace("''", "'"), self._family).is_read
        if not is_read and literal.kind != "number" and argument:
            raise _NotAReadError(f"{self._at(opening - 1).value}() runs a text that is not known to read")

    def _arguments(self, opening: int) -> list[list[Token]]:
        arguments: list[list[Token]] = [[]]
        index, closing = opening + 1, self._closing[opening]
        while index < closing:
            end = self._closing.get(index, index) + 1
            if self._is_mark(index, ","):
                arguments.append([])
            else:
                arguments[-1] += self._tokens[index:end]
            index = end
        return arguments

    def _sets_own_setting_locally(self, function: str, opening: int) -> bool:
        """set_config('app.tenant', ..., true): what row security reads, gone with the transaction."""
        name, closing = self._at(opening + 1), self._closing[opening]
        is_local = self._is_mark(closing - 2, ",") and self._word(closing - 1) == "true"
        is_own = name.kind == "string" and "." in name.value and self._is_mark(opening + 2, ",")
        return function == "set_config" and is_local and is_own

    # Statements other than queries

    def explain(self, start: int) -> None:
        if any(token.kind == "broken" for token in self._tokens):
            raise _NotAReadError(_UNREADABLE)
        index, runs = start + 1, False
        if (
            self._is_mark(index, "(")
            and self._word(index + 1) not in _QUERY_HEADS
            and not self._is_mark(index + 1, "(")
        ):
            runs = self._has_analyze_option(index)
            index = self._closing[index] + 1
        while self._word(index) in ("analyze", "analyse", "verbose", "extended", "partitions", "format"):
            runs = runs or self._word(index) in ("analyze", "analyse")
            index += 3 if self._word(index) == "format" and self._is_mark(index + 1, "=") else 1
        if runs:
            self._check_from(index)

    def _has_analyze_option(self, opening: int) -> bool:
        """Any ANALYZE, quoted or not, that is not switched off; the server goes by the last."""
        return any(
            self._at(index).value.lower() in ("analyze", "analyse")
            and self._at(index + 1).value.lower() not in ("false", "off", "0")
            for index in range(opening + 1, self._closing[opening])
        )

    def analyze(self, start: int) -> None:
        """MariaDB's ANALYZE runs a statement and explains it; ANALYZE TABLE gathers statistics."""
        index = start + 1
        if self._word(index) == "format":
            index += 3
        if self._word(index) == "table":
            raise _NotAReadError("ANALYZE TABLE is not a read")
        self._check_from(index)

    def show(self, start: int) -> None:
        self._clauses(start, len(self._tokens), 0, is_query=False)

    def describe(self, start: int) -> None:
        """MySQL: the columns of a table, or EXPLAIN by another name."""
        self.explain(start)

    def cursor_step(self, _start: int) -> None:
        """FETCH, MOVE, CLOSE: the cursor's query was judged when it was declared."""

    def declare(self, start: int) -> None:
        for index in range(start, len(self._tokens)):
            if (self._word(index), self._word(index + 1)) == ("with", "hold"):
                raise _NotAReadError("a cursor WITH HOLD outlives its transaction")
            if self._word(index) == "for":
                self._query(index + 1, len(self._tokens), 0)
                return
        raise _NotAReadError("DECLARE without a query is not a read")

    def copy(self, start: int) -> None:
        index = start + 1
        if self._is_mark(index, "("):
            self._query(index + 1, self._closing[index], 0)
            index = self._closing[index] + 1
        while index < len(self._tokens) and self._word(index) not in ("to", "from"):
            index = self._closing.get(index, index) + 1
        if self._word(index) != "to" or self._word(index + 1) != "stdout":
            raise _NotAReadError("COPY reads only in the form COPY ... TO STDOUT")

    def savepoint(self, _start: int) -> None:
        """SAVEPOINT and RELEASE: no change without a write between them."""

    def rollback(self, _start: int) -> None:
        if "to" not in self._words():
            raise _NotAReadError("ROLLBACK as text ends the guarded transaction: call session.rollback()")

    def transaction(self, _start: int) -> None:
        """SQLite: BEGIN, COMMIT and so on, which hosts send themselves; its guard is on the connection."""

    def set(self, start: int) -> None:
        if self._word(start + 1) == "transaction":
            is_harmless = set(self._words()[1:]) <= _TRANSACTION_MODES
        else:
            is_harmless = self._word(start + 1) == "local" and self._is_harmless_setting(start + 2)
        if not is_harmless:
            raise _NotAReadError(
                "SET may open or outlive the session: SET LOCAL of a time limit or an own setting is fine"
            )

    def _is_harmless_setting(self, index: int) -> bool:
        name = self._at(index).value
        if self._is_mark(index + 1, "."):
            return True
        is_time_zone = (name, self._word(index + 1)) == ("time", "zone")
        return is_time_zone or name.startswith("enable_") or name.lower() in _PLANNER_AND_TIME_LIMITS

    def pragma(self, start: int) -> None:
        index = start + 3 if self._is_mark(start + 2, ".") else start + 1
        name, follows = self._at(index).value, self._at(index + 1)
        is_reading = follows is _END or follows == ("mark", "(")
        if not is_reading or not is_reading_pragma(name, has_argument=follows is not _END):
            raise _NotAReadError(f"PRAGMA {name} in this form is not a read")


def _closing_marks(tokens: list[Token]) -> dict[int, int]:
    closing: dict[int, int] = {}
    opened: list[int] = []
    for index, token in enumerate(tokens):
        if token == ("mark", "("):
            opened.append(index)
        elif token == ("mark", ")"):
            if not opened:
                raise _NotAReadError("its parentheses do not match")
            closing[opened.pop()] = index
    if opened:
        raise _NotAReadError("its parentheses do not match")
    return closing


_SAVEPOINTS = {"savepoint": _Statement.savepoint, "release": _Statement.savepoint}
_READERS = {
    Family.POSTGRESQL: {
        **_SAVEPOINTS,
        "explain": _Statement.explain,
        "show": _Statement.show,
        "declare": _Statement.declare,
        "fetch": _Statement.cursor_step,
        "move": _Statement.cursor_step,
        "close": _Statement.cursor_step,
        "copy": _Statement.copy,
        "set": _Statement.set,
        "rollback": _Statement.rollback,
    },
    Family.SQLITE: {
        **_SAVEPOINTS,
        "explain": _Statement.explain,
        "pragma": _Statement.pragma,
        "begin": _Statement.transaction,
        "commit": _Statement.transaction,
        "end": _Statement.transaction,
        "rollback": _Statement.transaction,
    },
    Family.MYSQL: {
        **_SAVEPOINTS,
        "explain": _Statement.explain,
        "describe": _Statement.describe,
        "desc": _Statement.describe,
        "analyze": _Statement.analyze,
        "show": _Statement.show,
        "rollback": _Statement.rollback,
    },
}
