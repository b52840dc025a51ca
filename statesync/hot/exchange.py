"""Owns how long a call waits for Redis: for a connection, and for replies to what is sent on it.

A call has one deadline, whatever it waits for: a free connection, the connect, the handshake, each
reply. So a server that is frozen, not gone, holds nobody up for longer.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from redis import BlockingConnectionPool
from redis.asyncio.connection import BlockingConnectionPool as AsyncPool
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import BusyLoadingError, MovedError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from statesync.hot.clusters import ClusterMaster
from statesync.hot.command import SOURCES, packed
from statesync.hot.masters import Master
from statesync.hot.trouble import is_replica
from statesync.sentinels import SentinelUrl, is_sentinel
from statesync.urls import is_cluster

__all__ = [
    "ANSWER_SECONDS",
    "LEAST_SECONDS",
    "TRIES",
    "AsyncWire",
    "Request",
    "Wire",
    "is_last",
    "pause_seconds",
]

ANSWER_SECONDS = 30.0
"""How long a call waits for an answer unless its store says otherwise."""
LEAST_SECONDS = 0.5
"""So long every call may wait."""
TRIES = 4
"""How many times a call tries to connect, or sends what may be run twice."""

_CONNECT_SECONDS = 5.0
_REST_SECONDS = 30
"""After so long without use a connection is asked whether it is there."""
_PING_SECONDS = 1.0
"""How long that may take: then there is time left for a new connection."""
_OPTIONS: Any = {"health_check_interval": _REST_SECONDS, "max_connections": 50, "protocol": 2}
"""With protocol 3, redis-py expects messages at any time, and so does not see that a connection at
rest is closed."""
_NOWHERE = ("localhost", 1)
"""An address in place of the master's, until somebody is asked for it."""
_BACKOFF = ExponentialWithJitterBackoff(base=0.05, cap=1)

_PART_KEYS = 64
"""Keys of the requests that are sent at once: one script for many characters."""


class Request(NamedTuple):
    """What is sent to Redis, and what becomes of the reply."""

    words: tuple[str | bytes | int, ...]
    read: Callable[[Any], Any] = lambda reply: reply
    """Makes the result of a reply that is no error."""

    @property
    def keys(self) -> int:
        """How many keys a script has, by which it takes its time; any other request is short."""
        return int(self.words[2]) if self.words[0] == "EVALSHA" else 1


_PyConnection = Any
"""One of redis-py's connections: most of their methods have no types."""


def is_last(tries_left: int, deadline: float) -> bool:
    """Return whether a call does not try again."""
    return not tries_left or time.monotonic() >= deadline


def pause_seconds(tries_left: int, deadline: float) -> float:
    """Return how long to wait before the next try."""
    return min(_BACKOFF.compute(TRIES - tries_left), _left(deadline))


def _left(deadline: float) -> float:
    """Return how long a wait may be: a moment, if the deadline is over."""
    return max(0.001, deadline - time.monotonic())


class _Deadline(threading.local):
    """When the call of this thread that takes a connection has to have it."""

    at: float | None = None


_deadline = _Deadline()


AnyMaster = Master | ClusterMaster


class _Options(NamedTuple):
    """What the connections of a wire share."""

    seconds: float
    """How long a call waits: what the URL says, or else what the store does."""
    connect_seconds: float
    master: AnyMaster | None
    """Where to connect to, if Sentinels or the nodes of a cluster know."""


class _Connection:
    """What the wires add to a connection of redis-py's."""

    options: _Options
    host: str
    port: int
    loaded: set[object]
    """The scripts that it has loaded, by their names."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether the master has moved since the connection was made."""
        master = self.options.master
        return master is not None and master.address != (self.host, self.port)


class _InTime(_Connection):
    """A connection that is made before the deadline of its thread, if it has one."""

    _sock: object

    def connect(self) -> None:
        """Connect and shake hands."""
        if self._sock is None:
            self.loaded = set()
            if self.options.master:
                self.host, self.port = self.options.master.find(self._seconds_left())
            self.socket_timeout = self._seconds_left()
            self.socket_connect_timeout = min(self.options.connect_seconds, self.socket_timeout)
        super().connect()  # type: ignore[misc]

    def _seconds_left(self) -> float:
        return self.options.seconds if _deadline.at is None else _left(_deadline.at)


