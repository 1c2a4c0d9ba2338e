"""What a database without the store's tables is told to do."""

from __future__ import annotations

from types import TracebackType

from sqlalchemy.exc import DBAPIError

from araponga_infra.errors import InvalidArgumentError, NotConfiguredError

__all__ = ["checked_schema", "naming_missing_tables"]

_UNDEFINED_TABLE = "42P01"


def checked_schema(schema: str | None) -> str | None:
    """
    Raises:
        InvalidArgumentError: no name of a schema.
    """
    if schema is not None and (not isinstance(schema, str) or not schema):
        raise InvalidArgumentError(f"schema={schema!r} is no name of a schema: pass a text, or None for the default")
    return schema


class naming_missing_tables:  # noqa: N801 - read as the first words of a `with`
    """Turns the driver's error about a missing table into `NotConfiguredError`. A class: it is on every operation."""

    __slots__ = ()

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, DBAPIError) and _is_missing_table(error.orig):
            raise NotConfiguredError(
                "the tables of the event store, or of the inbox, do not exist in this database: call its "
                "create_schema() once, or create_event_tables() in a migration"
            ) from error.orig


def _is_missing_table(error: BaseException | None) -> bool:
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state == _UNDEFINED_TABLE or str(error).startswith("no such table: ")
