"""A deploy under load: a worker that is told to stop finishes its tasks, and nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
from sqlalchemy import Engine

from statesync import GameStateOrchestrator, Settings
from statesync.embedded.child import Child
from statesync.hot.store import HotStore
from statesync.lifecycle.sweep import drain
from tests.acceptance.conftest import WAIT_SECONDS, Game, middle_of_a_write, wait_until
from tests.acceptance.test_contract import bare_write, rows, waiting_for_a_lock

pytestmark = pytest.mark.usefixtures("celery_setup")

CHARACTERS = 300


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Leases of an hour: a test that leaves a claim over never ends."""
    return replace(
        settings, lease_seconds=3600, batch_above=50, batch_size=20, sync_seconds=1, scrub_seconds=0
    )


class Writer(threading.Thread):
    """A game that plays on; ``wrote`` is the last accepted change of each character."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.wrote: dict[int, int] = {}
        self.stop = threading.Event()

    def run(self) -> None:
        with redis.Redis.from_url(self.settings.redis_url) as client:
            turn = 0
            while not self.stop.is_set():
                turn += 1
                char_id = turn % CHARACTERS + 1
                bare_write(client, self.settings, char_id, state="play", turn=turn)
                self.wrote[char_id] = turn


@pytest.fixture
def writer(settings: Settings) -> Iterator[Writer]:
    made = Writer(settings)
    made.start()
    yield made
    made.stop.set()
    made.join()


def terminate(worker: Child) -> None:
    """End a worker as a supervisor does, and wait until it has."""
    assert worker.process
    worker.send(signal.SIGTERM)
    assert worker.process.wait(WAIT_SECONDS) == 0
    assert b"left to others:" in worker.log.read_bytes()


def wait_for_saves(hot: HotStore, number: int) -> None:
    enough = hot.status().counters.get("saved", 0) + number
    wait_until(lambda: hot.status().counters.get("saved", 0) >= enough)


def saved(engine: Engine) -> dict[int, int]:
    query = "SELECT id, (extra->>'turn')::int FROM characters WHERE game_stage = 'play'"
    return dict(rows(engine, query))


@pytest.mark.slow
def test_deploys_under_load_lose_nothing_and_leave_no_claim(
    game: Game, hot: HotStore, engine: Engine, writer: Writer
) -> None:
    game.stack.start_beat()
    worker = game.worker
    for generation in range(2, 5):
        wait_for_saves(hot, CHARACTERS)
        terminate(worker)
        worker = game.stack.start_worker(f"worker-{generation}")
    writer.stop.set()
    writer.join()
    game.sync_until_clean(hot)
    assert saved(engine) == writer.wrote
    assert not rows(engine, "SELECT 1 FROM state_conflicts")
    counters = hot.status().counters
    assert not {"missing", "conflict", "quarantined"} & counters.keys()


@pytest.mark.slow
def test_drain_finishes_what_the_last_worker_left_in_its_queue(
    game: Game, raw: Any, settings: Settings, engine: Engine, hot: HotStore
) -> None:
    for char_id in range(1, CHARACTERS + 1):
        bare_write(raw, settings, char_id, state="play", turn=1)
    assert game.call("backup_full_state", 1)["outcome"] == "saved"
    bare_write(raw, settings, 1, turn=2)
    with middle_of_a_write(engine, 1):
        game.sync_until(lambda: waiting_for_a_lock(engine))
        game.worker.send(signal.SIGTERM)
        game.wait_for_log("Warm shutdown")
    assert game.worker.process
    assert game.worker.process.wait(WAIT_SECONDS) == 0
    here = GameStateOrchestrator.from_settings(settings)
    report = drain(here, settings, WAIT_SECONDS)
    here.close()
    assert (report.complete, hot.status().claimed) == (True, 0)
    assert saved(engine) == dict.fromkeys(range(1, CHARACTERS + 1), 1) | {1: 2}
    # Their messages are still in the queue; the claims that they name have ended.
    game.stack.start_worker("worker-2")
    wait_until(lambda: game.queued("backup") == 0)
    game.sync_until_clean(hot)
    assert saved(engine) == dict.fromkeys(range(1, CHARACTERS + 1), 1) | {1: 2}
