"""Owns what a process knows of servers that refuse its work, and says so: once when that begins,
once when it ends, in its log and to all others in Redis.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress

from statesync.errors import (
    BrokerUnavailable,
    DatabaseForbidden,
    NotMigrated,
    RedisForbidden,
    RedisUnavailable,
    ServerUnavailable,
    StatesyncError,
)
from statesync.hot.commands.troubles import Server, Trouble, Work
from statesync.hot.store import HotStore
from statesync.hot.trouble import tells_full
from statesync.settings import Settings
from statesync.state.fields import printable

__all__ = ["REFUSALS", "SERVER_NAMES", "TROUBLE", "Outages", "Troubles", "server_of"]

log = logging.getLogger(__name__)

TROUBLE = (ServerUnavailable, NotMigrated)
"""Errors that are a server's."""
REFUSALS = (DatabaseForbidden, RedisForbidden, NotMigrated)
"""Of these, what does not end by itself: somebody has to give a right, or to migrate."""

SERVER_NAMES = {Server.REDIS: "Redis", Server.POSTGRESQL: "PostgreSQL", Server.BROKER: "the broker"}
_KEEP_SECONDS = 180
"""So long a note holds without news, at least. A failed task tries again after a minute at most."""
_KEEP_INTERVALS = 3
_ERROR_LENGTH = 500


class _Outage:
    """A server that refuses some kinds of work of this process."""

    def __init__(self) -> None:
        self.began_at = time.monotonic()
        self.works: set[str] = set()
        self.level = 0
        """The loudest that the log was told."""


class Outages:
    """The servers that refuse some kind of work of this process; safe to share by threads.

    Thousands of failures are two lines in the log.
    """

    def __init__(self, realm: str = "") -> None:
        self._where = f" (realm {realm})" if realm else ""
        self._outages: dict[Server, _Outage] = {}
        self._lock = threading.Lock()

    def failed(self, work: str, error: StatesyncError) -> None:
        """Take in that an error, one of TROUBLE, ended some work."""
        server = server_of(error)
        level = logging.ERROR if isinstance(error, REFUSALS) else logging.WARNING
        with self._lock:
            outage = self._outages.setdefault(server, _Outage())
            outage.works.add(work)
            is_news, outage.level = level > outage.level, max(level, outage.level)
        if is_news:
            log.log(
                level,
                "trouble begins%s: %s",
                self._where,
                printable(error),
                extra={"server": server, "work": work},
            )

    def succeeded(self, work: str) -> None:
        """Take in that some work was done: no server refuses it any more."""
        if self._outages:
            with self._lock:
                self._end([(server, work) for server in self._outages])

    def is_refused(self, work: str) -> bool:
        """Return whether some server refuses this work."""
        return any(work in outage.works for outage in list(self._outages.values()))

    def keep(self, known: dict[Server, Trouble]) -> None:
        """Take in what all workers know: what they do not know any more has ended.

        What Redis refuses, only this process knows.
        """
        with self._lock:
            self._end(
                [
                    (server, work)
                    for server, outage in self._outages.items()
                    for work in outage.works
                    if server is not Server.REDIS
                    and (server not in known or work not in known[server].works)
                ]
            )

    def _end(self, over: list[tuple[Server, str]]) -> None:
        for server, work in over:
            outage = self._outages[server]
            outage.works.discard(work)
            if outage.works:
                continue
            del self._outages[server]
            seconds = time.monotonic() - outage.began_at
            log.warning(
                "trouble ends%s: %s works again, after %.0f s",
                self._where,
                SERVER_NAMES[server],
                seconds,
                extra={"server": server, "seconds": round(seconds, 3)},
            )


class Troubles:
    """The outages of a worker's process in one realm, told to all others; safe to share by threads.

    A success costs no round trip, unless a note on that kind of work is known of.
    """

    def __init__(self, hot: HotStore, settings: Settings) -> None:
        self._hot = hot
        self._keep_ms = 1000 * max(_KEEP_SECONDS, _KEEP_INTERVALS * settings.sync_seconds)
        self._outages = Outages(settings.realm)
        self._noted = set(Work)
        """Kinds of work with a note, perhaps: one may be left of a process before this one."""

    def failed(self, work: Work, error: StatesyncError) -> None:
        """Note that an error, one of TROUBLE, ended some work; if it is Redis, as far as it can."""
        self._outages.failed(work, error)
        if isinstance(error, RedisUnavailable) and not _is_answering(error):
            return
        self._noted.add(work)
        with suppress(StatesyncError):  # Redis' own trouble is told by whoever meets it
            text = printable(error)[:_ERROR_LENGTH]
            self._hot.note_trouble(server_of(error), work, text, keep_ms=self._keep_ms)

    def succeeded(self, work: Work) -> None:
        """Take in that some work was done, and remove the notes on servers that refused it."""
        self._outages.succeeded(work)
        if work in self._noted:
            self._noted.discard(work)
            with suppress(StatesyncError):  # then it ends by itself
                self._hot.end_troubles(work)

    def is_refused(self, work: Work) -> bool:
        """Return whether some server refuses this work of this process."""
        return self._outages.is_refused(work)

    def keep(self, known: dict[Server, Trouble]) -> None:
        """Take in the notes of all workers."""
        self._outages.keep(known)
        self._noted.update(*(trouble.works for trouble in known.values()))


def _is_answering(error: RedisUnavailable) -> bool:
    return isinstance(error, RedisForbidden) or tells_full(error)


def server_of(error: StatesyncError) -> Server:
    """Return which server an error, one of TROUBLE, is of."""
    if isinstance(error, RedisUnavailable):
        return Server.REDIS
    return Server.BROKER if isinstance(error, BrokerUnavailable) else Server.POSTGRESQL
