"""Owns the messages of reverts: Redis had gone back in time, and PostgreSQL's state is live now.

Each iterator has a connection of its own, and makes it anew for as long as its store is open. What
is sent while there is none is not heard: a message is a hint, as are all.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from redis.exceptions import RedisError

__all__ = ["AsyncListener", "Listener", "Reverted"]

log = logging.getLogger(__name__)

_QUIET_SECONDS = 30.0
"""After so long without a message the server is asked whether it is there."""
_ANSWER_SECONDS = 10.0
_PAUSE_SECONDS = 0.5
"""How long after a lost connection the next one is tried."""

_PyConnection = Any


@dataclass(frozen=True, slots=True)
class Reverted:
    """Characters and sessions that were set to what PostgreSQL has, or are gone if it has none."""

    char_ids: tuple[int, ...]
    sessions: tuple[str, ...]
    """By name, such as ``combat:session:{uuid}``."""


class _Listener:
    """What both listeners share: their channel, and how they make connections."""

    def __init__(self, connect: Callable[[], _PyConnection], channel: str) -> None:
        self._connect = connect
        self._channel = channel
        self._connections: set[_PyConnection] = set()
        self._is_lost = False

    def _heard(self, reply: Any) -> Reverted | None:
        """Return what a reply says of reverts; None if it is an answer to us, or none of ours."""
        if self._is_lost:
            log.warning("reverts on %s are heard again", self._channel)
        self._is_lost = False
        if not isinstance(reply, list) or reply[0] != b"message":
            return None
        try:
            return msgspec.json.decode(reply[2], type=Reverted)
        except msgspec.DecodeError as error:
            log.warning("a message on %s is not understood: %s", self._channel, error)
            return None

    def _lost(self, error: Exception) -> None:
        if not self._is_lost:
            log.warning("reverts on %s are not heard for now: %s", self._channel, error)
        self._is_lost = True


class Listener(_Listener):
    """Hears of reverts, for threads."""

    def __init__(self, connect: Callable[[], _PyConnection], channel: str) -> None:
        super().__init__(connect, channel)
        self._closed = threading.Event()

    def listen(self) -> Iterator[Reverted]:
        """Yield what is reverted, as it happens, until the listener is closed."""
        while not self._closed.is_set():
            connection = self._connect()
            self._connections.add(connection)
            try:
                connection.connect()
                connection.send_command("SUBSCRIBE", self._channel)
                while not self._closed.is_set():
                    if reverted := self._heard(self._next(connection)):
                        yield reverted
            except (RedisError, OSError) as error:
                if not self._closed.is_set():
                    self._lost(error)
            finally:
                self._connections.discard(connection)
                connection.disconnect()
            self._closed.wait(_PAUSE_SECONDS)

    @staticmethod
    def _next(connection: _PyConnection) -> Any:
        if not connection.can_read(timeout=_QUIET_SECONDS):
            connection.send_command("PING", check_health=False)
            if not connection.can_read(timeout=_ANSWER_SECONDS):
                raise TimeoutError("it does not answer")
        return connection.read_response(disconnect_on_error=False)

    def close(self) -> None:
        """End all iterators, also those that wait for a message."""
        self._closed.set()
        for connection in list(self._connections):
            # Only shut down: the thread that reads from it takes it apart.
            with suppress(OSError, AttributeError):
                descriptor = os.dup(connection._sock.fileno())
                with socket.socket(fileno=descriptor) as shared:
                    shared.shutdown(socket.SHUT_RDWR)


class AsyncListener(_Listener):
    """Hears of reverts, for asyncio."""

    def __init__(self, connect: Callable[[], _PyConnection], channel: str) -> None:
        super().__init__(connect, channel)
        self._closed = asyncio.Event()

    async def listen(self) -> AsyncIterator[Reverted]:
        """Yield what is reverted, as ``Listener`` does."""
        while not self._closed.is_set():
            connection = self._connect()
            self._connections.add(connection)
            try:
                await connection.connect()
                await connection.send_command("SUBSCRIBE", self._channel)
                while not self._closed.is_set():
                    if reverted := self._heard(await self._next(connection)):
                        yield reverted
            except (RedisError, OSError) as error:
                if not self._closed.is_set():
                    self._lost(error)
            finally:
                self._connections.discard(connection)
                await connection.disconnect(nowait=True)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), _PAUSE_SECONDS)

    @staticmethod
    async def _next(connection: _PyConnection) -> Any:
        read = partial(connection.read_response, disconnect_on_error=False)
        reply = await read(timeout=_QUIET_SECONDS)
        if reply is None:
            await connection.send_command("PING", check_health=False)
            reply = await read(timeout=_ANSWER_SECONDS)
        if reply is None:
            raise TimeoutError("it does not answer")
        return reply

    async def aclose(self) -> None:
        """End all iterators, also those that wait for a message."""
        self._closed.set()
        for connection in list(self._connections):
            await connection.disconnect(nowait=True)
