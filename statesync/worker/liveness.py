"""Owns what shows that the main process of a worker or beat is not stuck: a file, and systemd.

A process that is busy is not stuck, nor is one that waits for a broker that is away or frozen.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from celery import bootsteps
from kombu import Connection

__all__ = ["Liveness", "LivenessConnection", "LivenessStep", "liveness"]

log = logging.getLogger(__name__)

_SECONDS = 5
"""How often it is shown. Probes and systemd's watchdog wait for two minutes, see ``deploy/``."""
_STUCK_SECONDS = 900
"""How long the main thread may be away from its loop.

A broker that accepts connections and never answers holds it for eight minutes: redis-py tries
sixteen times, half a minute each. With ``-P solo`` it also runs the tasks.
"""


class Liveness:
    """Touches a file, and tells systemd, as long as the main thread of a process comes by.

    A timer of the operating system interrupts the main thread, so a process that is frozen shows
    nothing. One that answers the timer, but never comes back to its loop, shows nothing from then
    on, either. A thread for it would be one that a fork of the pool's processes has to fear.
    """

    def __init__(self) -> None:
        self._owner: tuple[int, int] | None = None
        self._path: Path | None = None
        self._systemd = ""
        self._came_by = 0.0

    def begin(self, path: str) -> None:
        """Show it from now on. ``path`` is the file, or empty; systemd gives its socket itself.

        What runs inside a worker, such as an embedded beat, does not begin again: its life says
        nothing of that of the worker. A file that cannot be touched is logged here; later its age
        tells.
        """
        self._systemd = os.environ.get("NOTIFY_SOCKET", "")
        if self._owner or not (path or self._systemd):
            return
        self._owner = _this_thread()
        self._path = Path(path) if path else None
        self.come_by()
        try:
            self._show()
        except OSError as error:
            log.error("this process cannot show that it is not stuck: %s", error)  # noqa: TRY400
        signal.signal(signal.SIGALRM, self._on_alarm)
        signal.setitimer(signal.ITIMER_REAL, _SECONDS, _SECONDS)

    def come_by(self) -> None:
        """Note that this thread is in its loop, if it is the one that began."""
        if self._owner == _this_thread():
            self._came_by = time.monotonic()

    def _on_alarm(self, *_: object) -> None:
        if time.monotonic() - self._came_by < _STUCK_SECONDS:
            # It may have interrupted a log message, so it does not log one.
            with suppress(OSError):
                self._show()

    def _show(self) -> None:
        if self._systemd:
            _tell_systemd(self._systemd)
        if self._path:
            self._path.touch()


def _this_thread() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def _tell_systemd(address: str) -> None:
    """Send systemd what ``sd_notify(3)`` says: that the service has started, and is alive.

    It has started before it has reached any server, since it waits for them itself.
    """
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"READY=1\nWATCHDOG=1", address)


liveness = Liveness()
"""That of this process."""


class LivenessStep(bootsteps.StartStopStep):
    """Comes by from the worker's event loop."""

    _timer: Any = None

    def start(self, consumer: Any) -> None:
        """Begin anew: the loop has lost its timers if the connection to the broker was lost."""
        if self._timer:
            self._timer.cancel()
        self._timer = consumer.timer.call_repeatedly(_SECONDS, liveness.come_by)


class LivenessConnection(Connection):
    """Comes by while a worker or beat waits for the broker: then it is not in its loop."""

    def _ensure_connection(self, *args: Any, **more: Any) -> Any:
        """Connect as kombu does, which calls ``callback`` after each attempt and each second."""
        callback: Callable[[], None] | None = more.get("callback")

        def wait() -> None:
            liveness.come_by()
            if callback:
                callback()

        liveness.come_by()
        return super()._ensure_connection(*args, **{**more, "callback": wait})
