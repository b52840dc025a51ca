"""A deleted character is gone from both stores, at any moment, and nothing brings it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from statesync.errors import (
    CharacterNotFound,
    CharacterNotLoaded,
    DatabaseUnavailable,
    RedisUnavailable,
)
from statesync.game.client import log_in
from statesync.hot.keys import Keys
from statesync.hot.members import MAX_TIED
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from tests.conftest import FullCore
from tests.integration.lifecycle.test_backup import once, row, scalar, sweep_once

Orchestrator = GameStateOrchestrator


@pytest.fixture
def saved(orchestrator: Orchestrator, full_core: FullCore) -> HotStore:
    """Two characters, saved and loaded."""
    hot = orchestrator.hot
    for char_id in (1, 2):
        hot.create(char_id, **full_core(char_id))
    orchestrator.backup_many([1, 2])
    return hot


@pytest.fixture
def fight(orchestrator: Orchestrator, saved: HotStore) -> UUID:
    """A fight of the two, saved."""
    made = saved.open_session("combat", [1, 2], {"monsters": []}, state="combat")
    orchestrator.backup_many([1, 2])
    return made


def assert_gone(orchestrator: Orchestrator, raw: Any, keys: Keys, char_id: int = 1) -> None:
    """Nothing is left of it in Redis, and neither a restore nor a login brings it back."""
    hot = orchestrator.hot
    assert hot.peek(char_id) is None
    assert hot.sync_state(char_id) == (False, None, None, None)
    assert orchestrator.restore_full_state(char_id).outcome == "not_found"
    with pytest.raises(CharacterNotFound):
        log_in(orchestrator, char_id)
    assert not raw.exists(keys.core(char_id))


def test_loaded_and_saved(
    orchestrator: Orchestrator, saved: HotStore, engine: Engine, raw: Any, keys: Keys
) -> None:
    assert orchestrator.delete(1).outcome == "deleted"
    assert_gone(orchestrator, raw, keys)
    first = row(engine)["deleted_at"]
    assert first is not None
    assert orchestrator.delete(1).outcome == "deleted"
    assert row(engine)["deleted_at"] == first
    assert saved.get(2).state == "exploration"
    with pytest.raises(CharacterNotLoaded):
        saved.update(1, gold=1)


def test_in_postgresql_alone(
    orchestrator: Orchestrator, saved: HotStore, raw: Any, keys: Keys
) -> None:
    assert saved.evict(1)
    assert orchestrator.delete(1).outcome == "deleted"
    assert_gone(orchestrator, raw, keys)


def test_in_redis_alone_dirty_or_in_quarantine(
    orchestrator: Orchestrator, raw: Any, keys: Keys, engine: Engine, full_core: FullCore
) -> None:
    hot = orchestrator.hot
    hot.create(1, **full_core())
    raw.hset(keys.core(2), "stats", "{broken")
    assert orchestrator.backup_full_state(2).outcome == "quarantined"
    for char_id in (1, 2):
        assert orchestrator.delete(char_id).outcome == "deleted"
        assert_gone(orchestrator, raw, keys, char_id)
        assert row(engine, char_id)["deleted_at"]


def test_nobody(orchestrator: Orchestrator, engine: Engine) -> None:
    assert orchestrator.delete(1).outcome == "not_found"
    assert scalar(engine, "SELECT count(*) FROM characters") == 0


def test_what_a_bare_writer_makes_of_it_is_never_saved(
    orchestrator: Orchestrator, saved: HotStore, raw: Any, keys: Keys, engine: Engine
) -> None:
    orchestrator.delete(1)
    before = row(engine)
    raw.hset(keys.core(1), "gold", "1")
    raw.sadd(keys.dirty, 1)
    assert orchestrator.backup_full_state(1).outcome == "deleted"
    assert row(engine) == before
    orchestrator.delete(1)
    assert_gone(orchestrator, raw, keys)


@pytest.mark.usefixtures("all_as_groups")
def test_a_backup_that_took_its_snapshot_before(
    orchestrator: Orchestrator,
    other: Orchestrator,
    saved: HotStore,
    engine: Engine,
    raw: Any,
    keys: Keys,
) -> None:
    saved.update(1, gold="late")
    once(orchestrator.engine, "begin", lambda: other.delete(1))
    assert orchestrator.backup_full_state(1).outcome == "deleted"
    assert row(engine)["extra"].get("gold") != "late"
    assert_gone(orchestrator, raw, keys)


def test_a_first_backup_that_took_its_snapshot_before(
    orchestrator: Orchestrator,
    other: Orchestrator,
    engine: Engine,
    raw: Any,
    keys: Keys,
    full_core: FullCore,
) -> None:
    orchestrator.hot.create(1, **full_core())
    once(orchestrator.engine, "begin", lambda: other.delete(1))
    assert orchestrator.backup_full_state(1).outcome == "deleted"
    assert row(engine)["name"] is None
    assert_gone(orchestrator, raw, keys)


def test_a_restore_that_read_the_row_before(
    orchestrator: Orchestrator, other: Orchestrator, saved: HotStore, raw: Any, keys: Keys
) -> None:
    assert saved.evict(1)
    raw.delete(keys.tombstone(1))
    once(orchestrator.engine, "commit", lambda: other.delete(1))
    assert orchestrator.restore_full_state(1).outcome == "not_found"
    assert_gone(orchestrator, raw, keys)


def test_a_sweep_in_the_middle_is_no_play_on_a_deleted_id(
    orchestrator: Orchestrator,
    other: Orchestrator,
    saved: HotStore,
    fight: UUID,
    raw: Any,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It comes when PostgreSQL has committed and Redis still has the core."""
    saved.update(1, gold=1)
    peek, peeks = saved.peek, []

    def sweep_before_the_second(char_id: int) -> Any:
        peeks.append(char_id)
        if len(peeks) == 2:
            assert sweep_once(other) == []
        return peek(char_id)

    monkeypatch.setattr(saved, "peek", sweep_before_the_second)
    assert orchestrator.delete(1).outcome == "deleted"
    monkeypatch.undo()
    assert len(peeks) == 2
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert saved.status().counters["deleted"] == 1
    assert_gone(orchestrator, raw, keys)


