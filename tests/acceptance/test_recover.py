"""PostgreSQL is put back under a living game, as an operator and a worker meet it."""

from __future__ import annotations

import os
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from statesync import GameStateOrchestrator, Settings
from statesync.durable import database, losses
from statesync.durable.losses import Loss, NotLive, Side
from statesync.hot.store import HotStore
from statesync.lifecycle import servers
from tests.acceptance.command_line import STATESYNC, run, run_json
from tests.acceptance.conftest import Game, wait_until
from tests.conftest import FullCore


@pytest.fixture
def played(orchestrator: GameStateOrchestrator, full_core: FullCore) -> GameStateOrchestrator:
    """Three characters, saved; two sweeps."""
    for char_id in (1, 2, 3):
        orchestrator.hot.create(char_id, **full_core(char_id))
    orchestrator.backup_many([1, 2, 3])
    for _ in range(2):
        servers.count_sweep(orchestrator.hot, orchestrator.engine)
    return orchestrator


def put_back(engine: Engine) -> None:
    """Put PostgreSQL back to an hour ago: one character was older, another was not there."""
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE server_counters SET sweeps = 1")
        connection.exec_driver_sql("UPDATE characters SET version = 1, name = 'Old' WHERE id = 1")
        connection.exec_driver_sql("DELETE FROM characters WHERE id IN (2, 3)")


def names(engine: Engine) -> list[str]:
    with engine.begin() as connection:
        found = connection.exec_driver_sql("SELECT name FROM characters ORDER BY id")
        return [row.name for row in found]


def test_recover_says_what_went_back_and_saves_what_is_live(
    settings: Settings, played: GameStateOrchestrator, engine: Engine
) -> None:
    played.evict(3)
    put_back(engine)
    servers.count_sweep(played.hot, engine)
    status = run_json(settings, "status", status=1)
    assert (status["recovering"], status["losses"][0]["side"]) == (True, "postgresql")
    assert "statesync recover" in str(status["problems"])
    now, loss = run_json(settings, "doctor", "--only", "losses", status=1)
    assert (now["status"], "statesync recover" in now["do"]) == ("fail", True)
    assert "Not settled yet: who is affected is not known before that." in loss["found"]
    assert "statesync recover" in loss["do"]
    assert "nothing is left" not in loss["do"]
    run(settings, "drain", "--timeout", "0", status=1)

    found = run_json(settings, "recover")
    assert names(engine) == ["Hero 1", "Hero 2"]
    assert (found["done"], found["left"], found["outcomes"]) == (True, 0, {"saved": 2})
    (loss,) = found["losses"]
    assert loss["postgresql_sweeps"] == [2, 1]
    assert [(c["char_id"], c["row_version"]) for c in loss["not_live"]] == [(3, None)]

    costs = (
        "PostgreSQL went back in time, as the counters of the two servers show; PostgreSQL counts "
        "1 sweeps, Redis remembers 2. Characters saved again: 2; not live: 1."
    )
    shown = run(settings, "recover")
    assert costs in shown
    assert "Not as in PostgreSQL: 0 characters.\nNo new loss.\nOn record before" in shown
    assert "3: left at version" in shown
    status = run_json(settings, "status")
    assert (status["recovering"], status["losses"]) == (False, [loss])
    assert f"{costs} What to do: " in run(settings, "status")
    (check,) = run_json(settings, "doctor", "--only", "losses")
    assert (check["status"], check["found"].endswith("Who is not live: 3.")) == ("warn", True)
    assert "statesync recover" in check["do"]


def test_recover_says_what_is_new_and_what_became_of_each(
    settings: Settings, played: GameStateOrchestrator, engine: Engine, raw: Any
) -> None:
    hot = played.hot
    fight = hot.open_session("combat", [1, 2], {})
    played.backup_many([1, 2, 3])
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DELETE FROM sessions WHERE id = '{fight}'")
        connection.exec_driver_sql("UPDATE server_counters SET sweeps = 1")
    played.evict(3)
    raw.hset(hot.keys.core(3), "gold", "1")  # by a bare writer
    shown = run(settings, "recover")
    undecided = "1 left to the next sweep or `statesync drain`, if dirty"
    assert f"Not as in PostgreSQL: 3 characters (2 saved, {undecided})." in shown
    assert "Characters saved again: 2." in shown
    assert not any(words in shown for words in ("No new loss", "On record before", "Not settled"))
    hot.update(1, gold=1)
    assert "Drained: 2 saved." in run(settings, "drain")


def test_recover_without_a_loss(settings: Settings, played: GameStateOrchestrator) -> None:
    played.hot.update(1, gold=1)
    assert "No server went back in time" in run(settings, "recover")
    found = run_json(settings, "recover")
    assert (found["losses"], found["differing"], found["characters"]) == ([], 0, 3)
    (check,) = run_json(settings, "doctor", "--only", "losses")
    assert check["status"] == "ok"


def test_losses_on_record_are_shown_for_as_long_as_they_are_recent(
    settings: Settings, played: GameStateOrchestrator, engine: Engine
) -> None:
    now = datetime.now(UTC)
    ids = range(101, 124)
    old = Loss(side=Side.REDIS, found_at=now - timedelta(days=8), reverted=7, recovered_at=now)
    new = Loss(
        side=Side.POSTGRESQL,
        found_at=now,
        not_live=[NotLive(char_id, 5, 4) for char_id in reversed(ids)],
        recovered_at=now,
    )
    for loss in (old, new):
        with database.transaction(engine) as connection:
            losses.record(connection, settings.prefix, loss)

    shown = run(settings, "status")
    assert ("not live: 23" in shown, "set to their rows" in shown) == (True, False)
    (check,) = run_json(settings, "doctor", "--only", "losses")
    assert "Who is not live: 101, 102" in check["found"]
    assert check["found"].endswith("120 and 3 more.")
    shown = run(settings, "recover")
    assert "Characters set to their rows: 7." in shown
    assert "    120: left at version 5, PostgreSQL has 4\n    and 3 more: --json has all" in shown
    found = run_json(settings, "status")["losses"]
    assert [loss["side"] for loss in found] == ["postgresql", "redis"]
    assert [character["char_id"] for character in found[0]["not_live"]] == [*reversed(ids)]
    assert run_json(settings, "recover")["losses"] == found


def test_recover_that_is_interrupted_leaves_the_rest_to_others(
    settings: Settings, played: GameStateOrchestrator, engine: Engine
) -> None:
    put_back(engine)
    with database.transaction(engine) as connection:
        connection.exec_driver_sql("SELECT FROM characters WHERE id = 1 FOR UPDATE")
        process = subprocess.Popen(
            [*STATESYNC, "recover"],
            env=os.environ | settings.to_env(),
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: played.hot.status().claimed)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.strip().splitlines()[-1] == "statesync: interrupted"
    assert played.hot.status().recovering
    assert run_json(settings, "recover")["done"]
    assert names(engine) == ["Hero 1", "Hero 2", "Hero 3"]


@pytest.mark.usefixtures("celery_setup")
def test_the_worker_that_finds_it_saves_what_is_live(
    played: GameStateOrchestrator, game: Game, engine: Engine, hot: HotStore
) -> None:
    put_back(engine)
    queue = game.settings.queue("sync")
    sent = game.app.send_task("statesync.sync_dirty", queue=queue)
    sent.get(timeout=60)
    wait_until(lambda: not hot.status().recovering)  # on a busy machine it takes a message more
    assert names(engine) == ["Hero 1", "Hero 2", "Hero 3"]
    assert hot.status().counters["postgresql_went_back"] == 1
