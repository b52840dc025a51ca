"""Owns the connection to Redis: runs Commands, one or many in one round trip, sync and async.

Both stores have the same operations, written once in ``commands``; they differ only in how they run
a Command. Whatever Redis or the network does wrong is raised as one of our errors.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Self, TypeVar

from redis import BlockingConnectionPool
from redis.asyncio.connection import BlockingConnectionPool as AsyncPool
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import BusyLoadingError, NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from statesync.errors import (
    InvalidInput,
    RedisUnavailable,
    SettingsError,
    StatesyncError,
)
from statesync.hot.command import Command
from statesync.hot.keys import Keys
from statesync.hot.operations import AsyncOperations, Commands, GameCommands, SyncOperations
from statesync.hot.reverts import AsyncListener, Listener, Reverted
from statesync.hot.runs import Committer, Run
from statesync.hot.trouble import is_loading, is_replica, tell
from statesync.settings import Settings, mask_or_hide

__all__ = ["AsyncHotStore", "Commands", "GameCommands", "HotStore", "unwrap"]

T = TypeVar("T")


class _Connection:
    """What the two stores share: the address of Redis, and what its replies mean."""

    committer: Committer | None = None
    _closed = False

    def __init__(self, url: str, prefix: str) -> None:
        self.keys = Keys(prefix)
        self.commands = Commands(self.keys)
        self._address = mask_or_hide(url)

    def _made(self, pool_class: Any, url: str, retry: object) -> Any:
        """Return a pool. Raises SettingsError: redis-py names an option that it does not have."""
        try:
            pool = pool_class.from_url(url, retry=retry, **_OPTIONS)
            _connection(pool)
        except (TypeError, ValueError) as error:
            reason = str(error).rpartition("() ")[2]
            raise SettingsError(
                f"STATESYNC_REDIS_URL: {self._address} is not accepted: {reason}"
            ) from None
        return pool

    def _unavailable(self, error: Exception, more: str = "") -> RedisUnavailable:
        return RedisUnavailable(f"Redis at {self._address}: {tell(error)}{more}")

    def _lost(self, error: Exception, *, repeatable: bool) -> RedisUnavailable:
        """Return the error for Commands whose connection broke after they were sent."""
        more = "" if repeatable else "; the change may or may not have been made"
        return self._unavailable(error, more)

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidInput("the store is closed")

    def _keeps_changing(self) -> RedisUnavailable:
        return RedisUnavailable(
            f"Redis at {self._address}: the sessions of a character keep changing; try again"
        )

    def _read(self, command: Command[Any], reply: Any) -> Any:
        if not isinstance(reply, Exception):
            try:
                return command.parse(reply)
            except StatesyncError as error:
                return error
        if isinstance(reply, ResponseError) and (ours := command.error(str(reply))):
            return ours
        if isinstance(reply, RedisError):
            return self._unavailable(reply)
        raise reply


def _failure(saving: Future[None]) -> StatesyncError | None:
    """Wait for a Future; return our own error that it failed with, if it did."""
    error = saving.exception()
    if error is None or isinstance(error, StatesyncError):
        return error
    raise error


_Request = tuple[str | bytes | int, ...]


def _load_requests(todo: Iterable[Command[Any]]) -> list[_Request]:
    sources = {command.script.sha: command.script.source for command in todo}
    return [("SCRIPT", "LOAD", source) for source in sources.values()]


def _requests(todo: Sequence[Command[Any]]) -> list[_Request]:
    return [
        ("EVALSHA", command.script.sha, len(command.keys), *command.keys, *command.args)
        for command in todo
    ]


def _are_repeatable(todo: Sequence[Command[Any]]) -> bool:
    return all(command.repeatable for command in todo)


def _missing(replies: Sequence[Any]) -> list[int]:
    return [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]


def unwrap(result: T | StatesyncError) -> T:
    """Return the result of one Command of ``run_many``, or raise its error."""
    if isinstance(result, StatesyncError):
        raise result
    return result


_MAX_TRIES = 100
"""Upper bound on tries of a Command with more keys, each time because it turns out to need them."""
_SECONDS = {"socket_connect_timeout": 5, "socket_timeout": 30, "health_check_interval": 30}
_OPTIONS: Any = {**_SECONDS, "max_connections": 50, "timeout": 30, "protocol": 2}
"""A caller beyond the last connection waits for one. With protocol 3, redis-py expects messages at
any time, and so does not see that a connection at rest is closed."""
_BACKOFF = ExponentialWithJitterBackoff(base=0.05, cap=1)
_RETRIES = 3
"""How many times a connection is tried again; and how many times Commands are sent again whose
connection broke, if all of them may be run twice."""


_PyConnection = Any
"""One of redis-py's connections: most of their methods have no types."""


