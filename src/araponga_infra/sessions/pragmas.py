"""What SQLite may do under the read-only authorizer, and which PRAGMAs only read.

Sources: SQLite, "Authorizer Action Codes" and "PRAGMA Statements".
"""

from __future__ import annotations

import sqlite3

from araponga_infra.sessions.functions import is_denied
from araponga_infra.sessions.lexer import Family

__all__ = ["Gate", "authorize", "is_reading_pragma"]

_READS_WITH_ARGUMENT = frozenset(
    (
        "table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list",
        "foreign_key_check", "integrity_check", "quick_check",
    )
)  # fmt: skip
_READS_WITHOUT_ARGUMENT = _READS_WITH_ARGUMENT | frozenset(
    (
        "application_id", "auto_vacuum", "automatic_index", "busy_timeout", "cache_size", "cache_spill",
        "case_sensitive_like", "cell_size_check", "checkpoint_fullfsync", "collation_list", "compile_options",
        "data_version", "database_list", "defer_foreign_keys", "encoding", "foreign_keys", "freelist_count",
        "fullfsync", "function_list", "ignore_check_constraints", "journal_mode", "journal_size_limit",
        "legacy_alter_table", "locking_mode", "max_page_count", "mmap_size", "module_list", "page_count", "page_size",
        "pragma_list", "query_only", "read_uncommitted", "recursive_triggers", "reverse_unordered_selects",
        "schema_version", "secure_delete", "synchronous", "temp_store", "threads", "trusted_schema", "user_version",
        "wal_autocheckpoint",
    )
)  # fmt: skip

_ALLOWED = frozenset(
    (
        sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_SAVEPOINT,
        sqlite3.SQLITE_RECURSIVE,
    )
)  # fmt: skip


def is_reading_pragma(name: str, *, has_argument: bool) -> bool:
    """Whether a PRAGMA of that name reads; most names set something once they get an argument."""
    return name.lower() in (_READS_WITH_ARGUMENT if has_argument else _READS_WITHOUT_ARGUMENT)


def authorize(action: int, first: str | None, second: str | None, _database: str | None, _trigger: str | None) -> int:
    """The callback for `sqlite3.Connection.set_authorizer`: SQLite asks it while it compiles a statement."""
    if action in _ALLOWED:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION:
        allowed = not is_denied((second or "").lower(), Family.SQLITE)
    elif action == sqlite3.SQLITE_PRAGMA:
        # SQLAlchemy sets and resets this one itself when an isolation level is asked for; it changes no data.
        allowed = first == "read_uncommitted" or is_reading_pragma(first or "", has_argument=second is not None)
    else:
        # A virtual table, json_each() among them, is declared when it is first read, as if the schema were changed.
        # A change that is meant comes with other actions, or is refused by SQLite itself.
        allowed = action == sqlite3.SQLITE_UPDATE and first == "sqlite_master"
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


class Gate:
    """The authorizer of a connection of the host's: closed while a read-only session holds it, else open to all.

    Setting an authorizer makes SQLite compile its statements again, which costs a short read a tenth of its time; so
    the gate stays on the connection. While it is open, the driver may keep statements that write, and would run them
    again without asking: `has_let_pass` says that it must be set anew.
    """

    __slots__ = ("__weakref__", "has_let_pass", "is_closed")

    def __init__(self) -> None:
        self.is_closed: bool = False
        self.has_let_pass: bool = False

    def open(self, _connection: object) -> None:
        self.is_closed = False

    def __call__(self, action: int, *about: str | None) -> int:
        verdict = authorize(action, *about)
        if verdict == sqlite3.SQLITE_OK or self.is_closed:
            return verdict
        self.has_let_pass = True
        return sqlite3.SQLITE_OK
