"""Server processes: start, pause, end; look at them without any third-party package.

Linux is read through ``/proc`` (a slim container has no ``ps``), everything else through ``ps``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .unprivileged import ServerUser

__all__ = ["ServerProcess", "ServerStartError", "end_recorded", "is_alive", "wait_until"]

_PROC = Path("/proc")
_RECORD_NAME = "process.json"
_LOG_NAME = "server.log"
_LOG_TAIL_LINES = 30
_END_TIMEOUT_SECONDS = 10.0


class ServerStartError(RuntimeError):
    """A server did not come up; the message carries the end of its log."""


def wait_until(condition: Callable[[], bool], timeout_seconds: float, waiting_for: str) -> None:
    """Poll a condition until it holds.

    Raises:
        TimeoutError: It did not hold in time; the message says what was waited for.
    """
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Waited {timeout_seconds:g} s in vain for: {waiting_for}")
        time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class _ProcessState:
    parent: int
    letter: str

    @property
    def is_alive(self) -> bool:
        # A zombie holds no port, memory or file any more; whoever inherited it may never collect it.
        return self.letter != "Z"

    @property
    def is_stopped(self) -> bool:
        return self.letter == "T"


def _state_of(pid: int) -> _ProcessState | None:
    if not _PROC.joinpath("self").exists():
        return _states_from_ps().get(pid)
    try:
        stat = _PROC.joinpath(str(pid), "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The program's name stands in brackets and may itself hold blanks and brackets.
    letter, parent = stat.rpartition(")")[2].split()[:2]
    return _ProcessState(int(parent), letter)


def _states_from_ps() -> dict[int, _ProcessState]:
    listing = subprocess.run(["ps", "-axo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = (line.split() for line in listing.splitlines())
    return {int(pid): _ProcessState(int(parent), letters[0]) for pid, parent, letters in rows}


def _children_of(parent: int) -> list[int]:
    if _PROC.joinpath("self").exists():
        pids = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
        states = {pid: state for pid in pids if (state := _state_of(pid))}
    else:
        states = _states_from_ps()
    return [pid for pid, state in states.items() if state.parent == parent and state.is_alive]


def _command_line(pid: int) -> str:
    """The words a process was started with; empty when there is no such process."""
    if not _PROC.joinpath("self").exists():
        return subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True).stdout
    try:
        return _PROC.joinpath(str(pid), "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process runs or is stopped; one that ended, but was not collected by its parent, is not alive."""
    state = _state_of(pid)
    return state is not None and state.is_alive


def _is_stopped_or_gone(pid: int) -> bool:
    state = _state_of(pid)
    return state is None or state.is_stopped or not state.is_alive


def _signal(pids: Iterable[int], signal_number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal_number)


def _freeze(pid: int) -> list[int]:
    """Stop a server and all its children; return them, the parent first.

    PostgreSQL makes every child a session of its own, so a signal to the group would miss them. The parent is stopped
    first, and seen to be stopped, because only then can it fork no child that would be missed.
    """
    _signal([pid], signal.SIGSTOP)
    wait_until(lambda: _is_stopped_or_gone(pid), _END_TIMEOUT_SECONDS, f"process {pid} to stop")
    children = _children_of(pid)
    _signal(children, signal.SIGSTOP)
    wait_until(lambda: all(map(_is_stopped_or_gone, children)), _END_TIMEOUT_SECONDS, f"processes {children} to stop")
    return [pid, *children]


def _kill_tree(pid: int) -> list[int]:
    tree = _freeze(pid)
    _signal(tree, signal.SIGKILL)
    return tree


def _thaw(pid: int) -> None:
    # The children first: the parent may ask one for an answer as soon as it runs.
    _signal([*_children_of(pid), pid], signal.SIGCONT)


def _wait_gone(pids: Collection[int]) -> None:
    wait_until(lambda: not any(map(is_alive, pids)), _END_TIMEOUT_SECONDS, f"processes {pids} to end")


