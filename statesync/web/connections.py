"""Owns the connections of the page: how many there are, and how long each may take.

uvicorn waits for ever for a request that does not end, and for a reader that does not read. So
strangers could take all descriptors, and the probes with them.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["BACKLOG", "Connection", "Seldom", "raise_limit"]

BACKLOG = 64
"""So many connections are accepted at once, before any is looked at."""
_REQUEST_SECONDS = 10.0
"""How long a request may take to arrive, from the connection or the answer before."""
_EXCHANGE_SECONDS = 60.0
"""How long an answer may take from then on until all of it is sent."""
_MOST = 500
_DESCRIPTORS = 4096
_SELDOM_SECONDS = 60.0


def raise_limit() -> None:
    """Let this process open more descriptors than systemd gives, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def _most_connections() -> int:
    """Return how many there may be; half of the descriptors are for the servers."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST
    return max(1, min(_MOST, soft // 2 - BACKLOG))


class Connection(H11Protocol):
    """A connection that ends by itself, whatever its other end does or does not.

    If there are too many, the one ends whose request or answer has taken the longest.
    """

    _since = 0.0
    """When this request, or its answer, began."""
    _is_answered = False
    _is_ended = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._begin(is_answered=False)
        others = (other for other in self.connections if isinstance(other, Connection))
        held = [other for other in others if not other._is_ended]
        if len(held) > _most_connections():
            min(held, key=lambda other: other._since).end()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        is_whole = self.conn.their_state not in (h11.IDLE, h11.SEND_BODY)
        if is_whole and not self._is_answered:
            self._begin(is_answered=True)

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._begin(is_answered=False)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        super().connection_lost(exc)
        if self._timer:
            self._timer.cancel()

    def end(self) -> None:
        """End it at once: "close" would wait until the other end has read everything."""
        self._is_ended = True
        self.transport.abort()

    def _begin(self, *, is_answered: bool) -> None:
        if self._timer:
            self._timer.cancel()
        self._since, self._is_answered = self.loop.time(), is_answered
        seconds = _EXCHANGE_SECONDS if is_answered else _REQUEST_SECONDS
        self._timer = self.loop.call_later(seconds, self.end)


class Seldom(logging.Filter):
    """Lets a line that begins as one before it pass once a minute: asyncio's own, of accept."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line passes."""
        text = record.getMessage().partition("\n")[0]
        if "out of system resource" not in text:
            return True
        now = time.monotonic()
        if now - self._told.get(text, -_SELDOM_SECONDS) < _SELDOM_SECONDS:
            return False
        self._told[text] = now
        return True
