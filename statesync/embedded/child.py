"""Owns one child process: its start, its readiness, and an end that leaves nothing behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from statesync.errors import EmbeddedServerError

__all__ = ["Child", "run_as"]

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_LOG_LINES = 15


@dataclass
class Child:
    """A process of ours: it ends with ``stop``, and on Linux also if we are killed."""

    name: str
    command: Sequence[str]
    log: Path
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def running(self) -> bool:
        """Whether the process is started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start the process in a session of its own, so that Ctrl-C reaches only us."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603
                list(self.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=None if self.env is None else dict(self.env),
                cwd=self.cwd,
                start_new_session=True,
                preexec_fn=_die_with_parent(self.stop_signal),  # noqa: PLW1509
                **run_as(self.user),
            )

    def wait_ready(self, ready: Callable[[], bool], seconds: float = _START_SECONDS) -> None:
        """Wait until ``ready``.

        If the process ends or takes longer, it is killed, and EmbeddedServerError has the end of
        its log.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            ended = not self.running
            if ended or time.monotonic() > deadline:
                self.kill()
                raise EmbeddedServerError(
                    f"{self.name} {'ended' if ended else 'did not get ready'}; the end of "
                    f"{self.log}:\n{_tail(self.log)}"
                )
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it is running."""
        if self.process and self.running:
            self.process.send_signal(number)

    def stop(self, seconds: float = _STOP_SECONDS) -> None:
        """Ask the process to end; after ``seconds``, kill it. Kill what it leaves behind."""
        if not self.process or self.process.returncode is not None:
            return  # another process may have its number by now
        self.send(signal.SIGCONT)
        self.send(self.stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """Kill the process and all that it started: SIGKILL."""
        if self.process:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(_STOP_SECONDS)


def run_as(user: str | None) -> dict[str, Any]:
    """Return the arguments that make subprocess run a program as ``user``, without more rights."""
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _die_with_parent(number: signal.Signals) -> Callable[[], object] | None:
    """Return what a child runs before its program, so that it gets ``number`` if we are killed."""
    if not sys.platform.startswith("linux"):
        return None  # the next run on the same folder ends what was left
    libc = ctypes.CDLL(None)
    set_parent_death_signal = 1
    return lambda: libc.prctl(set_parent_death_signal, int(number))


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
    return "(no log)"
