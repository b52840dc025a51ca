"""A Redis behind Sentinels: both stores play on after its master has moved."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import patch

import pytest

from statesync.errors import RedisUnavailable
from statesync.hot.store import AsyncHotStore, HotStore
from tests.conftest import Driver
from tests.sentinels import MASTER, Trio, sentinel_trio


@pytest.fixture
def trio() -> Iterator[Trio]:
    """A trio of the test's own, in which nothing is missing."""
    with sentinel_trio() as running:
        yield running


@pytest.fixture(params=[HotStore, AsyncHotStore])
def store(request: pytest.FixtureRequest, trio: Trio) -> Iterator[Driver]:
    """A store on a trio."""
    with asyncio.Runner() as runner:
        made = request.param(trio.url(), prefix=f"{request.node.name}:", answer_seconds=2)
        driver = Driver(made, None, runner)
        yield driver
        driver.close()


def create_at_once(driver: Driver, char_ids: Iterable[int]) -> None:
    """Create characters, all at the same time."""
    store = driver.store
    if isinstance(store, HotStore):
        with ThreadPoolExecutor(5) as threads:
            list(threads.map(store.create, char_ids))
        return

    async def create() -> None:
        await asyncio.gather(*map(store.create, char_ids))

    driver.runner.run(create())


def in_time(work: Callable[[], Any]) -> Any:
    """Do what a game does while Redis is away: try until it works."""
    while True:
        try:
            return work()
        except RedisUnavailable:
            continue


def test_play_goes_on_after_the_master_is_killed(store: Driver, trio: Trio) -> None:
    store.create(1, gold=1)
    killed = trio.kill_master()
    assert in_time(lambda: store.create(2, gold=1)) == 1
    killed.start()
    assert store.update(2, gold=2) == 2


@pytest.mark.slow
def test_connections_to_a_frozen_master_are_left(store: Driver, trio: Trio) -> None:
    port = trio.master()
    with trio.client(port) as client:
        client.client_pause(200)  # so that each call has a connection of its own
    create_at_once(store, range(1, 6))
    trio.servers[port].send(signal.SIGSTOP)
    try:
        in_time(lambda: store.create(6))
        assert trio.master() != port
        create_at_once(store, range(7, 12))
    finally:
        trio.servers[port].send(signal.SIGCONT)


@pytest.mark.slow
def test_master_that_becomes_a_replica_costs_no_call(store: Driver, trio: Trio) -> None:
    """Its connections are there still, and it refuses changes."""
    store.create(1, gold=1)
    old = trio.master()
    with trio.client(next(iter(trio.sentinels))) as sentinel:
        sentinel.execute_command("SENTINEL", "FAILOVER", MASTER)
    while trio.master() == old:
        store.update(1, gold=2)
    for number in range(100):
        store.update(1, gold=number)
    assert store.get(1).fields["gold"] == "99"


@pytest.mark.slow
def test_sentinel_that_still_calls_a_replica_the_master_costs_no_call(
    store: Driver, trio: Trio
) -> None:
    store.create(1)  # loads the script, also into the replica
    (replica,) = trio.servers.keys() - {trio.master()}
    master = store.store._wire.master
    assert master
    right, late = master._address, iter([replica])  # type: ignore[union-attr]

    def address(*told: Any) -> Any:
        master.address = "127.0.0.1", next(late, 0)
        return master.address if master.address[1] else right(*told)

    pool = store.store._wire.pool
    store.runner.run(pool.disconnect()) if store.is_async else pool.disconnect()
    with patch.object(master, "_address", address):
        assert store.create(2) == 1


@pytest.mark.slow
def test_frozen_sentinel_delays_a_call_and_fails_none(store: Driver, trio: Trio) -> None:
    first, *_ = trio.sentinels.values()
    first.send(signal.SIGSTOP)
    try:
        for number in range(1, 10):
            store.create(number)
            store.store._wire.pool.reset()
    finally:
        first.send(signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.parametrize("face", [HotStore, AsyncHotStore])
def test_no_master_is_told_without_passwords(trio: Trio, face: type) -> None:
    wrong = {
        trio.url().replace(f"/{MASTER}/", "/nobody/"): "'nobody' .* 3 of 3 Sentinels answer$",
        trio.url().replace("other", "wrong"): "0 of 3 Sentinels answer; AuthenticationError",
        f"sentinel://127.0.0.1:1,127.0.0.1:2/{MASTER}/0": "0 of 2 Sentinels answer; .*Error 111",
    }
    for url, says in wrong.items():
        with asyncio.Runner() as runner:
            driver = Driver(face(url, answer_seconds=1), None, runner)
            with pytest.raises(RedisUnavailable, match=says) as caught:
                driver.get(1)
            assert "wrong" not in str(caught.value)
            assert "other" not in str(caught.value)
            driver.close()
