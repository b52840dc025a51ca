"""Many Commands go to Redis in parts, so that nobody else waits for all of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio.connection import AbstractConnection as AsyncConnection
from redis.connection import AbstractConnection

from statesync.hot.store import AsyncHotStore, HotStore, unwrap
from statesync.settings import Settings

MANY = range(1, 1001)
MOST_KEYS = 64
"""Of one part."""


class OnTheirWay:
    """Counts the requests that are sent and not answered."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = self.most = 0
        for connection_class in (AbstractConnection, AsyncConnection):
            patch.setattr(connection_class, "pack_commands", self.sending(connection_class))
        patch.setattr(AbstractConnection, "read_response", self.reading())
        patch.setattr(AsyncConnection, "read_response", self.reading_async())

    def sending(self, connection_class: Any) -> Any:
        pack = connection_class.pack_commands

        def pack_commands(connection: Any, commands: Any) -> Any:
            self.now += len(commands)
            self.most = max(self.most, self.now)
            return pack(connection, commands)

        return pack_commands

    def reading(self) -> Any:
        read: Any = AbstractConnection.read_response

        def read_response(connection: Any, *args: Any, **kwargs: Any) -> Any:
            self.now -= 1
            return read(connection, *args, **kwargs)

        return read_response

    def reading_async(self) -> Any:
        read: Any = AsyncConnection.read_response

        async def read_response(connection: Any, *args: Any, **kwargs: Any) -> Any:
            self.now -= 1
            return await read(connection, *args, **kwargs)

        return read_response


def check(results: Any, updates: Any, seen: OnTheirWay) -> None:
    versions = [*map(int, map(unwrap, results))]
    assert versions == [*range(versions[0], versions[0] + len(MANY))], "in order, each once"
    assert seen.most == 2 * (MOST_KEYS // len(updates[0].keys))
    assert seen.now == 0


def test_no_more_than_two_parts_are_on_their_way(
    hot: HotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot.create(1)
    seen = OnTheirWay(monkeypatch)
    updates = [hot.commands.update(1, {"gold": i}) for i in MANY]
    check(hot.run_many(updates), updates, seen)


def test_replies_are_read_while_redis_works_on_the_next_part(
    hot: HotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot.create(1)
    seen = OnTheirWay(monkeypatch)
    on_their_way = []

    def read(version: int) -> int:
        on_their_way.append(seen.now)
        return version

    updates = [hot.commands.update(1, {"gold": i}).then(read) for i in MANY]
    check(hot.run_many(updates), updates, seen)
    a_part = MOST_KEYS // len(updates[0].keys)
    assert all(now >= a_part for now in on_their_way[: -2 * a_part])


def test_nor_are_more_with_asyncio(
    hot: HotStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot.create(1)
    updates = [hot.commands.update(1, {"gold": i}) for i in MANY]

    async def update_all() -> list[Any]:
        async with AsyncHotStore.from_settings(settings) as store:
            await store.run(updates[0])  # connects, and loads the script
            seen.append(OnTheirWay(monkeypatch))
            return await store.run_many(updates)

    seen: list[OnTheirWay] = []
    check(asyncio.run(update_all()), updates, seen[0])
