"""A PostgreSQL primary with a streaming standby whose replay a test delays, pauses or ends by promotion."""

from __future__ import annotations

import shutil
from contextlib import suppress
from datetime import timedelta
from typing import Self

from .postgres import HOST, START_TIMEOUT_SECONDS, SUPERUSER, PostgresServer
from .processes import ServerStartError, wait_until

__all__ = ["PostgresCluster", "PostgresStandby"]


class PostgresStandby(PostgresServer):
    """A streaming hot standby; `PostgresCluster.create` makes one."""

    @classmethod
    def of(cls, primary: PostgresServer) -> Self:
        """Copy a running primary, and start to follow it."""
        standby = cls(primary.installation)
        with standby._closed_on_error():
            standby._follow(primary)
        return standby

    def delay_replay(self, delay: timedelta | float) -> None:
        """Apply each commit only that many seconds (or that duration) after it happened on the primary; 0 ends it."""
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
        self.execute(f"ALTER SYSTEM SET recovery_min_apply_delay = {round(seconds * 1000)}")
        self.execute("SELECT pg_reload_conf()")
        self._wait_for_setting("recovery_min_apply_delay", round(seconds * 1000))

    def pause_replay(self) -> None:
        """Receive what the primary writes but apply none of it; returns once nothing more is applied."""
        self.execute("SELECT pg_wal_replay_pause()")
        wait_until(lambda: self._replay_state() == "paused", START_TIMEOUT_SECONDS, "replay to pause")

    def resume_replay(self) -> None:
        """Go on after `pause_replay`."""
        self.execute("SELECT pg_wal_replay_resume()")

    def promote(self) -> None:
        """Make it a primary of its own; the old primary knows nothing of it.

        Raises:
            TimeoutError: It is still in recovery after 60 seconds.
        """
        self.execute("SELECT pg_promote(wait => false)")
        wait_until(lambda: not self.is_in_recovery, START_TIMEOUT_SECONDS, "the standby to be promoted")

    def rebuild(self, primary: PostgresServer) -> None:
        """Throw its data away and follow the primary anew, on the same port."""
        self._process.end()
        shutil.rmtree(self._data, ignore_errors=True)
        self._follow(primary)

    def _follow(self, primary: PostgresServer) -> None:
        self._prepare_folder()
        self._run(
            "pg_basebackup", f"--host={HOST}", f"--port={primary.port}", f"--username={SUPERUSER}", "--no-password",
            "--checkpoint=fast", "--no-sync", "--no-manifest", "--wal-method=stream", f"--pgdata={self._data}",
        )  # fmt: skip
        # Not where ALTER SYSTEM writes: `ensure_healthy` empties that file.
        self._configure(f"port = {self.port}", f"primary_conninfo = 'host={HOST} port={primary.port} user={SUPERUSER}'")
        self._data.joinpath("standby.signal").touch()
        self.start()

    def _replay_state(self) -> str:
        return str(self.execute("SELECT pg_get_wal_replay_pause_state()")[0][0])

    def _wait_for_setting(self, name: str, expected: int) -> None:
        wait_until(
            lambda: self.execute("SELECT setting::int FROM pg_settings WHERE name = %s", [name]) == [(expected,)],
            START_TIMEOUT_SECONDS,
            f"{name} to become {expected}",
        )


class PostgresCluster:
    """A primary and its standby.

    Attributes:
        primary: The server that takes writes; it is not the cluster's to close.
        standby: Its streaming standby.
    """

    def __init__(self, primary: PostgresServer, standby: PostgresStandby) -> None:
        self.primary = primary
        self.standby = standby

    @classmethod
    def create(cls, primary: PostgresServer) -> Self:
        """Add a standby to a running primary."""
        return cls(primary, PostgresStandby.of(primary))

    def wait_for_catch_up(self, timeout_seconds: float = 30.0) -> None:
        """Wait until the standby shows everything the primary has committed so far.

        Raises:
            TimeoutError: It lags still, for example because its replay is delayed or paused.
        """
        # The flush position: the insert position of an idle primary can be one that a standby never reports.
        position = self.primary.execute("SELECT pg_current_wal_flush_lsn()::text")[0][0]
        wait_until(
            lambda: self.standby.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [position]) == [(True,)],
            timeout_seconds,
            f"the standby to replay up to {position}",
        )

    def promote(self) -> None:
        """Promote the standby; see `PostgresStandby.promote`."""
        self.standby.promote()

    def rebuild_standby(self) -> None:
        """Make the standby anew from the primary, on the same port; what it held of its own is lost."""
        self.standby.rebuild(self.primary)

    def ensure_healthy(self) -> None:
        """Both run, undelayed, and the standby follows; whatever a test has done to them."""
        self.primary.ensure_healthy()
        if not self._standby_follows():
            self.rebuild_standby()

    def _standby_follows(self) -> bool:
        with suppress(ServerStartError, TimeoutError):
            self.standby.ensure_healthy()
            if self.standby.is_in_recovery:
                self.standby.resume_replay()
                self.wait_for_catch_up(10.0)
                return True
        return False
