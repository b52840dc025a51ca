"""Owns where the master is: Sentinels are asked for its address whenever a connection is made.

redis-py's pool for Sentinels cannot wait for a free connection, so only its client is used.
"""

from __future__ import annotations

import random
from typing import Any

from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from statesync.hot.trouble import tell
from statesync.sentinels import SentinelUrl

__all__ = ["Address", "Master"]

_SENTINEL_SECONDS = 1.0
"""How long one Sentinel may take, at most: the next one may be well."""

Address = tuple[str, int]


class Master:
    """The master of a URL, as its Sentinels know it. Threads and processes may share it."""

    def __init__(self, url: SentinelUrl) -> None:
        self._url = url
        self.address: Address | None = None
        """Where it was when it was last asked for."""

    def find(self, seconds: float) -> Address:
        """Ask for the address, for about half of ``seconds``. Raises redis-py's ConnectionError."""
        options = self._options(seconds, Retry)
        sentinels = Sentinel(self._hosts(), sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        errors = []
        for client in sentinels.sentinels:
            try:
                if address := self._address(sentinels, client.sentinel_masters()):
                    return address
            except RedisError as error:
                errors.append(error)
            finally:
                client.close()
        raise self._not_found(errors)

    async def find_async(self, seconds: float) -> Address:
        """Ask for the address, as ``find`` does."""
        options = self._options(seconds, AsyncRetry)
        sentinels = AsyncSentinel(self._hosts(), sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        errors = []
        for client in sentinels.sentinels:
            try:
                if address := self._address(sentinels, await client.sentinel_masters()):
                    return address
            except RedisError as error:
                errors.append(error)
            finally:
                await client.aclose()
        raise self._not_found(errors)

    def _address(self, sentinels: Any, masters: Any) -> Address | None:
        """Return where the master is by what a Sentinel says; None if it does not know."""
        state = masters.get(self._url.master)
        if not state or not sentinels.check_master_state(state, self._url.master):
            return None
        self.address = state["ip"], state["port"]
        return self.address

    def _not_found(self, errors: list[RedisError]) -> RedisConnectionError:
        asked = len(self._url.hosts)
        found = f"{asked - len(errors)} of {asked} Sentinels answer"
        reasons = "".join(f"; {reason}" for reason in sorted({*map(tell, errors)}))
        return RedisConnectionError(
            f"there is no master {self._url.master!r} that is up: {found}{reasons}"
        )

    def _hosts(self) -> list[Address]:
        """Return the Sentinels in any order: one that is away delays not every connection."""
        return random.sample(self._url.hosts, len(self._url.hosts))

    def _options(self, seconds: float, retry: Any) -> dict[str, Any]:
        """Return the options of connections to Sentinels, each of which has its share of time."""
        share = min(_SENTINEL_SECONDS, seconds / 2 / len(self._url.hosts))
        limits = {"socket_timeout": share, "socket_connect_timeout": share}
        return {**limits, **self._url.sentinel_login, "retry": retry(NoBackoff(), 0)}