def test_a_deletion_that_ends_early_leaves_no_claim(
    orchestrator: Orchestrator, saved: HotStore, engine: Engine
) -> None:
    assert orchestrator.delete(9).outcome == "not_found"
    saved.update(1, gold=1)
    with engine.begin() as connection:
        connection.execute(text("SELECT * FROM characters WHERE id = 1 FOR UPDATE"))
        with pytest.raises(DatabaseUnavailable, match="cannot be deleted now"):
            orchestrator.delete(1)
    assert saved.status().claimed == 0
    assert saved.sync_state(1).dirty


def participants(hot: HotStore, fight: UUID) -> tuple[int, ...]:
    return hot.get_session("combat", fight).participants


def test_a_shared_session_goes_on_for_the_others(
    orchestrator: Orchestrator, saved: HotStore, fight: UUID, engine: Engine, raw: Any, keys: Keys
) -> None:
    saved.update_session("combat", fight, {"monsters": [{"hp": 3}]})
    report = orchestrator.delete(1)
    assert report.sessions == [f"combat:session:{fight}"]
    assert_gone(orchestrator, raw, keys)
    assert participants(saved, fight) == (2,)
    assert saved.get(2).fields["combat_session_id"] == str(fight)
    orchestrator.backup_full_state(2)
    assert saved.evict(2)
    assert orchestrator.restore_full_state(2).sessions == {"combat": "restored"}
    assert participants(saved, fight) == (2,)
    members = "SELECT string_agg(character_id::text, ',') FROM session_characters"
    assert scalar(engine, f"{members} WHERE left_at IS NULL") == "2"


@pytest.mark.parametrize("away", [(1,), (1, 2)])
def test_a_shared_session_of_a_character_that_is_not_loaded(
    orchestrator: Orchestrator,
    saved: HotStore,
    fight: UUID,
    raw: Any,
    keys: Keys,
    away: tuple[int, ...],
) -> None:
    for char_id in away:
        assert saved.evict(char_id)
    orchestrator.delete(1)
    assert_gone(orchestrator, raw, keys)
    orchestrator.restore_full_state(2)
    assert participants(saved, fight) == (2,)


