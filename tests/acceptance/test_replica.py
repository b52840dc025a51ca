"""A master that is a replica for a while, without Sentinels: workers wait until it is one again."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine

from statesync import Settings
from statesync.hot.store import HotStore
from tests.acceptance.conftest import Game, wait_until
from tests.acceptance.test_contract import bare_write, rows
from tests.acceptance.test_faults import save_first

_TRIES = 20


def connections(raw: Any) -> int:
    return int(raw.info("stats")["total_connections_received"])


@pytest.mark.usefixtures("celery_setup")
def test_a_master_that_is_a_replica_for_a_while_does_not_end_the_worker(
    game: Game, raw: Any, settings: Settings, engine: Engine, hot: HotStore
) -> None:
    save_first(game, raw, settings)
    raw.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        game.wait_for_log("trouble begins: the broker")
        tried = connections(raw)
        wait_until(lambda: connections(raw) > tried + _TRIES)
    finally:
        raw.execute_command("REPLICAOF", "NO", "ONE")
    log = game.worker.log.read_text()
    assert log.count("trouble begins: the broker") == 1
    assert "prefetch count" not in log
    assert "Frequent restarts" not in log
    assert game.worker.running
    bare_write(raw, settings, 1, state="second")
    game.sync_until_clean(hot)
    assert rows(engine, "SELECT game_stage FROM characters") == [("second",)]
    assert game.worker.running
