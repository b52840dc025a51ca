"""Redis goes back in time while the game goes on: nothing silent, nothing half."""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from statesync.embedded.servers import Servers
from statesync.errors import CharacterNotFound, NotDurable, SessionNotFound, StatesyncError
from tests.acceptance.command_line import run_json
from tests.acceptance.conftest import middle_of_a_write, nothing_went_wrong, wait_until
from tests.acceptance.going_back import Play, go_on, stopped_at
from tests.acceptance.rewind import REDIS_WAYS, CutTail, LoadSnapshot, Moment
from tests.acceptance.test_contract import bare_write, rows, waiting_for_a_lock
from tests.databases import Databases


@pytest.fixture(scope="module")
def embedded(own_servers: Servers) -> Servers:
    return own_servers


@pytest.fixture(scope="module")
def databases(own_databases: Databases) -> Databases:
    return own_databases


@pytest.mark.parametrize("way", REDIS_WAYS)
def test_every_way_back_loses_what_came_after_and_nothing_else(
    embedded: Servers, raw: Any, way: type[Moment]
) -> None:
    raw.set("kept", 1)
    before = way(embedded)
    raw.set("lost", 1)
    before.go_back()
    assert (raw.exists("kept"), raw.exists("lost")) == (1, 0)


@pytest.mark.parametrize("way", REDIS_WAYS)
def test_what_was_promised_stays(play: Play, embedded: Servers, way: type[Moment]) -> None:
    play.save(1, gold=10)
    before = way(embedded)
    receipt = play.store.update(1, gems=500, durable=True)
    before.go_back()
    play.play_on(1)
    assert play.sweep() == {1: {"conflict"}}
    assert play.core(1) == play.row(1) == {"gold": "10", "gems": "500"}
    assert play.is_recorded("xp", 5)
    assert play.store.is_durable(1, receipt) is True


def test_a_trade_that_it_forgets_stays_whole(play: Play, embedded: Servers) -> None:
    play.save(1, gold=100)
    play.save(2, gold=0)
    before = CutTail(embedded)
    play.store.update_together({1: {"gold": 0}, 2: {"gold": 100}}, durable=True)
    before.go_back()
    play.play_on(1)
    assert play.sweep()[1] == {"conflict"}
    assert play.core(1) == play.row(1) == {"gold": "0"}
    assert play.core(2) == play.row(2) == {"gold": "100"}
    assert play.is_recorded("xp", 5)


def test_an_item_that_was_given_away_is_in_one_bag(play: Play, embedded: Servers) -> None:
    mine, yours = play.open_bags()
    before = CutTail(embedded)
    play.give(mine, yours)
    before.go_back()
    for xp in range(1, 6):
        play.store.update_session("inventory", mine, {"xp": xp})
    play.sweep()
    assert (play.items(mine), play.items(yours)) == ([], ["sword"])
    assert rows(play.engine, "SELECT item_id, character_id FROM inventory_items") == [("sword", 2)]
    assert play.is_recorded("xp", 5)


def test_a_fight_that_was_left_stays_left(play: Play, embedded: Servers) -> None:
    play.save(1)
    play.save(2)
    fight = play.store.open_session("combat", [1, 2], {}, durable=True)
    before = CutTail(embedded)
    play.store.leave_session("combat", fight, 1, durable=True)
    before.go_back()
    play.play_on(1)
    play.sweep()
    assert play.core(1) == play.row(1) == {}
    assert play.core(2) == play.row(2) == {"combat_session_id": str(fight)}
    assert play.store.get_session("combat", fight).participants == (2,)
    assert play.is_recorded("xp", 5)


def test_a_log_is_of_one_history(play: Play, embedded: Servers) -> None:
    play.save(1)
    fight = play.store.open_session("combat", [1], {}, durable=True)
    before = CutTail(embedded)
    play.store.update_session("combat", fight, log=["a", "b"], durable=True)
    before.go_back()
    for entry in "vwxyz":
        play.store.update_session("combat", fight, {"turn": entry}, log=[entry])
    play.sweep()
    assert play.store.read_log("combat", fight) == ["a", "b"]
    assert rows(play.engine, "SELECT entry FROM combat_log ORDER BY seq") == [("a",), ("b",)]
    [log] = [
        [json.loads(entry) for entry in state["log"]]
        for (state,) in rows(play.engine, "SELECT state FROM state_conflicts")
        if state.get("log")
    ]
    assert log == list("vwxyz")
    assert play.is_recorded("turn", "z")


