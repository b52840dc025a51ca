"""Owns the connection to Redis: runs Commands, one or many in one round trip, sync and async.

Both stores have the same operations, written once in ``commands``; they differ only in how they run
a Command. Whatever Redis or the network does wrong is raised as one of our errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, Self, TypeVar

import redis.asyncio
from redis import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from statesync.errors import GroupTooLarge, InvalidInput, RedisUnavailable, StatesyncError
from statesync.hot.command import Command
from statesync.hot.keys import Keys
from statesync.hot.operations import AsyncOperations, Commands, GameCommands, SyncOperations
from statesync.settings import Settings, mask_or_hide

__all__ = ["AsyncHotStore", "Commands", "Committer", "GameCommands", "HotStore", "unwrap"]

T = TypeVar("T")


class Committer(Protocol):
    """Saves characters for operations that wait for it; a ``GameStore`` has one."""

    def submit(self, receipts: Mapping[int, int], seconds: float | None = None) -> Future[None]:
        """Save characters from now on; the Future is done when their versions are in PostgreSQL.

        It fails with NotDurable.
        """
        ...


class _Run:
    """Some Commands on their way, until none is left to send."""

    def __init__(self, todo: Sequence[Command[Any]], committer: Committer | None) -> None:
        if committer is None and any(command.receipts for command in todo):
            raise InvalidInput("durable=True needs a GameStore: a HotStore knows only Redis")
        self.committer = committer
        self.results: list[Any] = [None] * len(todo)
        self.left = dict(enumerate(todo))
        self.saving: dict[int, Future[None]] = {}
        """By position: what is saved before the result counts."""

    def read(self, replies: Sequence[Any], read: Callable[[Command[Any], Any], Any]) -> None:
        """Take the replies in; what is ``left`` is to be sent next, or once more."""
        again = {}
        for (i, command), reply in zip(self.left.items(), replies, strict=True):
            self.results[i] = result = read(command, reply)
            if isinstance(result, Command):
                again[i] = result
            elif self.committer and isinstance(result, GroupTooLarge):
                again[i] = command
                self.saving[i] = self.committer.submit(dict.fromkeys(result.char_ids, 0))
            elif self.committer and command.receipts and not isinstance(result, StatesyncError):
                self.saving[i] = self.committer.submit(command.receipts(reply))
        self.left = again

    def saved(self, i: int, error: StatesyncError | None) -> None:
        """Take in that what a Command waited for is saved, or why not."""
        del self.saving[i]
        if error:  # a change that a tie was too large for stays refused
            self.results[i] = self.results[i] if self.left.pop(i, None) else error


class _Connection:
    """What the two stores share: the address of Redis, and what its replies mean."""

    committer: Committer | None = None

    def __init__(self, url: str, prefix: str) -> None:
        self.keys = Keys(prefix)
        self.commands = Commands(self.keys)
        self._address = mask_or_hide(url)

    def _unavailable(self, error: RedisError | OSError) -> RedisUnavailable:
        return RedisUnavailable(f"Redis at {self._address}: {type(error).__name__}: {error}")

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


def _sources(todo: Iterable[Command[Any]]) -> list[bytes]:
    return list({command.script.sha: command.script.source for command in todo}.values())


def _evalsha_args(command: Command[Any]) -> tuple[Any, ...]:
    keys = command.keys
    return (command.script.sha, len(keys), *keys, *command.args)


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
_TIMEOUTS: Any = {**_SECONDS, "max_connections": 50, "timeout": 30}
"""A caller beyond the last connection waits for one."""


class HotStore(_Connection, SyncOperations):
    """Redis, for threads: every operation of ``commands`` as a method, thread-safe."""

    def __init__(self, url: str, *, prefix: str = "") -> None:
        super().__init__(url, prefix)
        retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=1), 3)
        pool = BlockingConnectionPool.from_url(url, retry=retry, **_TIMEOUTS)
        self._redis: Redis = Redis.from_pool(pool)

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
        Raises RedisUnavailable, after which each of them may or may not have happened.
        """
        run = _Run(todo, self.committer)
        for _ in range(_MAX_TRIES):
            run.read(self._replies(list(run.left.values())), self._read)
            for i, saving in list(run.saving.items()):
                run.saved(i, _failure(saving))
            if not run.left:
                return run.results
        raise self._keeps_changing()

    def _replies(self, todo: Sequence[Command[Any]]) -> list[Any]:
        try:
            replies = self._send(todo)
            if missing := _missing(replies):
                with self._redis.pipeline(transaction=False) as pipe:
                    for source in _sources(todo):
                        pipe.script_load(source)
                    pipe.execute()
                again = self._send([todo[i] for i in missing])
                for i, reply in zip(missing, again, strict=True):
                    replies[i] = reply
        except (RedisError, OSError) as error:
            raise self._unavailable(error) from None
        return replies

    def _send(self, todo: Sequence[Command[Any]]) -> list[Any]:
        if not todo:
            return []
        if len(todo) == 1:  # a pipeline costs more; this is what players wait for
            try:
                return [self._redis.evalsha(*_evalsha_args(todo[0]))]
            except ResponseError as error:
                return [error]
        with self._redis.pipeline(transaction=False) as pipe:
            for command in todo:
                pipe.evalsha(*_evalsha_args(command))
            return pipe.execute(raise_on_error=False)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncHotStore(_Connection, AsyncOperations):
    """Redis, for asyncio: the operations of HotStore, as coroutines."""

    def __init__(self, url: str, *, prefix: str = "") -> None:
        super().__init__(url, prefix)
        retry = AsyncRetry(ExponentialWithJitterBackoff(base=0.05, cap=1), 3)
        pool = redis.asyncio.BlockingConnectionPool.from_url(url, retry=retry, **_TIMEOUTS)
        self._redis = redis.asyncio.Redis.from_pool(pool)

    @classmethod
    def from_settings(cls, settings: Settings) -> AsyncHotStore:
        """Connect, at the first operation, to the Redis of ``settings``."""
        return cls(settings.redis_url, prefix=settings.key_prefix)

    async def run(self, command: Command[T]) -> T:
        """Run one Command; raises what its operation raises, and RedisUnavailable."""
        return unwrap((await self.run_many([command]))[0])

    async def run_many(self, todo: Sequence[Command[T]]) -> list[T | StatesyncError]:
        """Run Commands in order in one round trip, as ``HotStore.run_many`` does."""
        run = _Run(todo, self.committer)
        for _ in range(_MAX_TRIES):
            run.read(await self._replies(list(run.left.values())), self._read)
            for i, saving in list(run.saving.items()):
                await asyncio.gather(asyncio.wrap_future(saving), return_exceptions=True)
                run.saved(i, _failure(saving))
            if not run.left:
                return run.results
        raise self._keeps_changing()

    async def _replies(self, todo: Sequence[Command[Any]]) -> list[Any]:
        try:
            replies = await self._send(todo)
            if missing := _missing(replies):
                async with self._redis.pipeline(transaction=False) as pipe:
                    for source in _sources(todo):
                        pipe.script_load(source)
                    await pipe.execute()
                again = await self._send([todo[i] for i in missing])
                for i, reply in zip(missing, again, strict=True):
                    replies[i] = reply
        except (RedisError, OSError) as error:
            raise self._unavailable(error) from None
        return replies

    async def _send(self, todo: Sequence[Command[Any]]) -> list[Any]:
        if not todo:
            return []
        if len(todo) == 1:
            try:
                return [await self._redis.evalsha(*_evalsha_args(todo[0]))]
            except ResponseError as error:
                return [error]
        async with self._redis.pipeline(transaction=False) as pipe:
            for command in todo:
                pipe.evalsha(*_evalsha_args(command))
            return await pipe.execute(raise_on_error=False)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
