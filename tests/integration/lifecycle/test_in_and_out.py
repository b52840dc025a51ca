"""Ways out of Redis and back, while others are on their way too, or something is broken."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, text

import statesync.lifecycle.orchestrator
from statesync import GameStateOrchestrator
from statesync.errors import CharacterNotSaved, CorruptState
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.state.characters import write_character
from tests.conftest import FullCore
from tests.rewind import lost_cores

PARTY = [1, 2, 3, 4]


@pytest.fixture
def party(hot: HotStore, full_core: FullCore, orchestrator: GameStateOrchestrator) -> list[int]:
    for char_id in PARTY:
        hot.create(char_id, **full_core(char_id))
    orchestrator.backup_many(PARTY)
    return PARTY


@pytest.mark.usefixtures("party")
def test_a_quarantined_character_is_not_evicted(
    hot: HotStore, orchestrator: GameStateOrchestrator, raw: Any, keys: Keys
) -> None:
    raw.hset(keys.core(1), "stats", "{")  # a bare writer raises no version
    raw.sadd(keys.dirty, 1)
    with pytest.raises(CharacterNotSaved):
        orchestrator.evict(1)
    assert not hot.evict(1)
    assert raw.hget(keys.core(1), "stats") == b"{"


@pytest.mark.usefixtures("party")
def test_a_logout_that_takes_two_rounds_does_not_fail_where_each_is_slow(
    hot: HotStore, orchestrator: GameStateOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statesync.lifecycle.orchestrator, "_EVICT_SECONDS", 0)
    fight = hot.open_session("combat", [1], {})
    hot.close_session("combat", fight)  # saving its end changes the core, which is saved then
    assert orchestrator.evict(1)
    assert hot.peek(1) is None


@pytest.mark.usefixtures("party")
def test_last_one_to_log_out_does_not_take_a_session_that_cannot_be_saved(
    hot: HotStore, orchestrator: GameStateOrchestrator, raw: Any, keys: Keys
) -> None:
    fight = hot.open_session("combat", [1, 2], {"turn": "1"})
    orchestrator.backup_many(PARTY)
    raw.hset(keys.session("combat", str(fight)), "monsters", "{")
    raw.sadd(keys.dirty, 1)
    assert orchestrator.backup_full_state(1).outcome == "quarantined"
    raw.delete(keys.core(1))
    assert not hot.evict(2)
    assert raw.exists(keys.session("combat", str(fight)))


@pytest.mark.parametrize("count", [4, 24])
def test_all_of_a_fight_log_out_at_once(
    hot: HotStore,
    orchestrator: GameStateOrchestrator,
    full_core: FullCore,
    raw: Any,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    # On a busy machine the crowd's saves may take longer than one of them waits.
    monkeypatch.setattr("statesync.lifecycle.orchestrator._EVICT_SECONDS", 300)
    crowd = list(range(1, count + 1))
    for char_id in crowd:
        hot.create(char_id, **full_core(char_id))
    hot.open_session("combat", crowd, {"turn": "1"})
    with ThreadPoolExecutor(count) as threads:
        list(threads.map(orchestrator.evict, crowd))
    assert not raw.keys(keys.core("*"))  # type: ignore[arg-type]
    assert not raw.keys(f"{keys.prefix}combat:session:*")


def test_chain_of_sessions_of_any_length_is_saved(
    hot: HotStore, orchestrator: GameStateOrchestrator, full_core: FullCore
) -> None:
    count = 90
    for char_id in range(1, count + 1):
        hot.create(char_id, **full_core(char_id))
    for i in range(1, count):
        session_type = "combat" if i % 2 else "scenario"
        hot.open_session(session_type, [i, i + 1], {} if i % 2 else {"quest_id": f"q{i}"})
    assert orchestrator.backup_full_state(1).outcome == "saved"
    assert hot.status().dirty == 0


def test_two_backups_after_a_logout_raise_no_alarm(
    hot: HotStore, orchestrator: GameStateOrchestrator
) -> None:
    hot.claim(9, lease_us=120_000_000)
    report = orchestrator.backup_full_state(9)
    assert (report.outcome, report.error) == ("missing", "not in Redis: nothing to save")
    assert hot.list_quarantine() == (0, [])


@pytest.mark.slow  # it waits twice for a lock until PostgreSQL gives up
@pytest.mark.usefixtures("party")
def test_locked_item_holds_up_its_own_group_alone(
    hot: HotStore, orchestrator: GameStateOrchestrator, engine: Engine
) -> None:
    sword = {"item_id": "sword", "kind": "sword", "quantity": 1}
    bag = hot.open_session("inventory", [1], {"items": [sword]})
    orchestrator.backup_full_state(1)
    hot.update_session("inventory", bag, {"items": [sword | {"quantity": 2}]})
    for char_id in (2, 3, 4):
        hot.update(char_id, gold=1)
    with engine.connect() as connection:
        connection.execute(text("SELECT * FROM inventory_items FOR UPDATE"))
        reports = orchestrator.backup_many(PARTY)
    assert [r.outcome for r in reports] == ["released", "saved", "saved", "saved"]
    assert hot.sync_state(1).dirty


@pytest.mark.usefixtures("party")
def test_what_happened_in_a_session_while_nobody_was_loaded_is_saved(
    hot: HotStore, orchestrator: GameStateOrchestrator, engine: Engine, raw: Any, keys: Keys
) -> None:
    fight = hot.open_session("combat", [1, 2], {"turn": "1"})
    orchestrator.backup_many(PARTY)
    raw.delete(keys.core(1), keys.core(2))  # as by a loss of the cores alone
    session = keys.session("combat", str(fight))
    raw.hset(session, "turn", "2")
    raw.hincrby(session, "version", 1)
    orchestrator.restore_full_state(1)
    assert hot.sync_state(1).dirty
    orchestrator.backup_full_state(1)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT payload->>'turn' FROM sessions")).scalar() == "2"


@pytest.mark.usefixtures("party")
def test_a_session_left_while_logged_out_is_not_entered_again(
    hot: HotStore, orchestrator: GameStateOrchestrator, raw: Any, keys: Keys
) -> None:
    fight = hot.open_session("combat", [1, 2], {"turn": "1"})
    orchestrator.evict(1)
    hot.leave_session("combat", fight, 1)
    orchestrator.restore_full_state(1)
    assert not raw.hexists(keys.core(1), "combat_session_id")
    assert hot.sync_state(1).dirty
    assert hot.get_session("combat", fight).participants == (2,)


@pytest.mark.usefixtures("party")
def test_broken_character_does_not_keep_others_from_being_restored(
    hot: HotStore, orchestrator: GameStateOrchestrator, raw: Any, keys: Keys
) -> None:
    fight = hot.open_session("combat", [4], {"turn": "1"})
    orchestrator.backup_many(PARTY)
    raw.hset(keys.core(1), "combat_session_id", "garbage")
    raw.delete(keys.core(2), keys.core(4), keys.session("combat", str(fight)))
    raw.set(keys.session("combat", str(fight)), "x")
    reports = orchestrator.restore_many([1, 2, 4])
    assert [r.outcome for r in reports] == ["failed", "restored", "failed"]
    assert "combat_session_id" in (reports[0].error or "")
    assert str(fight) in (reports[2].error or "")
    assert not raw.exists(keys.core(4))


@pytest.mark.usefixtures("party")
def test_log_of_the_wrong_kind_leaves_no_claim(
    hot: HotStore, orchestrator: GameStateOrchestrator, raw: Any, keys: Keys
) -> None:
    fight = hot.open_session("combat", PARTY, {"turn": "1"})
    raw.set(keys.session_log("combat", str(fight)), "x")
    assert {r.outcome for r in orchestrator.backup_many(PARTY)} == {"quarantined"}
    assert hot.status().claimed == 0


def test_large_group_with_a_broken_member_is_set_aside_at_once(
    hot: HotStore, orchestrator: GameStateOrchestrator, full_core: FullCore, raw: Any, keys: Keys
) -> None:
    crowd = list(range(1, 9))
    for char_id in crowd:
        hot.create(char_id, **full_core(char_id))
    hot.open_session("combat", crowd, {"turn": "1"})
    raw.hset(keys.core(8), "version", "x")
    assert {r.outcome for r in orchestrator.backup_many(crowd)} == {"quarantined"}


@pytest.mark.usefixtures("party")
def test_broken_participants_are_not_written_over(hot: HotStore, raw: Any, keys: Keys) -> None:
    fight = hot.open_session("combat", [1, 2], {"turn": "1"})
    raw.hset(keys.session("combat", str(fight)), "participants", "{broken")
    for call, *args in ((hot.leave_session, 1), (hot.join_session, 3), (hot.update_session, {})):
        with pytest.raises(CorruptState, match="participants"):
            call("combat", fight, *args)
    assert raw.hget(keys.session("combat", str(fight)), "participants") == b"{broken"


@pytest.mark.usefixtures("party")
def test_core_created_under_a_saved_id_is_recorded_and_the_row_is_live(
    hot: HotStore,
    orchestrator: GameStateOrchestrator,
    engine: Engine,
    raw: Any,
    keys: Keys,
    full_core: FullCore,
) -> None:
    hot.update(1, medal="gold")
    saved = orchestrator.backup_full_state(1).version
    raw.delete(keys.core(1))
    hot.create(1, **full_core(1))
    for _ in range(20):
        hot.update(1, gold=5)
    report = orchestrator.backup_full_state(1)
    assert (report.outcome, report.version) == ("conflict", saved)
    assert hot.get(1).core() == full_core(1, medal="gold")
    [(char_id, core)] = lost_cores(engine)
    assert (char_id, core["gold"]) == (1, "5")
    assert orchestrator.backup_full_state(1).outcome == "unchanged"


@pytest.mark.usefixtures("party")
@pytest.mark.parametrize("writes", [1, 20])
@pytest.mark.parametrize("is_whole", [False, True])
def test_bare_write_on_a_character_that_is_not_loaded_is_laid_over_its_row(
    hot: HotStore,
    orchestrator: GameStateOrchestrator,
    engine: Engine,
    raw: Any,
    keys: Keys,
    full_core: FullCore,
    writes: int,
    *,
    is_whole: bool,
) -> None:
    """Its own fields are filled in as well, also if it has every field of ours."""
    hot.update(1, medal="gold", gold="1")
    orchestrator.evict(1)
    if is_whole:
        raw.hset(keys.core(1), mapping=write_character(full_core(1)))
    for gold in range(2, 2 + writes):
        raw.hset(keys.core(1), "gold", gold)
        raw.hincrby(keys.core(1), "version", 1)
        raw.sadd(keys.dirty, 1)
    assert orchestrator.backup_full_state(1).outcome == "saved"
    whole = full_core(1, medal="gold", gold=str(1 + writes))
    assert hot.get(1).core() == whole
    assert lost_cores(engine) == []
    orchestrator.evict(1)
    orchestrator.restore_full_state(1)
    assert hot.get(1).core() == whole
