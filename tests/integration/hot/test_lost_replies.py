"""A lost reply: what may be sent again is; any other change is not made twice, and says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import redis

from statesync.errors import RedisUnavailable
from statesync.hot import exchange
from statesync.hot.commands.together import Together
from statesync.hot.store import AsyncHotStore, HotStore
from tests.conftest import Driver
from tests.integration.hot.cut import Proxy, cutting_proxy

if TYPE_CHECKING:
    from statesync.embedded.servers import Servers
    from statesync.settings import Settings

LEASE = 60_000_000
FIGHT = uuid4()
OTHER_FIGHT = uuid4()


@pytest.fixture
def proxy(embedded: Servers) -> Iterator[Proxy]:
    url = embedded.redis_url().partition("?")[0]
    with cutting_proxy(url.removeprefix("unix://")) as made:
        yield made


@pytest.fixture(params=[HotStore, AsyncHotStore])
def game(request: pytest.FixtureRequest, proxy: Proxy, hot: HotStore) -> Iterator[Driver]:
    """A store behind the proxy, with characters and a fight; ``hot`` is another client."""
    prefix = hot.keys.prefix
    with asyncio.Runner() as runner, redis.Redis.from_url(proxy.url) as raw:
        driver = Driver(request.param(proxy.url, prefix=prefix), raw, runner)
        for char_id in (1, 2, 3):
            driver.create(char_id, gold=1)
        driver.open_session("combat", [1, 2], {"monsters": []}, session_id=FIGHT)
        yield driver
        driver.close()


UNSAFE: dict[str, Callable[[Driver], Any]] = {
    "update": lambda game: game.update(1, gold=2),
    "create": lambda game: game.create(9, gold=2),
    "open_session": lambda game: game.open_session(
        "combat", [3], {"monsters": []}, session_id=OTHER_FIGHT
    ),
    "update_session": lambda game: game.update_session("combat", FIGHT, {"turn_order": [1]}),
    "join_session": lambda game: game.join_session("combat", FIGHT, 3),
    "leave_session": lambda game: game.leave_session("combat", FIGHT, 2),
    "update_together of one": lambda game: game.update_together({1: {"gold": 2}}),
    "count": lambda game: game.count({"saved": 1}),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_change_that_may_have_been_made_is_not_repeated(
    game: Driver, proxy: Proxy, hot: HotStore, raw: Any, name: str
) -> None:
    after_first: list[Any] = []

    def look() -> None:
        hot.update(1, rank="other")
        after_first.append(everything(raw, hot))

    proxy.before_cut = look
    with pytest.raises(RedisUnavailable, match="may or may not have been made"):
        UNSAFE[name](game)
    assert everything(raw, hot) == after_first[0]


def everything(raw: Any, hot: HotStore) -> dict[bytes, Any]:
    """All hashes of the test, and the marks."""
    found = {}
    for key in raw.scan_iter(f"{hot.keys.prefix}*", _type="hash"):
        found[key] = raw.hgetall(key)
    return found | {b"dirty": raw.smembers(hot.keys.dirty)}


def test_value_of_another_writer_survives(game: Driver, proxy: Proxy, hot: HotStore) -> None:
    proxy.before_cut = lambda: hot.update(1, gold=99)
    with pytest.raises(RedisUnavailable, match="may or may not have been made"):
        game.update(1, gold=2)
    assert hot.get(1).fields["gold"] == "99"


SAFE: dict[str, Callable[[Driver], Any]] = {
    "get": lambda game: game.get(1).fields["gold"],
    "get_full_state": lambda game: game.get_full_state(1).character.fields["gold"],
    "get_session": lambda game: game.get_session("combat", FIGHT).participants,
    "mark_dirty": lambda game: game.mark_dirty(1),
    "update_together": lambda game: game.update_together({1: {"gold": 2}, 2: {"gold": 0}}),
    "expect": lambda game: game.update_together(Together().expect(2, gold=1).update(1, gold=2)),
    "log": lambda game: game.update_session("combat", FIGHT, log=["hit"]),
    "close_session": lambda game: game.close_session("combat", FIGHT, {"turn_order": []}),
    "claim": lambda game: game.claim(1, lease_us=LEASE),
    "claim_dirty": lambda game: game.claim_dirty(
        lease_us=LEASE, max_in_flight=9, count=9, round_ms=60_000, whole=True
    ),
    "status": lambda game: game.status(),
    "evict": lambda game: game.evict(1),
    "two in one call": lambda game: game.run_many(
        [game.store.commands.get(1), game.store.commands.peek(2)]
    ),
}


@pytest.mark.parametrize("name", SAFE)
def test_what_is_safe_twice_is_sent_again(
    game: Driver, proxy: Proxy, hot: HotStore, name: str
) -> None:
    proxy.before_cut = lambda: hot.update(3, gold=99)
    SAFE[name](game)
    assert proxy.before_cut is None, "the first reply was cut off"
    assert hot.get(3).fields["gold"] == "99"


def test_trade_is_made_once_and_what_others_wrote_since_survives(
    game: Driver, proxy: Proxy, hot: HotStore
) -> None:
    proxy.before_cut = lambda: hot.update(1, gold=99)
    versions = game.update_together({1: {"gold": 2}, 2: {"gold": 0}})
    assert versions == {1: 3, 2: 3}
    assert [hot.get(i).fields["gold"] for i in (1, 2)] == ["99", "0"]


def test_one_unsafe_change_keeps_the_others_from_being_repeated(
    game: Driver, proxy: Proxy, hot: HotStore
) -> None:
    proxy.before_cut = lambda: hot.update(2, gold=99)
    commands = game.store.commands
    with pytest.raises(RedisUnavailable, match="may or may not have been made"):
        game.run_many([commands.get(1), commands.update(2, gold=2)])
    assert hot.get(2).fields["gold"] == "99"


@pytest.mark.parametrize("store_type", [HotStore, AsyncHotStore])
def test_connections_that_redis_has_closed_are_made_anew(
    store_type: Any, hot: HotStore, settings: Settings, raw: Any
) -> None:
    hot.create(1)
    with asyncio.Runner() as runner:
        game = Driver(store_type(settings.redis_url, prefix=hot.keys.prefix), raw, runner)
        game.get(1)
        for number in range(3):
            raw.client_kill_filter(_type="normal", skipme=True)
            runner.run(asyncio.sleep(0.01))  # a game's loop runs on meanwhile
            assert game.update(1, gold=number) == number + 2
        game.close()


def test_connections_over_tcp_that_were_closed_are_made_anew(game: Driver, proxy: Proxy) -> None:
    for number in range(3):
        proxy.close_all()
        game.runner.run(asyncio.sleep(0.01))
        assert game.update(3, gold=number) == number + 2


def connections_of(game: Driver) -> list[Any]:
    pool = game.store._wire.pool
    name = "_connections" if isinstance(game.store, HotStore) else "_available_connections"
    connections: list[Any] = getattr(pool, name)
    return connections


def test_connection_that_rested_and_is_forgotten_is_made_anew(
    game: Driver, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "_PING_SECONDS", 0.2)
    for connection in connections_of(game):
        connection.next_health_check = 0
    proxy.muted = set(proxy.clients)
    assert game.update(3, gold=7) == 2, "nothing was sent on it, so nothing may have been made"


def test_nothing_sent_is_nothing_made() -> None:
    with (
        HotStore("redis://127.0.0.1:1/0") as store,
        pytest.raises(RedisUnavailable) as caught,
    ):
        store.update(1, gold=1)
    assert "may or may not" not in str(caught.value)
