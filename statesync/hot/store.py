"""Owns the connection to Redis: runs Commands, one or many in one round trip, sync and async.

Both stores have the same operations, written once in ``commands``; they differ only in how they run
a Command. Whatever Redis or the network does wrong is raised as one of our errors.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Self, TypeVar
from urllib.parse import unquote

from redis.exceptions import NoScriptError, RedisError, ResponseError

from statesync.errors import (
    InvalidInput,
    RedisForbidden,
    RedisUnavailable,
    SettingsError,
    StatesyncError,
)
from statesync.hot.command import Command
from statesync.hot.exchange import (
    ANSWER_SECONDS,
    TRIES,
    AsyncWire,
    Request,
    Wire,
    is_last,
    pause_seconds,
)
from statesync.hot.keys import Keys
from statesync.hot.operations import AsyncOperations, Commands, GameCommands, SyncOperations
from statesync.hot.reverts import AsyncListener, Listener, Reverted
from statesync.hot.rights import grant, is_refusal
from statesync.hot.runs import Committer, Run
from statesync.hot.spans import span_of
from statesync.hot.trouble import is_refused, tell
from statesync.sentinels import split_url
from statesync.settings import Settings
from statesync.urls import mask_or_hide

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
        self.user = unquote(split_url(url).username or "default")

    def _made(self, wire: Callable[[str, str, float], T], url: str, seconds: float) -> T:
        """Return a wire. Raises SettingsError: redis-py names an option that it does not have."""
        try:
            return wire(url, self.keys.prefix, seconds)
        except (TypeError, ValueError) as error:
            reason = str(error).rpartition("() ")[2]
            raise SettingsError(
                f"STATESYNC_REDIS_URL: {self._address} is not accepted: {reason}"
            ) from None

    def _unavailable(self, error: Exception, more: str = "") -> RedisUnavailable:
        said = f"Redis at {self._address}: {tell(error)}{more}"
        if not is_refusal(error):
            return RedisUnavailable(said)
        advice = grant(str(error), self.user, self.keys.prefix)
        return RedisForbidden(f"{said}; as its administrator: {advice}" if advice else said)

    def _lost(self, error: Exception, *, repeatable: bool) -> RedisUnavailable:
        """Return the error for Commands whose connection broke after they were sent."""
        more = "" if repeatable else "; the change may or may not have been made"
        return self._unavailable(error, more)

    def _check_loaded(self, results: Sequence[Any]) -> None:
        """Raise RedisUnavailable unless Redis has taken all scripts."""
        for result in results:
            if isinstance(result, RedisError):
                raise self._unavailable(result)

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidInput("the store is closed")

    def _keeps_changing(self) -> RedisUnavailable:
        return RedisUnavailable(
            f"Redis at {self._address}: the sessions of a character keep changing; try again"
        )

    def _told(self, command: Command[Any], result: Any) -> Any:
        """Return a result; if it is an error of Redis, what we call it."""
        if isinstance(result, ResponseError) and (ours := command.error(str(result))):
            return ours
        if isinstance(result, RedisError):
            in_part = is_refusal(result) and not command.repeatable
            return self._unavailable(result, "; the change may be made in part" * in_part)
        return result


def _failure(saving: Future[None]) -> StatesyncError | None:
    """Wait for a Future; return our own error that it failed with, if it did."""
    error = saving.exception()
    if error is None or isinstance(error, StatesyncError):
        return error
    raise error


def _load_requests(todo: Iterable[Command[Any]]) -> list[Request]:
    sources = {command.script.sha: command.script.source for command in todo}
    return [Request(("SCRIPT", "LOAD", source)) for source in sources.values()]


def _requests(todo: Sequence[Command[Any]]) -> list[Request]:
    return [
        Request(("EVALSHA", one.script.sha, len(one.keys), *one.keys, *one.args), one.read)
        for one in todo
    ]


def _are_repeatable(todo: Sequence[Command[Any]]) -> bool:
    return all(command.repeatable for command in todo)


def _missing(results: Sequence[Any]) -> list[int]:
    return [i for i, result in enumerate(results) if isinstance(result, NoScriptError)]


def _take_in(results: list[Any], sent: Sequence[int], got: Sequence[Any]) -> list[int]:
    """Take the results of some requests in; return those that Redis has refused to look at."""
    for i, result in zip(sent, got, strict=True):
        results[i] = result
    return [i for i in sent if is_refused(results[i])]


def unwrap(result: T | StatesyncError) -> T:
    """Return the result of one Command of ``run_many``, or raise its error."""
    if isinstance(result, StatesyncError):
        raise result
    return result


_MAX_TRIES = 100
"""Upper bound on tries of a Command with more keys, each time because it turns out to need them."""


class HotStore(_Connection, SyncOperations):
    """Redis, for threads: every operation of ``commands`` as a method, thread-safe."""

    def __init__(
        self, url: str, *, prefix: str = "", answer_seconds: float = ANSWER_SECONDS
    ) -> None:
        super().__init__(url, prefix)
        self._wire = self._made(Wire, url, answer_seconds)
        self._listener = Listener(self._wire.connection, self.keys.reverted)

    @classmethod
    def from_settings(
        cls, settings: Settings, *, answer_seconds: float = ANSWER_SECONDS
    ) -> HotStore:
        """Connect, at the first operation, to the Redis of ``settings``.

        An operation waits ``answer_seconds`` for Redis, whatever it waits for.
        """
        url, prefix = settings.redis_url, settings.prefix
        return cls(url, prefix=prefix, answer_seconds=answer_seconds)

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
            todo = list(run.left.values())
            deadline = run.deadline(self._wire.seconds)
            with span_of(todo):
                results = self._results(todo, deadline)
            run.take(results, self._told)
            for i, saving in list(run.saving.items()):
                run.saved(i, _failure(saving))
            if not run.left:
                return run.results
        raise self._keeps_changing()

    def _results(self, todo: Sequence[Command[Any]], deadline: float) -> list[Any]:
        if not todo:
            return []
        repeatable = _are_repeatable(todo)
        results = self._send(_requests(todo), deadline, repeatable=repeatable)
        if missing := _missing(results):
            lacking = [todo[i] for i in missing]
            loaded = self._send(_load_requests(lacking), deadline, repeatable=True)
            self._check_loaded(loaded)
            again = self._send(_requests(lacking), deadline, repeatable=repeatable)
            for i, result in zip(missing, again, strict=True):
                results[i] = result
        return results

    def _send(self, requests: Sequence[Request], deadline: float, *, repeatable: bool) -> list[Any]:
        """Return the results, those that are errors among them.

        Sends again what Redis has not run, or what may be run twice. Raises RedisUnavailable.
        """
        results: list[Any] = [None] * len(requests)
        left = [*range(len(requests))]
        for tries_left in range(TRIES - 1, -1, -1):
            self._check_open()
            may_repeat = True
            try:
                connection = self._wire.take(deadline)
                may_repeat = repeatable
                got = self._wire.exchange(connection, [requests[i] for i in left], deadline)
                left = _take_in(results, left, got)
                if not left or is_last(tries_left, deadline):
                    return results
            except (RedisError, OSError) as error:
                if is_last(tries_left, deadline) or not may_repeat:
                    raise self._lost(error, repeatable=may_repeat) from None
            time.sleep(pause_seconds(tries_left, deadline))
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
        self._wire.pool.disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncHotStore(_Connection, AsyncOperations):
    """Redis, for asyncio: the operations of HotStore, as coroutines."""

    def __init__(
        self, url: str, *, prefix: str = "", answer_seconds: float = ANSWER_SECONDS
    ) -> None:
        super().__init__(url, prefix)
        self._wire = self._made(AsyncWire, url, answer_seconds)
        self._loop: asyncio.AbstractEventLoop | None = None
        """The event loop that used it first, to which its connections belong."""
        self._listener = AsyncListener(self._wire.connection, self.keys.reverted)

    @classmethod
    def from_settings(
        cls, settings: Settings, *, answer_seconds: float = ANSWER_SECONDS
    ) -> AsyncHotStore:
        """Connect, as ``HotStore.from_settings`` does."""
        url, prefix = settings.redis_url, settings.prefix
        return cls(url, prefix=prefix, answer_seconds=answer_seconds)

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise InvalidInput(
                "the store belongs to another event loop, the one that used it first; "
                "make one for each asyncio.run"
            )

    async def run(self, command: Command[T]) -> T:
        """Run one Command; raises what its operation raises, and RedisUnavailable."""
        return unwrap((await self.run_many([command]))[0])

    async def run_many(self, todo: Sequence[Command[T]]) -> list[T | StatesyncError]:
        """Run Commands in order in one round trip, as ``HotStore.run_many`` does."""
        run = Run(todo, self.committer)
        for _ in range(_MAX_TRIES):
            todo = list(run.left.values())
            deadline = run.deadline(self._wire.seconds)
            with span_of(todo):
                results = await self._results(todo, deadline)
            run.take(results, self._told)
            for i, saving in list(run.saving.items()):
                await asyncio.gather(asyncio.wrap_future(saving), return_exceptions=True)
                run.saved(i, _failure(saving))
            if not run.left:
                return run.results
        raise self._keeps_changing()

    async def _results(self, todo: Sequence[Command[Any]], deadline: float) -> list[Any]:
        if not todo:
            return []
        repeatable = _are_repeatable(todo)
        results = await self._send(_requests(todo), deadline, repeatable=repeatable)
        if missing := _missing(results):
            lacking = [todo[i] for i in missing]
            loaded = await self._send(_load_requests(lacking), deadline, repeatable=True)
            self._check_loaded(loaded)
            again = await self._send(_requests(lacking), deadline, repeatable=repeatable)
            for i, result in zip(missing, again, strict=True):
                results[i] = result
        return results

    async def _send(
        self, requests: Sequence[Request], deadline: float, *, repeatable: bool
    ) -> list[Any]:
        """Return the results, as ``HotStore`` does."""
        results: list[Any] = [None] * len(requests)
        left = [*range(len(requests))]
        for tries_left in range(TRIES - 1, -1, -1):
            self._check_open()
            self._check_loop()
            may_repeat = True
            try:
                connection = await self._wire.take(deadline)
                may_repeat = repeatable
                got = await self._wire.exchange(connection, [requests[i] for i in left], deadline)
                left = _take_in(results, left, got)
                if not left or is_last(tries_left, deadline):
                    return results
            except (RedisError, OSError) as error:
                if is_last(tries_left, deadline) or not may_repeat:
                    raise self._lost(error, repeatable=may_repeat) from None
            await asyncio.sleep(pause_seconds(tries_left, deadline))
        raise AssertionError("the last try returns or raises")

    def reverts(self) -> AsyncIterator[Reverted]:
        """Yield what is reverted, as ``HotStore.reverts`` does."""
        self._check_open()
        return self._listener.listen()

    async def aclose(self) -> None:
        """Close the connections; from now on every operation raises InvalidInput."""
        self._closed = True
        self._check_loop()
        await self._listener.aclose()
        await self._wire.pool.disconnect()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