def test_a_deleted_character_stays_deleted(play: Play, embedded: Servers) -> None:
    play.save(1, gold=100)
    play.save(2, gold=0)
    before = CutTail(embedded)
    play.orchestrator.delete(1)
    before.go_back()
    play.store.update_together({1: {"gold": 0}, 2: {"gold": 100}})
    play.sweep()
    assert play.core(1) is play.row(1) is None
    assert play.core(2) == play.row(2) == {"gold": "0"}
    assert play.is_recorded("gold", 100)
    with pytest.raises(CharacterNotFound):
        play.service.login(1)


def test_a_clean_core_is_found_and_reported(play: Play, embedded: Servers) -> None:
    play.save(1, gold=10)
    before = CutTail(embedded)
    play.store.update(1, gold=20, durable=True)
    play.sweep()
    before.go_back()
    play.sweep()
    assert play.core(1) == play.row(1) == {"gold": "20"}
    assert play.hot.status().counters["redis_went_back"] == 1
    assert run_json(play.settings, "status")["losses"][0]["side"] == "redis"


def test_a_bare_write_to_what_it_forgets_is_taken_out(play: Play, embedded: Servers) -> None:
    play.save(1, gold=10)
    play.service.logout(1)
    before = CutTail(embedded)
    play.service.login(1)
    play.store.update(1, gold=20, durable=True)
    play.sweep()
    before.go_back()
    bare_write(play.raw, play.settings, 1, gold=11)
    play.sweep()
    assert play.core(1) == play.row(1) == {"gold": "20"}
    assert play.is_recorded("gold", 11)


def test_a_character_that_it_forgets_is_not_made_again(play: Play, embedded: Servers) -> None:
    before = CutTail(embedded)
    play.save(1, gold=10)
    before.go_back()
    play.store.create(1, state="exploration", gold=0)
    play.play_on(1)
    play.sweep()
    assert play.core(1) == play.row(1) == {"gold": "10"}
    assert play.is_recorded("xp", 5)


def test_a_change_that_it_forgets_is_never_called_durable(play: Play, embedded: Servers) -> None:
    play.save(1, gold=10)
    before = CutTail(embedded)
    receipt = play.store.update(1, gems=500, receipt=True)
    before.go_back()
    play.play_on(1)
    with pytest.raises(NotDurable, match="a server has forgotten"):
        play.store.wait_durable(1, receipt, timeout=5)
    play.sweep()
    assert play.store.is_durable(1, receipt) is False
    assert play.row(1) == {"gold": "10", "xp": "5"}


def test_what_cannot_be_recorded_overwrites_nothing(play: Play, embedded: Servers) -> None:
    play.save(1, gold=10)
    before = CutTail(embedded)
    for gems in (300, 400, 500):
        play.store.update(1, gems=gems, durable=True)
    before.go_back()
    play.store.update(1, xp=5)
    alter(play.engine, "ALTER TABLE state_conflicts ADD CONSTRAINT disk_full CHECK (id < 0)")
    for _ in range(5):
        with contextlib.suppress(StatesyncError):
            play.orchestrator.backup_full_state(1)
    assert play.row(1) == {"gold": "10", "gems": "500"}
    alter(play.engine, "ALTER TABLE state_conflicts DROP CONSTRAINT disk_full")
    play.sweep()
    assert play.core(1) == play.row(1) == {"gold": "10", "gems": "500"}
    assert play.is_recorded("xp", 5)


def test_a_second_loss_keeps_what_the_first_one_recorded(play: Play, embedded: Servers) -> None:
    play.save(1, gold=10)
    before = LoadSnapshot(embedded)
    play.store.update(1, gems=500, durable=True)
    for field in ("first", "second"):
        before.go_back()
        for n in range(1, 6):
            play.store.update(1, {field: n})
        play.sweep()
    assert play.core(1) == play.row(1) == {"gold": "10", "gems": "500"}
    assert play.is_recorded("first", 5)
    assert play.is_recorded("second", 5)


