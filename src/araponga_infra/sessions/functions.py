"""Functions that do something a read does not, although a SELECT may call them and no server refuses them there.

A read-only transaction takes care of rows; it lets locks, notifications, large objects, settings, other connections,
files and the server's own administration through. Source: PostgreSQL manual, "SET TRANSACTION" (what READ ONLY covers)
and "9.28. System Administration Functions".
"""

from __future__ import annotations

import re

from araponga_infra.sessions.lexer import Family

__all__ = ["is_denied", "places_of_sql"]

_POSTGRESQL = re.compile(
    r"""
      pg_(try_)?advisory_.*
    | pg_notify
    | lo_(create|creat|import|unlink|put|from_bytea|truncate|truncate64|export) | lowrite
    | set_config
    | nextval | setval
    | dblink.*
    | pg_file_(write|rename|unlink|sync)
    | pg_(rotate_logfile(_old)?|logfile_rotate|reload_conf|log_backend_memory_contexts)
    | pg_(terminate|cancel)_backend
    | pg_(start|stop)_backup | pg_backup_(start|stop)
    | pg_(switch_wal|create_restore_point|promote|wal_replay_(pause|resume)|log_standby_snapshot)
    | pg_(create|drop|copy)_.*slot | pg_replication_slot_advance | pg_sync_replication_slots
    | pg_logical_slot_get_.* | pg_logical_emit_message | pg_replication_origin_(?!progress|oid|session_is_setup).*
    | pg_stat_reset.* | pg_stat_statements_reset | pg_stat_force_next_flush
    | pg_import_system_collations | pg_(restore|clear)_(relation|attribute)_stats
    | brin_(summarize|desummarize)_.* | gin_clean_pending_list | connectby | ts_rewrite
    | pg_truncate_visibility_map | heap_force_(kill|freeze) | autoprewarm_.* | pg_buffercache_evict.*
    | pg_nextoid | pg_stop_making_pinned_objects | pg_background_launch
    """,
    re.VERBOSE,
)
_SQLITE = re.compile(r"load_extension | writefile | edit | fts3_tokenizer | sqlcipher_export", re.VERBOSE)
_MYSQL = re.compile(r"get_lock | release_lock | release_all_locks | nextval | setval | sys_(exec|eval|set)", re.VERBOSE)

_RUNS_FIRST = re.compile(r"query_to_xml(schema|_and_xmlschema)? | ts_stat | crosstab[0-9]* | crosstab_hash", re.VERBOSE)
_RUNS_SECOND = re.compile(r"crosstab[0-9]* | crosstab_hash", re.VERBOSE)

_DENIED = {Family.POSTGRESQL: _POSTGRESQL, Family.SQLITE: _SQLITE, Family.MYSQL: _MYSQL}


def is_denied(function: str, family: Family) -> bool:
    """Whether a call of `function` (a name in lower case, without its schema) is more than a read."""
    return _DENIED[family].fullmatch(function) is not None


def places_of_sql(function: str, family: Family) -> tuple[int, ...]:
    """Which arguments of `function` are SQL in a string that it runs, so that the string must be judged as well."""
    if family is not Family.POSTGRESQL or not _RUNS_FIRST.fullmatch(function):
        return ()
    return (0, 1) if _RUNS_SECOND.fullmatch(function) else (0,)
