"""The game hears of reverts: on every store, over lost connections, until the store is closed."""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from statesync import AsyncGameStore, GameStore, Reverted, Settings
from statesync.errors import InvalidInput
from statesync.hot.keys import Keys

WAIT_SECONDS = 30.0
FIGHT = "combat:session:2f0f4a4e-6f5c-4f7e-9d68-8b1f2f0a9a11"


class Heard(queue.Queue[Reverted | None]):
    """What a game hears of reverts; None at the end."""

    def next(self) -> Reverted | None:
        return self.get(timeout=WAIT_SECONDS)


@contextmanager
def listening_in_a_thread(settings: Settings) -> Iterator[tuple[Heard, Callable[[], None]]]:
    store, heard = GameStore(settings), Heard()

    def listen() -> None:
        for reverted in store.reverts():
            heard.put(reverted)
        heard.put(None)

    thread = threading.Thread(target=listen)
    thread.start()
    yield heard, store.close
    store.close()
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()


@contextmanager
def listening_in_a_loop(settings: Settings) -> Iterator[tuple[Heard, Callable[[], None]]]:
    heard, close = Heard(), threading.Event()

    async def listen(store: AsyncGameStore) -> None:
        async for reverted in store.reverts():
            heard.put(reverted)
        heard.put(None)

    async def play() -> None:
        async with AsyncGameStore(settings) as store:
            task = asyncio.create_task(listen(store))
            await asyncio.to_thread(close.wait)
        await task

    thread = threading.Thread(target=asyncio.run, args=(play(),))
    thread.start()
    yield heard, close.set
    close.set()
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()


Listening = tuple[Heard, Callable[[], None]]


@pytest.fixture(params=[listening_in_a_thread, listening_in_a_loop])
def listening(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Listening]:
    with request.param(settings) as made:
        yield made


def publish(raw: Any, keys: Keys, message: Any) -> None:
    """Send a message once somebody hears it."""
    text = message if isinstance(message, str) else json.dumps(message)
    while not raw.publish(keys.reverted, text):
        pass


def test_reverts_are_heard_until_the_store_is_closed(
    listening: Listening, raw: Any, keys: Keys
) -> None:
    heard, close = listening
    publish(raw, keys, {"char_ids": [1, 2], "sessions": [FIGHT]})
    publish(raw, keys, {"char_ids": [3], "sessions": []})
    assert heard.next() == Reverted((1, 2), (FIGHT,))
    assert heard.next() == Reverted((3,), ())
    close()
    assert heard.next() is None


def test_a_lost_connection_is_made_anew(
    listening: Listening, raw: Any, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    heard, _ = listening
    caplog.set_level(logging.WARNING, "statesync.hot.reverts")
    for char_id in (1, 2):
        publish(raw, keys, {"char_ids": [char_id], "sessions": []})
        assert heard.next() == Reverted((char_id,), ())
        raw.client_kill_filter(_type="pubsub")
    publish(raw, keys, {"char_ids": [3], "sessions": []})
    assert heard.next() == Reverted((3,), ())
    said = [record.message.partition(keys.reverted)[2] for record in caplog.records]
    assert [text.startswith(" are not heard for now: ") for text in said[::2]] == [True, True]
    assert said[1::2] == [" are heard again", " are heard again"]


def test_what_others_send_there_is_skipped(listening: Listening, raw: Any, keys: Keys) -> None:
    heard, _ = listening
    for message in ("{", "5", {"char_ids": "all"}, {}):
        publish(raw, keys, message)
    publish(raw, keys, {"char_ids": [1], "sessions": [], "since": 5})
    assert heard.next() == Reverted((1,), ())


def test_a_quiet_server_is_asked_whether_it_is_there(
    settings: Settings, raw: Any, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statesync.hot.reverts._QUIET_SECONDS", 0.01)
    for listening in (listening_in_a_thread, listening_in_a_loop):
        with listening(settings) as (heard, _):
            pings = raw.info("commandstats").get("cmdstat_ping", {}).get("calls", 0)
            while raw.info("commandstats").get("cmdstat_ping", {}).get("calls", 0) < pings + 3:
                pass
            publish(raw, keys, {"char_ids": [1], "sessions": []})
            assert heard.next() == Reverted((1,), ())


def test_a_server_that_does_not_answer_is_left(
    settings: Settings, raw: Any, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statesync.hot.reverts._QUIET_SECONDS", 0.01)
    monkeypatch.setattr("statesync.hot.reverts._ANSWER_SECONDS", 0.01)
    monkeypatch.setattr("statesync.hot.reverts._PAUSE_SECONDS", 0.01)
    for listening in (listening_in_a_thread, listening_in_a_loop):
        with listening(settings) as (heard, _):
            raw.client_pause(300, all=True)
            publish(raw, keys, {"char_ids": [1], "sessions": []})
            assert heard.next() == Reverted((1,), ())


def test_a_closed_store_tells_nothing(settings: Settings) -> None:
    store = GameStore(settings)
    store.close()
    with pytest.raises(InvalidInput, match="the store is closed"):
        store.reverts()


def test_an_iterator_that_is_left_closes_its_connection(
    settings: Settings, raw: Any, keys: Keys
) -> None:
    with GameStore(settings) as store:
        reverts = store.reverts()
        message = {"char_ids": [1], "sessions": []}
        publisher = threading.Thread(target=publish, args=(raw, keys, message))
        publisher.start()
        assert next(reverts) == Reverted((1,), ())
        publisher.join()
        reverts.close()  # type: ignore[attr-defined]
        assert store._client.hot()._listener._connections == set()
