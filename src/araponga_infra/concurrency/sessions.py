"""A session in which no lost update is silent, inside `execute` and outside."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import event, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import InstanceState, Mapper, ORMExecuteState, Session, SessionTransaction
from sqlalchemy.orm.exc import StaleDataError

from araponga_infra.concurrency.attempts import FailedAttempt, conflict_error
from araponga_infra.concurrency.bulk import (
    expect_objects,
    expect_versions,
    keep_in_step,
    refuse_bulk_mappings,
    refuse_unsafe,
)
from araponga_infra.concurrency.classification import Failure, classify
from araponga_infra.concurrency.errors import CommitOutcomeUnknownError, PreconditionFailedError, RowConflict
from araponga_infra.concurrency.versions import entity_name, loaded_version, version_key
from araponga_infra.concurrency.watching import watch
from araponga_infra.errors import InvalidArgumentError

__all__ = ["VersionedSession"]

T = TypeVar("T")


class VersionedSession(Session):
    """A `Session` that speaks of conflicts and refuses what would overwrite others' changes unseen.

    Outside `execute` a conflict comes out of flush, commit, a statement or `get` as `ConcurrencyConflictError`, and a
    COMMIT whose connection was lost as `CommitOutcomeUnknownError`. Refused with `InvalidArgumentError`, inside
    `execute` as well: bulk updates and deletes of versioned rows with `synchronize_session=False`, by a list of keys
    without versions, of a joined subclass, or setting the version; upserts that do not count it up, INSERT OR REPLACE
    among them; UPDATE OR REPLACE; a merge without a version over a row that exists; a change of a row that was read
    without its version, flushed or saved in bulk.

    As any session it belongs to one thread or task at a time.

    Examples:
        >>> make_session = sessionmaker(engine, class_=VersionedSession)
        >>> with make_session.begin() as session:
        ...     session.get_one(Post, 1).title = "Feira de trocas"
        >>> async_engine = create_async_engine("sqlite+aiosqlite:///community.db")
        >>> make_async_session = async_sessionmaker(async_engine, sync_session_class=VersionedSession)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._journal = watch(self)

    def flush(self, objects: Any = None) -> None:
        with self._translated():
            super().flush(objects)

    def begin(self, nested: bool = False) -> SessionTransaction:
        transaction = super().begin(nested)
        if not nested:
            transaction.commit = self._translated_commit(transaction.commit)  # type: ignore[method-assign]
        return transaction

    def commit(self) -> None:
        self._translated_commit(super().commit)()

    if not TYPE_CHECKING:  # the overloads of Session are what a type checker should see

        def execute(self, *args, **kwargs):
            with self._translated():
                return super().execute(*args, **kwargs)

        def scalar(self, *args, **kwargs):
            with self._translated():
                return super().scalar(*args, **kwargs)

        def scalars(self, *args, **kwargs):
            with self._translated():
                return super().scalars(*args, **kwargs)

        def get(self, *args, **kwargs):  # with_for_update compares the row it locks with what the session holds
            with self._translated():
                return super().get(*args, **kwargs)

    def merge(self, instance: T, **options: Any) -> T:
        """`Session.merge` that insists on the version: that of `instance` against that of the row there is.

        Raises:
            PreconditionFailedError: `instance` was read at another version than the row has now.
            InvalidArgumentError: `instance` has no version, and there is a row.
        """
        for state in self._to_be_merged(instance):
            self._compare_with_row(state)
        return super().merge(instance, **options)

    def bulk_update_mappings(self, mapper: Any, mappings: Iterable[dict[str, Any]]) -> None:
        listed = list(mappings)
        versioned: Mapper[Any] = inspect(mapper)
        if versioned.version_id_col is not None:
            refuse_bulk_mappings(versioned, listed)
            expect_versions(self._journal, self, versioned, listed)
        with self._translated():
            super().bulk_update_mappings(versioned, listed)

    def bulk_save_objects(self, objects: Iterable[object], *args: Any, **options: Any) -> None:
        listed = list(objects)
        expected = expect_objects(self._journal, self, listed)
        with self._translated():
            super().bulk_save_objects(listed, *args, **options)
        keep_in_step(self._journal, expected)

    @contextmanager
    def _translated(self, *, is_committing: bool = False) -> Generator[None, None, None]:
        try:
            yield
        except (StaleDataError, DBAPIError) as error:
            translated = None if self._journal.is_supervised else self._translate(error, is_committing)
            if translated is None or translated is error:
                raise
            raise translated from error

    def _translated_commit(self, commit: Callable[..., None]) -> Callable[..., None]:
        def translated_commit(*args: Any, **kwargs: Any) -> None:
            self.flush()
            with self._translated(is_committing=True):
                commit(*args, **kwargs)

        return translated_commit

    def _translate(self, error: Exception, is_committing: bool) -> Exception | None:
        failure = classify(error, is_committing=is_committing)
        if failure is Failure.OUTCOME_UNKNOWN:
            return CommitOutcomeUnknownError()
        failed = FailedAttempt(error, failure, self._journal.suspects(self), is_sqlite=False)
        return self._conflict(failed) if failed.is_conflict else None

    def _conflict(self, failed: FailedAttempt) -> Exception:
        """Read the versions through the connection that the flush rolled back: a second one may not be had."""
        connection = self._journal.connection
        if connection is None and failed.failure is Failure.STALE and failed.suspects and self.is_active:
            # it was `get` that noticed, which rolls nothing back
            connection = self.connection(bind_arguments={"mapper": failed.suspects[0].mapper})
        if connection is None or connection.closed:
            return conflict_error(None, failed, attempts=1)
        was_idle = not connection.in_transaction()
        try:
            return conflict_error(connection, failed, attempts=1)
        finally:
            if was_idle:
                connection.rollback()

    def _to_be_merged(self, instance: object) -> Iterator[InstanceState[Any]]:
        state: InstanceState[Any] | None = inspect(instance, raiseerr=False)
        if state is None or not hasattr(state, "mapper"):
            return
        yield state
        with self.no_autoflush:
            for _obj, _mapper, cascaded, _dict in state.mapper.cascade_iterator("merge", state):
                yield cascaded

    def _compare_with_row(self, state: InstanceState[Any]) -> None:
        mapper = state.mapper
        if mapper.version_id_col is None or state.session is self:
            return
        identity = tuple(state.identity or mapper.primary_key_from_instance(state.obj()))
        if None in identity:
            return
        row, expected = self.get(mapper.class_, identity), loaded_version(state)
        if row is None and expected is None:
            return
        actual = self._version_in_database(row) if row is not None else None
        if expected is None:
            raise InvalidArgumentError(
                f"{entity_name(mapper)} {identity!r} is merged without its {version_key(mapper)} over a row that "
                f"exists: give it the {version_key(mapper)} that it was read at, or read the row and change that"
            )
        if expected != actual:
            raise PreconditionFailedError([RowConflict(entity_name(mapper), identity, expected, actual)])

    def _version_in_database(self, row: object) -> int | None:
        state: InstanceState[Any] = inspect(row)
        if loaded_version(state) is None:
            self.refresh(row)
        return loaded_version(state)


@event.listens_for(VersionedSession, "do_orm_execute")
def _guard(execution: ORMExecuteState) -> None:
    refuse_unsafe(execution)


@event.listens_for(VersionedSession, "after_transaction_end")
def _forget(session: VersionedSession, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session._journal.clear()