def test_a_session_of_its_own_ends_with_it(
    orchestrator: Orchestrator, saved: HotStore, engine: Engine, raw: Any, keys: Keys
) -> None:
    quest = saved.open_session("scenario", [1], {"quest_id": "q", "node": "start"})
    orchestrator.backup_full_state(1)
    saved.update_session("scenario", quest, {"node": "end"})
    orchestrator.delete(1)
    assert_gone(orchestrator, raw, keys)
    assert not raw.exists(keys.session("scenario", str(quest)))
    assert scalar(engine, "SELECT count(*) FROM sessions WHERE closed_at IS NULL") == 0


def test_a_session_that_cannot_be_read_does_not_keep_it(
    orchestrator: Orchestrator, saved: HotStore, fight: UUID, raw: Any, keys: Keys
) -> None:
    raw.hset(keys.session("combat", str(fight)), "participants", "{broken")
    orchestrator.delete(1)
    assert_gone(orchestrator, raw, keys)
    assert saved.peek(2) is not None
    assert saved.peek_session("combat", fight) > 0


@pytest.mark.parametrize("reference", ["junk", "../1", ""])
def test_a_core_that_cannot_be_read(
    orchestrator: Orchestrator, saved: HotStore, raw: Any, keys: Keys, reference: str
) -> None:
    raw.hset(keys.core(1), mapping={"combat_session_id": reference, "version": "x"})
    raw.delete(keys.core(2))
    raw.set(keys.core(2), "no hash")
    for char_id in (1, 2):
        assert orchestrator.delete(char_id).outcome == "deleted"
        assert_gone(orchestrator, raw, keys, char_id)


def test_a_character_with_a_full_tie(
    orchestrator: Orchestrator,
    saved: HotStore,
    fight: UUID,
    raw: Any,
    keys: Keys,
    full_core: FullCore,
) -> None:
    crowd = range(3, 3 + MAX_TIED - 1)
    for char_id in crowd:
        saved.create(char_id, **full_core(char_id))
    saved.update_together({char_id: {"gold": 1} for char_id in (1, *crowd)})
    assert orchestrator.delete(1).outcome == "deleted"
    assert_gone(orchestrator, raw, keys)
    assert participants(saved, fight) == (2,)


def test_a_partner_in_trade_is_saved_and_no_longer_held_up(
    orchestrator: Orchestrator, saved: HotStore, engine: Engine, raw: Any, keys: Keys
) -> None:
    saved.update_together({1: {"gold": 0}, 2: {"gold": 9}})
    raw.hset(keys.core(1), "stats", "{broken")
    assert orchestrator.backup_full_state(2).outcome == "quarantined"
    orchestrator.delete(1)
    assert_gone(orchestrator, raw, keys)
    assert orchestrator.backup_full_state(2).outcome == "saved"
    assert row(engine, 2)["extra"]["gold"] == "9"
    assert saved.sync_state(2) == (False, None, None, None)


def crash(*_: object) -> None:
    raise RedisUnavailable("the process dies here")


@pytest.mark.parametrize("step", ["leave_session", "backup", "forget"])
def test_a_crash_at_any_step_leaves_nothing_that_is_saved_and_a_second_run_ends_it(
    orchestrator: Orchestrator,
    saved: HotStore,
    fight: UUID,
    engine: Engine,
    raw: Any,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    before = row(engine)["version"]
    owner: Any = orchestrator if step == "backup" else orchestrator.hot
    name = "_backup_deleted" if step == "backup" else step
    real: Callable[[int], Any] = orchestrator.backup_full_state
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, crash)
        with pytest.raises(RedisUnavailable):
            orchestrator.delete(1)
    raw.hset(keys.core(1), "gold", "late")
    of_both = step != "forget"  # with the other one in the fight, or just out of it
    assert real(1).outcome == ("quarantined" if of_both else "deleted")
    assert row(engine)["version"] == before
    assert orchestrator.delete(1).outcome == "deleted"
    assert_gone(orchestrator, raw, keys)
    orchestrator.backup_full_state(2)
    assert participants(saved, fight) == (2,)
    members = "SELECT string_agg(character_id::text, ',') FROM session_characters"
    assert scalar(engine, f"{members} WHERE left_at IS NULL") == "2"
    assert raw.scard(keys.dirty) == raw.zcard(keys.claimed) == 0