def test_a_restore_that_sleeps_brings_nothing_old_back(play: Play, tmp_path: Path) -> None:
    play.save(1, gold=10)
    play.service.logout(1)
    with stopped_at("loaded", play.settings, tmp_path, "restore", "1") as restore:
        play.service.login(1)
        play.store.update(1, gold=20)
        play.service.logout(1)
        play.raw.delete(play.hot.keys.tombstone(1))  # ten minutes later
        go_on(restore)
    assert play.core(1) == {"gold": "10"}
    play.play_on(1)
    play.sweep()
    assert play.core(1) == play.row(1) == {"gold": "20"}
    assert play.is_recorded("xp", 5)


def test_a_worker_with_a_forgotten_snapshot_overwrites_nothing(
    play: Play, embedded: Servers, tmp_path: Path
) -> None:
    play.save(1, gold=10)
    before = CutTail(embedded)
    for gems in range(1, 10):
        play.store.update(1, gems=gems)
    with stopped_at("snapshot", play.settings, tmp_path, "drain") as worker:
        before.go_back()
        play.store.update(1, gold=20, durable=True)
        go_on(worker)
    play.sweep()
    assert play.core(1) == play.row(1) == {"gold": "20"}


def test_a_forgotten_snapshot_that_is_saved_is_not_acknowledged(
    play: Play, embedded: Servers
) -> None:
    play.save(1, gold=10)
    claim, _ = play.hot.claim(1, lease_us=2_000_000)  # the sweep at the end waits for it
    before = CutTail(embedded)
    play.store.update(1, gems=500)
    worker = threading.Thread(target=play.orchestrator.backup_claims, args=[[claim]])
    with middle_of_a_write(play.engine, 1):
        worker.start()
        wait_until(lambda: waiting_for_a_lock(play.engine))
        before.go_back()
    worker.join()
    assert play.row(1) == {"gold": "10", "gems": "500"}
    play.play_on(1)
    play.sweep()
    assert play.core(1) == play.row(1) == {"gold": "10", "gems": "500"}
    assert play.is_recorded("xp", 5)


def test_a_logout_of_what_it_has_forgotten_saves_nothing_old(play: Play, embedded: Servers) -> None:
    play.save(1, gold=10)
    before = CutTail(embedded)
    play.store.update(1, gold=20, durable=True)
    before.go_back()
    play.play_on(1)
    with contextlib.suppress(StatesyncError):
        play.service.logout(1)
    play.service.login(1)
    play.sweep()
    assert play.core(1) == play.row(1) == {"gold": "20"}


def test_a_fight_that_was_closed_stays_closed(play: Play, embedded: Servers) -> None:
    play.save(1)
    play.save(2)
    fight = play.store.open_session("combat", [1, 2], {}, durable=True)
    play.store.update_session("combat", fight, log=["a"], durable=True)
    before = CutTail(embedded)
    play.store.close_session("combat", fight, {"winner": "1"}, durable=True)
    play.sweep()
    before.go_back()
    for entry in "vwxyz":
        play.store.update_session("combat", fight, {"turn": entry}, log=[entry])
    play.sweep()
    for char_id in (1, 2):
        assert play.core(char_id) == play.row(char_id) == {}
    with pytest.raises(SessionNotFound):
        play.store.get_session("combat", fight)
    saved = rows(play.engine, "SELECT payload->>'winner', closed_at IS NULL FROM sessions")
    assert saved == [("1", False)]
    assert rows(play.engine, "SELECT entry FROM combat_log ORDER BY seq") == [("a",)]
    assert play.is_recorded("turn", "z")


def test_a_game_that_writes_whole_hashes_brings_nothing_old_back(
    play: Play, embedded: Servers
) -> None:
    play.save(1, gold=10)
    core = play.hot.keys.core(1)
    before = CutTail(embedded)
    play.store.update(1, gems=500, durable=True)
    before.go_back()
    whole = play.raw.hgetall(core)
    play.store.update(1, xp=1)
    play.orchestrator.backup_full_state(1)
    play.raw.hset(core, mapping=whole | {b"xp": b"5"})
    play.raw.sadd(play.hot.keys.dirty, 1)
    play.sweep()
    assert play.row(1) == {"gold": "10", "gems": "500", "xp": "5"}


def test_a_redis_that_has_lost_everything_is_no_conflict(play: Play) -> None:
    play.save(1, gold=10)
    play.raw.flushdb()
    play.service.login(1)
    play.play_on(1)
    assert play.sweep() == {1: {"saved"}}
    assert play.core(1) == play.row(1) == {"gold": "10", "xp": "5"}
    nothing_went_wrong(play.engine, play.hot)


def alter(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
