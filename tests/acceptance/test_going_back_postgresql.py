"""An operator puts an older PostgreSQL in place, and Redis lives on."""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from statesync import Settings
from statesync.embedded.servers import Servers, postgres_bin
from statesync.errors import DatabaseUnavailable, StatesyncError
from tests.acceptance.command_line import run, run_json
from tests.acceptance.going_back import Play, stopped_at
from tests.acceptance.rewind import BackUpPostgres, CutTail
from tests.acceptance.test_contract import rows
from tests.databases import Databases


@pytest.fixture(scope="module")
def embedded(own_servers: Servers) -> Servers:
    return own_servers


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A short lease: a recovery that has died ends with it."""
    return replace(settings, lease_seconds=2)


@pytest.fixture(scope="module")
def databases(own_databases: Databases) -> Databases:
    return own_databases


def test_what_is_live_is_saved_again(play: Play, embedded: Servers) -> None:
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
    assert run_json(play.settings, "status")["losses"][0]["side"] == "postgresql"


def test_a_logout_does_not_discard_the_only_copy(play: Play, embedded: Servers) -> None:
    play.save(1, gold=10)
    before = BackUpPostgres(embedded)
    play.store.update(1, gold=20, durable=True)
    play.go_back(before)
    with contextlib.suppress(StatesyncError):
        play.service.logout(1)
    play.sweep()
    play.service.login(1)
    assert play.core(1) == play.row(1) == {"gold": "20"}


def test_nobody_logs_in_until_all_that_is_live_is_saved(play: Play, embedded: Servers) -> None:
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
    assert [character["char_id"] for character in found["losses"][0]["not_live"]] == [2]
    play.service.login(2)
    assert play.core(1) == play.row(1) == {"gold": "20"}
    assert play.core(2) == play.row(2) == {"gold": "10"}


@pytest.mark.parametrize(("is_known", "right"), [(False, "redis"), (True, "postgresql")])
def test_a_group_of_which_both_servers_went_back_is_set_aside(
    play: Play, embedded: Servers, is_known: bool, right: str
) -> None:
    """With ``is_known``, another character shows first that PostgreSQL went back."""
    for char_id in (1, 2, 3, 4):
        play.save(char_id, gold=10)
    fight = play.store.open_session("combat", [2, 4], {"round": 1}, state="combat", durable=True)
    redis = CutTail(embedded)
    play.store.update_session("combat", fight, {"round": 2}, log=["hit"], durable=True)
    play.store.update(2, gold=20, durable=True)
    postgresql = BackUpPostgres(embedded)
    redis.go_back()
    for char_id in (1, 3):
        play.store.update(char_id, gold=30, durable=True)
    play.go_back(postgresql)
    play.store.update_together({1: {"gold": 0}, 2: {"gold": 40}})
    with contextlib.suppress(DatabaseUnavailable):
        play.orchestrator.backup_full_state(3 if is_known else 1)
    assert play.hot.status().recovering
    play.sweep()
    _, entries = play.hot.list_quarantine()
    assert {entry.name for entry in entries} == {"1", "2", "4"}
    assert all("both" in entry.error for entry in entries)
    gold_of = "SELECT extra->>'gold' FROM characters WHERE id IN (1, 2) ORDER BY id"
    assert rows(play.engine, gold_of) == [("10",), ("20",)]

    say_which_is_right(play, right, fight)
    play.sweep()
    gold, log = {"redis": (["0", "40", "10"], 0), "postgresql": (["10", "20", "10"], 1)}[right]
    for side in ("redis", "postgresql"):
        found = [run_json(play.settings, "inspect", str(char_id)) for char_id in (1, 2, 4)]
        assert [one[side]["fields"]["gold"] for one in found] == gold
        for one in found[1:]:
            session = one["sessions"]["combat"][side]
            assert (session["id"], session["log_length"]) == (str(fight), log)
    assert play.hot.list_quarantine() == (0, [])
    assert not run_json(play.settings, "status")["problems"]


def say_which_is_right(play: Play, right: str, fight: UUID) -> None:
    """Do by hand what docs/operations.md says."""
    ids, keys = ("1", "2", "4"), play.hot.keys
    if right == "redis":
        url = play.settings.database_url.replace("+psycopg2", "")
        sessions = f"DELETE FROM sessions WHERE id IN ('{fight}')"
        characters = "DELETE FROM characters WHERE id IN (1, 2, 4)"
        psql = [str(postgres_bin() / "psql"), "-1", "-c", sessions, "-c", characters, url]
        subprocess.run(psql, check=True)
        run(play.settings, "quarantine", "retry", *ids)
        run(play.settings, "recover")
    else:
        session = (keys.session("combat", str(fight)), keys.session_log("combat", str(fight)))
        play.raw.delete(*map(keys.core, (1, 2, 4)), *session)
        run(play.settings, "quarantine", "discard", *ids)
        run(play.settings, "restore", *ids)


def test_an_item_that_changed_hands_is_in_one_bag(play: Play, embedded: Servers) -> None:
    mine, yours = play.open_bags()
    before = BackUpPostgres(embedded)
    play.give(mine, yours)
    play.sweep()
    play.go_back(before)
    play.sweep()
    assert (play.items(mine), play.items(yours)) == ([], ["sword"])
    assert rows(play.engine, "SELECT item_id, character_id FROM inventory_items") == [("sword", 2)]
    assert play.hot.list_quarantine() == (0, [])


def test_a_fight_that_was_closed_stays_closed(play: Play, embedded: Servers) -> None:
    play.save(1)
    play.save(2)
    fight = play.store.open_session("combat", [1, 2], {}, durable=True)
    before = BackUpPostgres(embedded)
    play.store.close_session("combat", fight, durable=True)
    play.sweep()
    play.go_back(before)
    play.sweep()
    for char_id in (1, 2):
        assert play.core(char_id) == play.row(char_id) == {}
        play.service.logout(char_id)
    assert play.service.login(1).sessions == {}


def test_a_recovery_that_dies_is_gone_on_with(
    play: Play, embedded: Servers, tmp_path: Path
) -> None:
    for char_id in range(1, 7):
        play.save(char_id, gold=10)
    before = BackUpPostgres(embedded)
    for char_id in range(1, 7):
        play.store.update(char_id, gold=20, durable=True)
    play.go_back(before)
    with stopped_at("snapshot", play.settings, tmp_path, "recover"):
        pass  # it is killed there
    play.sweep()
    saved = rows(play.engine, "SELECT DISTINCT extra->>'gold', count(*) FROM characters GROUP BY 1")
    assert saved == [("20", 6)]
