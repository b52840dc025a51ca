"""A server goes back in time while the game goes on: nothing silent, nothing half."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from statesync import GameStateOrchestrator, Settings
from statesync.embedded.servers import Servers, servers
from statesync.errors import CharacterNotFound, DatabaseUnavailable, NotDurable, StatesyncError
from tests.acceptance.conftest import wait_until
from tests.acceptance.going_back import Play
from tests.acceptance.rewind import REDIS_WAYS, BackUpPostgres, CutTail, LoadSnapshot, Moment
from tests.acceptance.test_cli import STATESYNC, run_json
from tests.acceptance.test_contract import bare_write, rows
from tests.databases import Databases

not_yet = pytest.mark.xfail(strict=True, reason="numbers alone do not tell two histories apart")


@pytest.fixture(scope="module")
def embedded() -> Iterator[Servers]:
    """Run servers of our own: a replica may take the place of this Valkey."""
    with servers(postgres_config={"fsync": "off"}) as running:
        yield running
        running.valkey.stop()


@pytest.fixture(scope="module")
def databases(embedded: Servers) -> Databases:
    """Return the databases on these servers."""
    return Databases(embedded)


@pytest.fixture
def play(
    settings: Settings, orchestrator: GameStateOrchestrator, engine: Engine, raw: Any
) -> Iterator[Play]:
    made = Play(settings, orchestrator, engine, raw)
    yield made
    made.store.close()


@pytest.mark.parametrize("way", REDIS_WAYS)
def test_every_way_back_loses_what_came_after_and_nothing_else(
    embedded: Servers, raw: Any, way: type[Moment]
) -> None:
    raw.set("kept", 1)
    before = way(embedded)
    raw.set("lost", 1)
    before.go_back()
    assert (raw.exists("kept"), raw.exists("lost")) == (1, 0)


class TestRedisGoesBack:
    """Its tail is lost in a crash or a failover, or an older file is loaded."""

    @not_yet
    @pytest.mark.parametrize("way", REDIS_WAYS)
    def test_what_was_promised_stays(
        self, play: Play, embedded: Servers, way: type[Moment]
    ) -> None:
        play.save(1, gold=10)
        before = way(embedded)
        receipt = play.store.update(1, gems=500, durable=True)
        before.go_back()
        play.play_on(1)
        assert play.sweep() == {1: {"conflict"}}
        assert play.core(1) == play.row(1) == {"gold": "10", "gems": "500"}
        assert play.is_recorded("xp", 5)
        assert play.store.is_durable(1, receipt) is True

    @not_yet
    def test_a_trade_that_it_forgets_stays_whole(self, play: Play, embedded: Servers) -> None:
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

    @not_yet
    def test_an_item_that_was_given_away_is_in_one_bag(self, play: Play, embedded: Servers) -> None:
        mine, yours = play.open_bags()
        before = CutTail(embedded)
        play.give(mine, yours)
        before.go_back()
        for xp in range(1, 6):
            play.store.update_session("inventory", mine, {"xp": xp})
        play.sweep()
        assert (play.items(mine), play.items(yours)) == ([], ["sword"])
        assert rows(play.engine, "SELECT item_id, character_id FROM inventory_items") == [
            ("sword", 2)
        ]
        assert play.is_recorded("xp", 5)

    @not_yet
    def test_a_fight_that_was_left_stays_left(self, play: Play, embedded: Servers) -> None:
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

    @not_yet
    def test_a_log_is_of_one_history(self, play: Play, embedded: Servers) -> None:
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
            state["log"]
            for (state,) in rows(play.engine, "SELECT state FROM state_conflicts")
            if state.get("log")
        ]
        assert log == list("vwxyz")
        assert play.is_recorded("turn", "z")

    @not_yet
    def test_a_deleted_character_stays_deleted(self, play: Play, embedded: Servers) -> None:
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

    @not_yet
    def test_a_clean_core_is_found_and_reported(self, play: Play, embedded: Servers) -> None:
        play.save(1, gold=10)
        before = CutTail(embedded)
        play.store.update(1, gold=20, durable=True)
        play.sweep()
        before.go_back()
        play.sweep()
        assert play.core(1) == play.row(1) == {"gold": "20"}
        assert play.hot.status().counters["redis_went_back"] == 1
        assert run_json(play.settings, "status")["last_loss"]["side"] == "redis"

    @not_yet
    def test_a_bare_write_to_what_it_forgets_is_taken_out(
        self, play: Play, embedded: Servers
    ) -> None:
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

    @not_yet
    def test_a_character_that_it_forgets_is_not_made_again(
        self, play: Play, embedded: Servers
    ) -> None:
        before = CutTail(embedded)
        play.save(1, gold=10)
        before.go_back()
        play.store.create(1, state="exploration", gold=0)
        play.play_on(1)
        play.sweep()
        assert play.core(1) == play.row(1) == {"gold": "10"}
        assert play.is_recorded("xp", 5)

    @not_yet
    def test_a_change_that_it_forgets_is_never_called_durable(
        self, play: Play, embedded: Servers
    ) -> None:
        play.save(1, gold=10)
        before = CutTail(embedded)
        receipt = play.store.update(1, gems=500, receipt=True)
        before.go_back()
        play.play_on(1)
        with pytest.raises(NotDurable, match="Redis has forgotten"):
            play.store.wait_durable(1, receipt, timeout=5)
        play.sweep()
        assert play.store.is_durable(1, receipt) is False
        assert play.row(1) == {"gold": "10", "xp": "5"}

    @not_yet
    def test_what_cannot_be_recorded_overwrites_nothing(
        self, play: Play, embedded: Servers
    ) -> None:
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

    @not_yet
    def test_a_second_loss_keeps_what_the_first_one_recorded(
        self, play: Play, embedded: Servers
    ) -> None:
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


class TestPostgresqlGoesBack:
    """An operator puts an older backup in place, and Redis lives on."""

    @not_yet
    def test_what_is_live_is_saved_again(self, play: Play, embedded: Servers) -> None:
        play.save(1, gold=100)
        play.save(2, gold=0)
        before = BackUpPostgres(embedded)
        play.store.update_together({1: {"gold": 0}, 2: {"gold": 100}}, durable=True)
        play.save(3, gold=7)
        play.go_back(before)
        play.sweep()
        for char_id, gold in ((1, "0"), (2, "100"), (3, "7")):
            assert play.core(char_id) == play.row(char_id) == {"gold": gold}
        assert not rows(play.engine, "SELECT 1 FROM state_conflicts")
        assert play.hot.status().counters["postgresql_went_back"] == 1
        assert run_json(play.settings, "status")["last_loss"]["side"] == "postgresql"

    def test_a_logout_does_not_discard_the_only_copy(self, play: Play, embedded: Servers) -> None:
        play.save(1, gold=10)
        before = BackUpPostgres(embedded)
        play.store.update(1, gold=20, durable=True)
        play.go_back(before)
        with contextlib.suppress(StatesyncError):
            play.service.logout(1)
        play.sweep()
        play.service.login(1)
        assert play.core(1) == play.row(1) == {"gold": "20"}

    @not_yet
    def test_nobody_logs_in_until_all_that_is_live_is_saved(
        self, play: Play, embedded: Servers
    ) -> None:
        play.save(1, gold=10)
        play.save(2, gold=10)
        before = BackUpPostgres(embedded)
        for char_id in (1, 2):
            play.store.update(char_id, gold=20, durable=True)
        play.service.logout(2)
        play.go_back(before)
        with pytest.raises(DatabaseUnavailable, match="went back"):
            play.orchestrator.backup_full_state(1)
        with pytest.raises(DatabaseUnavailable, match="went back"):
            play.service.login(2)
        found = run_json(play.settings, "recover")
        assert "2" in str(found["not_live"])
        play.service.login(2)
        assert play.core(1) == play.row(1) == {"gold": "20"}
        assert play.core(2) == play.row(2) == {"gold": "10"}

    @not_yet
    def test_a_group_of_which_both_servers_went_back_is_set_aside(
        self, play: Play, embedded: Servers
    ) -> None:
        play.save(1, gold=10)
        play.save(2, gold=10)
        redis = CutTail(embedded)
        play.store.update(2, gold=20, durable=True)
        postgresql = BackUpPostgres(embedded)
        redis.go_back()
        play.store.update(1, gold=30, durable=True)
        play.go_back(postgresql)
        play.store.update_together({1: {"gold": 0}, 2: {"gold": 40}})
        with contextlib.suppress(DatabaseUnavailable):
            play.orchestrator.backup_full_state(1)
        play.sweep()
        _, entries = play.hot.list_quarantine()
        assert {entry.name for entry in entries} == {"1", "2"}
        assert all("both" in entry.error for entry in entries)
        assert (play.row(1), play.row(2)) == ({"gold": "10"}, {"gold": "20"})


@not_yet
def test_a_restore_that_sleeps_brings_nothing_old_back(play: Play, tmp_path: Path) -> None:
    play.save(1, gold=10)
    play.service.logout(1)
    asleep = tmp_path / "asleep"
    restore = start_restore(play.settings, 1, stop_at=f"loaded:{asleep}")
    try:
        wait_until(lambda: asleep.exists() and asleep.read_text())
        play.service.login(1)
        play.store.update(1, gold=20)
        play.service.logout(1)
        play.raw.delete(play.hot.keys.tombstone(1))  # ten minutes later
        restore.send_signal(signal.SIGCONT)
        assert restore.wait(60) == 0
    finally:
        restore.kill()
    assert play.core(1) == {"gold": "10"}
    play.play_on(1)
    play.sweep()
    assert play.core(1) == play.row(1) == {"gold": "20"}
    assert play.is_recorded("xp", 5)


def start_restore(settings: Settings, char_id: int, *, stop_at: str) -> subprocess.Popen[bytes]:
    """Start a process that restores a character, and stops at a failpoint."""
    command = [*STATESYNC, "restore", str(char_id)]
    env = {**os.environ, **settings.to_env(), "STOP_SYNC_AT": stop_at}
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)


def alter(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