def _exchange(connection: _PyConnection, requests: Sequence[_Request]) -> list[Any]:
    """Send requests and read their replies; an error that Redis replies is one of these."""
    try:
        connection.send_packed_command(connection.pack_commands(requests))
        replies = [_read_reply(connection) for _ in requests]
    except BaseException:  # replies are under way that nobody will read
        connection.disconnect()
        raise
    if any(map(is_replica, replies)):
        connection.disconnect()
    return replies


def _read_reply(connection: _PyConnection) -> Any:
    try:
        return connection.read_response(disconnect_on_error=False)
    except (ResponseError, BusyLoadingError) as error:
        return error


async def _exchange_async(connection: _PyConnection, requests: Sequence[_Request]) -> list[Any]:
    """Do what ``_exchange`` does."""
    try:
        await connection.send_packed_command(connection.pack_commands(requests))
        replies = [await _read_reply_async(connection) for _ in requests]
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    if any(map(is_replica, replies)):
        await connection.disconnect()
    return replies


async def _read_reply_async(connection: _PyConnection) -> Any:
    try:
        return await connection.read_response(disconnect_on_error=False)
    except (ResponseError, BusyLoadingError) as error:
        return error


def _connection(pool: Any) -> _PyConnection:
    """Return a connection of its own, not the pool's; nothing is connected yet."""
    return pool.connection_class(**pool.connection_kwargs)