class _InTimeAsync(_Connection):
    """A connection for asyncio, which has deadlines of its own."""

    is_connected: bool

    async def connect(self) -> None:
        """Connect and shake hands."""
        if not self.is_connected:
            self.loaded = set()
            if self.options.master:
                self.host, self.port = await self.options.master.find_async(self.options.seconds)
        await super().connect()  # type: ignore[misc]


class _Pool(BlockingConnectionPool):
    """Waits for a free connection until the deadline of the thread."""

    @property
    def timeout(self) -> float:
        """How long."""
        return _left(_deadline.at) if _deadline.at is not None else ANSWER_SECONDS

    @timeout.setter
    def timeout(self, _: object) -> None:
        """Leave redis-py its own way to set it."""


class _Wire:
    """What both wires share: a pool of connections to one Redis."""

    def __init__(self, pool: Any, base: type[_Connection], master: AnyMaster | None) -> None:
        self.pool, self.master = pool, master
        limits = pool.connection_kwargs
        self.seconds = float(limits["socket_timeout"])
        options = _Options(self.seconds, limits["socket_connect_timeout"], master)
        plain = pool.connection_class
        pool.connection_class = type(plain.__name__, (base, plain), {"options": options})

    def is_misplaced(self, replies: Sequence[Any]) -> bool:
        """Return whether a connection leads to what is no master any more, by what it replies."""
        moved = next((reply for reply in replies if isinstance(reply, MovedError)), None)
        if moved and isinstance(self.master, ClusterMaster):
            self.master.moved(moved)
        return moved is not None or any(map(is_replica, replies))

    def connection(self) -> _PyConnection:
        """Return a connection of its own, not the pool's; nothing is connected yet."""
        return _connection(self.pool)


class Wire(_Wire):
    """The connections to one Redis, for threads."""

    def __init__(self, url: str, prefix: str, seconds: float) -> None:
        # redis-py tries nothing again by itself: it would multiply with our tries.
        pool, master = _made(_Pool, _place(url, prefix), Retry(NoBackoff(), 0), seconds)
        super().__init__(pool, _InTime, master)

    def take(self, deadline: float) -> _PyConnection:
        """Return a connection that is alive, for ``exchange``; nothing is sent on it yet."""
        _deadline.at = deadline
        try:
            connection = self.pool.get_connection()
            try:
                if connection.is_elsewhere:
                    connection.disconnect()
                    connection.connect()
                if time.monotonic() > connection.next_health_check:
                    _limit(connection, min(deadline, time.monotonic() + _PING_SECONDS))
                    connection.check_health()
            except BaseException:
                self.pool.release(connection)
                raise
        finally:
            _deadline.at = None
        return connection

    def exchange(
        self, connection: _PyConnection, requests: Sequence[Request], deadline: float
    ) -> list[Any]:
        """Send requests, read their replies, and give the connection back; return the results.

        Redis does all that has come in on a connection before it turns to another one. So of many
        requests no more than two parts are on their way: others wait for no more than these. While
        Redis works on a part, the replies to the one before are read. An error that Redis replies
        is a result. What comes in goes on coming in, however long it takes.
        """
        loads = _loads(connection, requests)
        results: list[Any] = []
        sent: list[Request] = []
        try:
            _limit(connection, deadline)
            for part in _parts([*loads, *requests]):
                connection.send_packed_command(_packed(connection, part), check_health=False)
                results += [_result(connection, request) for request in sent]
                sent = part
            results += [_result(connection, request) for request in sent]
            if self.is_misplaced(results):
                connection.disconnect()
        except BaseException:  # replies are under way that nobody will read
            connection.disconnect()
            raise
        finally:
            self.pool.release(connection)
        return results[len(loads) :]


def _loads(connection: _PyConnection, requests: Sequence[Request]) -> list[Request]:
    """Return what loads the scripts of requests for several, once for each connection.

    Redis does not run one that it lacks, and runs those after it: they would come in another order
    after its start, or when a replica has become the master.
    """
    names = {request.words[1] for request in requests if request.words[0] == "EVALSHA"}
    if len(names) < 2 or names <= connection.loaded:
        return []
    lacking = names - connection.loaded
    connection.loaded |= names
    return [Request(("SCRIPT", "LOAD", SOURCES[name])) for name in lacking]


