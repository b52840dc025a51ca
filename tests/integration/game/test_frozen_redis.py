"""A Redis that is frozen, not gone: nobody waits for it longer than was agreed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from statesync import AsyncGameStore, GameStore, LoginService, Settings
from statesync.embedded.servers import Servers
from statesync.errors import RedisUnavailable
from statesync.game import client
from tests.integration.game.test_frozen_postgresql import takes_at_most

REDIS_SECONDS = 1.0
LATEST_SECONDS = 4.0
MORE_THAN_CONNECTIONS = 60


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "REDIS_SECONDS", REDIS_SECONDS)


@pytest.fixture
def freeze(embedded: Servers) -> Iterator[Callable[[], None]]:
    """Stop Redis; the end of the test lets it go on."""
    assert embedded.valkey.process
    server = psutil.Process(embedded.valkey.process.pid)
    yield server.suspend
    server.send_signal(signal.SIGCONT)


OPERATIONS: dict[str, Callable[[GameStore], object]] = {
    "update": lambda game: game.update(1, gold=2),
    "get": lambda game: game.get(1),
    "login": lambda game: LoginService(game).login(1),
}


@pytest.mark.parametrize("is_connected", [True, False])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_ends(
    settings: Settings, freeze: Callable[[], None], name: str, is_connected: bool
) -> None:
    game = GameStore(settings)
    if is_connected:
        game.create(1, gold=1)
    freeze()
    with takes_at_most(LATEST_SECONDS), pytest.raises(RedisUnavailable, match="does not answer"):
        OPERATIONS[name](game)
    with takes_at_most(LATEST_SECONDS):
        game.close()


def test_crowd_ends(settings: Settings, freeze: Callable[[], None]) -> None:
    with GameStore(settings) as game, ThreadPoolExecutor(MORE_THAN_CONNECTIONS) as threads:
        game.create(1)
        freeze()
        with takes_at_most(2 * LATEST_SECONDS):
            waiting = [threads.submit(game.get, 1) for _ in range(MORE_THAN_CONNECTIONS)]
            assert {type(future.exception()) for future in waiting} == {RedisUnavailable}


@pytest.mark.parametrize("is_connected", [True, False])
def test_durable_covers_redis(
    settings: Settings,
    freeze: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    is_connected: bool,
) -> None:
    monkeypatch.setattr(client, "REDIS_SECONDS", 60.0)
    game = GameStore(settings, durable_seconds=REDIS_SECONDS)
    if is_connected:
        game.create(1, durable=True)
    freeze()
    with takes_at_most(LATEST_SECONDS), pytest.raises(RedisUnavailable, match="does not answer"):
        game.update(1, gold=2, durable=True)


@pytest.mark.parametrize("is_connected", [True, False])
def test_operation_ends_for_asyncio(
    settings: Settings, freeze: Callable[[], None], is_connected: bool
) -> None:
    async def play() -> None:
        async with AsyncGameStore(settings, durable_seconds=REDIS_SECONDS) as game:
            if is_connected:
                await game.create(1, gold=1)
            freeze()
            with takes_at_most(LATEST_SECONDS):
                calls = [game.update(1, gold=2), game.update(1, gold=2, durable=True)]
                calls += [game.mark_dirty(1) for _ in range(MORE_THAN_CONNECTIONS)]
                results = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(result) for result in results} == {RedisUnavailable}

    asyncio.run(play())


def test_play_goes_on_afterwards(
    embedded: Servers, settings: Settings, freeze: Callable[[], None]
) -> None:
    assert embedded.valkey.process
    with GameStore(settings) as game:
        game.create(1, gold=1)
        freeze()
        with pytest.raises(RedisUnavailable):
            game.get(1)
        psutil.Process(embedded.valkey.process.pid).send_signal(signal.SIGCONT)
        assert game.update(1, gold=2, durable=True) == 2
        assert game.get(1).fields["gold"] == "2"
