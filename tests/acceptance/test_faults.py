"""A process or server that dies or stops costs time, never data: one fault in each test."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine

from statesync import Settings
from statesync.embedded.servers import Servers
from statesync.hot.store import HotStore
from tests.acceptance.conftest import (
    WAIT_SECONDS,
    Game,
    middle_of_a_write,
    on_every_topology,
    wait_until,
)
from tests.acceptance.test_contract import bare_write, rows, waiting_for_a_lock

pytestmark = [pytest.mark.usefixtures("celery_setup"), on_every_topology]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Short leases, so that a test need not wait for long ones."""
    return replace(settings, lease_seconds=2, batch_above=10, batch_size=20, max_in_flight=40)


def save_first(game: Game, raw: Any, settings: Settings, char_id: int = 1) -> None:
    bare_write(raw, settings, char_id, state="first")
    assert game.call("backup_full_state", char_id)["outcome"] == "saved"


def test_a_worker_killed_in_the_middle_of_a_write_loses_nothing(
    game: Game, raw: Any, settings: Settings, engine: Engine, hot: HotStore
) -> None:
    save_first(game, raw, settings)
    for i in range(1, 101):
        bare_write(raw, settings, i, state="second")
    with middle_of_a_write(engine, 1):
        game.sync_until(lambda: waiting_for_a_lock(engine))
        game.setup.worker.kill()
    assert hot.status().claimed > 0
    game.stack.start_worker("worker-2")
    game.sync_until_clean(hot)
    assert rows(engine, "SELECT count(*) FROM characters WHERE game_stage = 'second'") == [(100,)]


@pytest.mark.slow
def test_a_worker_stopped_past_its_lease_does_not_overwrite_newer_state(
    game: Game, raw: Any, settings: Settings, engine: Engine, hot: HotStore
) -> None:
    save_first(game, raw, settings)
    bare_write(raw, settings, 1, state="old")
    with middle_of_a_write(engine, 1):
        game.sync_until(lambda: waiting_for_a_lock(engine))
        game.signal_worker(signal.SIGSTOP)
    bare_write(raw, settings, 1, state="new")
    wait_until(lambda: hot.status().expired)
    game.stack.start_worker("worker-2")
    game.sync_until_clean(hot)
    newest = rows(engine, "SELECT game_stage, version FROM characters")
    assert newest[0][0] == "new"
    game.signal_worker(signal.SIGCONT)
    assert game.call("backup_full_state", 1)["outcome"] in ("unchanged", "saved")
    game.sync_until_clean(hot)
    after = rows(engine, "SELECT game_stage, version FROM characters")
    assert after[0][0] == "new"
    assert after[0][1] >= newest[0][1]
    assert not rows(engine, "SELECT 1 FROM state_conflicts")


def test_a_broker_that_forgets_everything_costs_one_lease(
    game: Game, raw: Any, settings: Settings, engine: Engine, hot: HotStore
) -> None:
    game.signal_worker(signal.SIGSTOP)
    for i in range(1, 6):
        bare_write(raw, settings, i, state="first")
        hot.claim(i, lease_us=settings.lease_us)  # dispatched, and the message is lost
    game.signal_worker(signal.SIGCONT)
    assert hot.status().dirty == 0
    game.sync_until_clean(hot)
    assert rows(engine, "SELECT count(*) FROM characters") == [(5,)]


def test_a_database_that_is_away_leaves_the_backlog_in_redis(
    game: Game,
    raw: Any,
    settings: Settings,
    engine: Engine,
    hot: HotStore,
    embedded: Servers,
) -> None:
    save_first(game, raw, settings)
    engine.dispose()
    embedded.postgres.stop()
    try:
        for i in range(1, 51):
            bare_write(raw, settings, i, state="second")
        with pytest.raises(Exception, match="PostgreSQL at"):
            game.call("sync_dirty")
        assert (hot.status().dirty, hot.status().claimed) == (50, 0)
        waiting = game.send("backup_full_state", 1)
        wait_until(lambda: waiting.state == "RETRY")
    finally:
        embedded.start_postgres()
    assert waiting.get(timeout=WAIT_SECONDS)["outcome"] in ("saved", "unchanged")
    game.sync_until_clean(hot)
    assert rows(engine, "SELECT count(*) FROM characters WHERE game_stage = 'second'") == [(50,)]


class TestWorkThatKillsItsProcess:
    """A game's own function can crash the interpreter; it does so once."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return replace(settings, vitals="tests.acceptance.test_faults:crash")

    def test_is_not_run_again_and_delays_no_other(
        self, game: Game, raw: Any, settings: Settings, hot: HotStore
    ) -> None:
        for i, stats in ((1, '{"luck": 13}'), (2, '{"luck": 1}')):
            bare_write(raw, settings, i, state="first", stats=stats)
            assert game.call("backup_full_state", i)["outcome"] == "saved"
            assert hot.evict(i)
        with pytest.raises(Exception, match="Worker exited prematurely"):
            game.call("restore_full_state", 1)
        assert game.call("restore_full_state", 2)["outcome"] == "restored"
        assert game.queued("restore") == 0


def crash(stats: Mapping[str, int]) -> dict[str, Any]:
    """Derive vitals, or kill the process."""
    if stats["luck"] == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


def test_workers_survive_a_restart_of_redis(
    game: Game, raw: Any, settings: Settings, engine: Engine, hot: HotStore
) -> None:
    save_first(game, raw, settings)
    bare_write(raw, settings, 1, state="second")
    game.setup.broker.restart()
    game.sync_until_clean(hot)
    assert rows(engine, "SELECT game_stage FROM characters") == [("second",)]


def test_a_warm_shutdown_finishes_what_is_claimed(
    game: Game, raw: Any, settings: Settings, engine: Engine, hot: HotStore
) -> None:
    save_first(game, raw, settings)
    bare_write(raw, settings, 1, state="second")
    with middle_of_a_write(engine, 1):
        game.send("backup_full_state", 1)
        wait_until(lambda: waiting_for_a_lock(engine))
        game.worker.send(signal.SIGTERM)
        game.wait_for_log("Warm shutdown")
    assert game.worker.process
    assert game.worker.process.wait(WAIT_SECONDS) == 0
    assert rows(engine, "SELECT game_stage FROM characters") == [("second",)]
    assert (hot.status().dirty, hot.status().claimed) == (0, 0)


@pytest.mark.slow
def test_100_000_dirty_characters_never_overfill_the_broker(
    game: Game, raw: Any, settings: Settings, engine: Engine, hot: HotStore
) -> None:
    with raw.pipeline(transaction=False) as pipe:
        for i in range(1, 100_001):
            pipe.hset(f"{settings.prefix}ac:{i}", "state", "exploration")
        pipe.sadd(f"{settings.prefix}dirty_accounts", *range(1, 100_001))
        pipe.execute()
    most_claimed = most_queued = 0
    game.send("sync_dirty")
    while (status := hot.status()).dirty or status.claimed:
        most_claimed = max(most_claimed, status.claimed)
        most_queued = max(most_queued, game.queued("backup"))
        if not status.claimed:
            game.send("sync_dirty")
    assert most_claimed <= settings.max_in_flight
    assert most_queued <= settings.max_in_flight
    assert rows(engine, "SELECT count(*) FROM characters") == [(100_000,)]