def _parts(requests: Sequence[Request]) -> Iterator[list[Request]]:
    return packed(requests, lambda request: request.keys, _PART_KEYS)


def _packed(connection: _PyConnection, part: Sequence[Request]) -> Any:
    return connection.pack_commands([request.words for request in part])


def _limit(connection: _PyConnection, deadline: float) -> None:
    """Have each wait on a connection last until the deadline, or a little longer."""
    socket, seconds = connection._sock, _left(deadline)
    if socket is None:  # another thread closes the store
        raise RedisConnectionError("the connection is closed")
    if abs(seconds - (socket.gettimeout() or 0)) > seconds / 10:  # to set it costs a system call
        socket.settimeout(seconds)


def _result(connection: _PyConnection, request: Request) -> Any:
    try:
        reply = connection.read_response(disconnect_on_error=False)
    except (ResponseError, BusyLoadingError) as error:
        return error
    return request.read(reply)


class AsyncWire(_Wire):
    """The connections to one Redis, for asyncio."""

    def __init__(self, url: str, prefix: str, seconds: float) -> None:
        pool, master = _made(AsyncPool, _place(url, prefix), AsyncRetry(NoBackoff(), 0), seconds)
        super().__init__(pool, _InTimeAsync, master)

    async def take(self, deadline: float) -> _PyConnection:
        """Return a connection, as ``Wire`` does."""
        async with asyncio.timeout(_left(deadline)):
            connection = await self.pool.get_connection()
            try:
                if connection.is_elsewhere:
                    await connection.disconnect()
                    await connection.connect()
                async with asyncio.timeout(_PING_SECONDS):
                    await connection.check_health()
            except BaseException:
                await self.pool.release(connection)
                raise
        return connection

    async def exchange(
        self, connection: _PyConnection, requests: Sequence[Request], deadline: float
    ) -> list[Any]:
        """Send requests, read their replies and return the results, as ``Wire`` does."""
        seconds = _left(deadline)
        loads = _loads(connection, requests)
        results: list[Any] = []
        sent: list[Request] = []
        try:
            for part in _parts([*loads, *requests]):
                async with asyncio.timeout(seconds):
                    packed_part = _packed(connection, part)
                    await connection.send_packed_command(packed_part, check_health=False)
                results += [await _result_async(connection, one, seconds) for one in sent]
                sent = part
            results += [await _result_async(connection, one, seconds) for one in sent]
            if self.is_misplaced(results):
                await connection.disconnect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            await self.pool.release(connection)
        return results[len(loads) :]


async def _result_async(connection: _PyConnection, request: Request, seconds: float) -> Any:
    try:
        async with asyncio.timeout(seconds):
            reply = await connection.read_response(disconnect_on_error=False)
    except (ResponseError, BusyLoadingError) as error:
        return error
    return request.read(reply)


def _place(url: str, prefix: str) -> tuple[str, AnyMaster | None]:
    """Return the URL of a server, and whom to ask for its address if that is not in the URL."""
    if is_sentinel(url):
        behind = SentinelUrl.parse(url)
        return behind.url_at(*_NOWHERE), Master(behind)
    if is_cluster(url):
        master = ClusterMaster(url, prefix)
        return master.url_at(*_NOWHERE), master
    return url, None


def _made(
    pool_class: Any, place: tuple[str, AnyMaster | None], retry: object, seconds: float
) -> tuple[Any, AnyMaster | None]:
    """Return a pool, and the master if somebody is to be asked where it is.

    Raises TypeError or ValueError if the URL has an option that there is not.
    """
    url, master = place
    limits = {
        "socket_connect_timeout": min(_CONNECT_SECONDS, seconds),
        "socket_timeout": seconds,
        "timeout": seconds,
    }
    pool = pool_class.from_url(url, retry=retry, **limits, **_OPTIONS)
    _connection(pool)
    return pool, master


def _connection(pool: Any) -> _PyConnection:
    return pool.connection_class(**pool.connection_kwargs)  # connects nothing
