"""Listening to sessions: on the classes and once, since a listener per session costs more than most transactions."""

from __future__ import annotations

import threading

from sqlalchemy import event
from sqlalchemy.orm import Mapper, Session

from araponga_infra.concurrency.bulk import run_bulk_update
from araponga_infra.concurrency.deletes import check_deletes
from araponga_infra.concurrency.journal import Journal, note_flush, note_refresh, open_journal

__all__ = ["watch"]

_install_lock = threading.Lock()
_is_installed = False


def watch(session: Session) -> Journal:
    """Take notes on `session` from now on. In sessions that nobody watches the listeners look into `info` and leave."""
    if not _is_installed:
        _install()
    return open_journal(session)


def _install() -> None:
    global _is_installed
    with _install_lock:
        if not _is_installed:
            event.listen(Mapper, "refresh", note_refresh, raw=True)
            event.listen(Session, "before_flush", note_flush)
            event.listen(Session, "after_flush", check_deletes)
            event.listen(Session, "do_orm_execute", run_bulk_update)
            _is_installed = True