class HotStore(_Connection, SyncOperations):
    """Redis, for threads: every operation of ``commands`` as a method, thread-safe."""

    def __init__(self, url: str, *, prefix: str = "") -> None:
        super().__init__(url, prefix)
        retry = Retry(_BACKOFF, _RETRIES)  # to connect: redis-py itself sends no Command again
        self._pool: Any = self._made(BlockingConnectionPool, url, retry)
        self._listener = Listener(partial(_connection, self._pool), self.keys.reverted)

    @classmethod
    def from_settings(cls, settings: Settings) -> HotStore:
        """Connect, at the first operation, to the Redis of ``settings``."""
        return cls(settings.redis_url, prefix=settings.key_prefix)

    def run(self, command: Command[T]) -> T:
        """Run one Command; raises what its operation raises, and RedisUnavailable."""
        return unwrap(self.run_many([command])[0])

    def run_many(self, todo: Sequence[Command[T]]) -> list[T | StatesyncError]:
        """Run Commands in order in one round trip, each atomic by itself.

        An operation that is refused has its error as its result; the others are not affected.
        If the connection breaks, they are sent again only if all of them may be run twice; if not,
        RedisUnavailable is raised: each of them may or may not have been made.
        """
        run = Run(todo, self.committer)
        for _ in range(_MAX_TRIES):
            run.read(self._replies(list(run.left.values())), self._read)
            for i, saving in list(run.saving.items()):
                run.saved(i, _failure(saving))
            if not run.left:
                return run.results
        raise self._keeps_changing()

    def _replies(self, todo: Sequence[Command[Any]]) -> list[Any]:
        if not todo:
            return []
        repeatable = _are_repeatable(todo)
        replies = self._send(_requests(todo), repeatable=repeatable)
        if missing := _missing(replies):
            lacking = [todo[i] for i in missing]
            self._send(_load_requests(lacking), repeatable=True)
            again = self._send(_requests(lacking), repeatable=repeatable)
            for i, reply in zip(missing, again, strict=True):
                replies[i] = reply
        return replies

    def _send(self, requests: Sequence[_Request], *, repeatable: bool) -> list[Any]:
        """Return the replies, those that are errors among them.

        Sends again what Redis has not run, or what may be run twice. Raises RedisUnavailable.
        """
        self._check_open()
        for tries_left in range(_RETRIES, -1, -1):
            try:
                connection = self._pool.get_connection()
            except (RedisError, OSError) as error:  # nothing is sent yet
                raise self._unavailable(error) from None
            try:
                replies = _exchange(connection, requests)
                if not tries_left or not all(map(is_loading, replies)):
                    return replies
            except (RedisError, OSError) as error:
                if not tries_left or not repeatable:
                    raise self._lost(error, repeatable=repeatable) from None
            finally:
                self._pool.release(connection)
            time.sleep(_BACKOFF.compute(_RETRIES - tries_left))
        raise AssertionError("the last try returns or raises")

    def reverts(self) -> Iterator[Reverted]:
        """Yield what is set to PostgreSQL's state since Redis had gone back in time, as it happens.

        It waits for the next one until the store is closed. Raises InvalidInput if it is.
        """
        self._check_open()
        return self._listener.listen()

    def close(self) -> None:
        """Close the connections; from now on every operation raises InvalidInput."""
        self._closed = True
        self._listener.close()
        self._pool.disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncHotStore(_Connection, AsyncOperations):
    """Redis, for asyncio: the operations of HotStore, as coroutines."""

    def __init__(self, url: str, *, prefix: str = "") -> None:
        super().__init__(url, prefix)
        retry = AsyncRetry(_BACKOFF, _RETRIES)
        self._pool: Any = self._made(AsyncPool, url, retry)
        self._listener = AsyncListener(partial(_connection, self._pool), self.keys.reverted)

    @classmethod
    def from_settings(cls, settings: Settings) -> AsyncHotStore:
        """Connect, at the first operation, to the Redis of ``settings``."""
        return cls(settings.redis_url, prefix=settings.key_prefix)

    async def run(self, command: Command[T]) -> T:
        """Run one Command; raises what its operation raises, and RedisUnavailable."""
        return unwrap((await self.run_many([command]))[0])

    async def run_many(self, todo: Sequence[Command[T]]) -> list[T | StatesyncError]:
        """Run Commands in order in one round trip, as ``HotStore.run_many`` does."""
        run = Run(todo, self.committer)
        for _ in range(_MAX_TRIES):
            run.read(await self._replies(list(run.left.values())), self._read)
            for i, saving in list(run.saving.items()):
                await asyncio.gather(asyncio.wrap_future(saving), return_exceptions=True)
                run.saved(i, _failure(saving))
            if not run.left:
                return run.results
        raise self._keeps_changing()

    async def _replies(self, todo: Sequence[Command[Any]]) -> list[Any]:
        if not todo:
            return []
        repeatable = _are_repeatable(todo)
        replies = await self._send(_requests(todo), repeatable=repeatable)
        if missing := _missing(replies):
            lacking = [todo[i] for i in missing]
            await self._send(_load_requests(lacking), repeatable=True)
            again = await self._send(_requests(lacking), repeatable=repeatable)
            for i, reply in zip(missing, again, strict=True):
                replies[i] = reply
        return replies

    async def _send(self, requests: Sequence[_Request], *, repeatable: bool) -> list[Any]:
        """Return the replies, as ``HotStore`` does."""
        self._check_open()
        for tries_left in range(_RETRIES, -1, -1):
            try:
                connection = await self._pool.get_connection()
            except (RedisError, OSError) as error:  # nothing is sent yet
                raise self._unavailable(error) from None
            try:
                replies = await _exchange_async(connection, requests)
                if not tries_left or not all(map(is_loading, replies)):
                    return replies
            except (RedisError, OSError) as error:
                if not tries_left or not repeatable:
                    raise self._lost(error, repeatable=repeatable) from None
            finally:
                await self._pool.release(connection)
            await asyncio.sleep(_BACKOFF.compute(_RETRIES - tries_left))
        raise AssertionError("the last try returns or raises")

    def reverts(self) -> AsyncIterator[Reverted]:
        """Yield what is reverted, as ``HotStore.reverts`` does."""
        self._check_open()
        return self._listener.listen()

    async def aclose(self) -> None:
        """Close the connections; from now on every operation raises InvalidInput."""
        self._closed = True
        await self._listener.aclose()
        await self._pool.disconnect()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