def end_recorded(folder: Path) -> None:
    """End the server that a process, perhaps a dead one, recorded in this folder, if it still runs.

    The pid may long belong to another program: it is touched only if its command line names the folder.
    """
    try:
        record = json.loads(folder.joinpath(_RECORD_NAME).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        # No server was started here, or the machine went down in the middle of the record.
        return
    pid = record["pid"]
    if str(folder) not in _command_line(pid):
        return
    _thaw(pid)
    _signal([pid], signal.Signals(record["end_signal"]))
    try:
        _wait_gone([pid])
    except TimeoutError:
        _wait_gone(_kill_tree(pid))


class ServerProcess:
    """One server program in a session of its own, recorded in its folder so that a later run can end it.

    Args:
        folder: The server's folder; log and record lie in it. The command line must name it.
        command: The program and its arguments.
        environ: The whole environment of the program.
        user: Whom to run as; None is the present user.
        end_signal: Ends the server at once and cleanly, whatever its clients do.
    """

    def __init__(
        self,
        folder: Path,
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        user: ServerUser | None = None,
        end_signal: signal.Signals,
    ) -> None:
        self._folder = folder
        self._command = command
        self._environ = environ
        self._user = user
        self._end_signal = end_signal
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @property
    def pid(self) -> int | None:
        """The server's process id; None when it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def children(self) -> list[int]:
        """The ids of the processes that the server has started, as far as they run."""
        return [] if self.pid is None else _children_of(self.pid)

    @property
    def exit_status(self) -> int | None:
        """What the server ended with, negative for a signal; None before its start and while it runs."""
        return self._process.poll() if self._process else None

    @property
    def is_paused(self) -> bool:
        """Whether the server is stopped by `pause`."""
        return self._paused and self.pid is not None

    def spawn(self) -> None:
        """Start the program; whether it serves is for the caller to find out."""
        self._paused = False
        with self._folder.joinpath(_LOG_NAME).open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=self._environ,
                start_new_session=True,
                **(self._user.popen_arguments() if self._user else {}),
            )
        record = {"pid": self._process.pid, "end_signal": int(self._end_signal)}
        self._folder.joinpath(_RECORD_NAME).write_text(json.dumps(record))

    def wait_ready(self, is_ready: Callable[[], bool], timeout_seconds: float) -> None:
        """Wait until the server serves.

        Raises:
            ServerStartError: It ended, or did not serve in time; with the end of its log.
        """
        try:
            wait_until(lambda: self.pid is None or is_ready(), timeout_seconds, "the server to serve")
        except TimeoutError as error:
            raise self._start_error(str(error)) from error
        if self.pid is None:
            raise self._start_error("The server ended at its start")

    def pause(self) -> None:
        """Stop the server and its children where they are; connections stay open and hang."""
        if self.pid is not None:
            _freeze(self.pid)
            self._paused = True

    def resume(self) -> None:
        """Go on after `pause`; nothing happens when it was not paused."""
        if self.is_paused and self.pid is not None:
            _thaw(self.pid)
        self._paused = False

    def kill(self) -> None:
        """SIGKILL the server and its children, and wait until none is left."""
        if self._process is None or self.pid is None:
            return
        tree = _kill_tree(self._process.pid)
        self._process.wait(_END_TIMEOUT_SECONDS)
        _wait_gone(tree)
        self._ended()

    def send(self, signal_number: signal.Signals) -> None:
        """Send the server a signal that it is to outlive."""
        if self._process is not None and self.pid is not None:
            self._process.send_signal(signal_number)

    def end(
        self, signal_number: signal.Signals | None = None, *, patience_seconds: float = _END_TIMEOUT_SECONDS
    ) -> None:
        """Ask the server to end, and wait; one that does not within its time is killed."""
        if self._process is None or self.pid is None:
            return
        self.resume()
        self._process.send_signal(signal_number or self._end_signal)
        try:
            self._process.wait(patience_seconds)
            self._ended()
        except subprocess.TimeoutExpired:
            self.kill()

    def log_tail(self) -> str:
        """The last lines of the server's log."""
        log = self._folder.joinpath(_LOG_NAME)
        return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]) if log.exists() else ""

    def _ended(self) -> None:
        self._paused = False
        self._folder.joinpath(_RECORD_NAME).unlink(missing_ok=True)

    def _start_error(self, reason: str) -> ServerStartError:
        return ServerStartError(f"{reason}: {' '.join(self._command)}\nThe end of its log:\n{self.log_tail()}")
