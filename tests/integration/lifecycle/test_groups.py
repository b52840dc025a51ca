"""Consistency groups: saved whole or not at all, fenced by every member; what a conflict keeps."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from statesync.durable import database
from statesync.errors import SessionNotLoaded
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle import groups
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.restore import Restore
from statesync.lifecycle.snapshots import GroupResult, Snapshot, decode, read_logs
from statesync.state.fields import TIE_FIELD
from tests.conftest import FullCore
from tests.rewind import Rewind, lost_cores, lost_sessions

PARTY = [1, 2, 3]
LEASE = 60_000_000


def rows(engine: Engine, query: str) -> list[Any]:
    with engine.begin() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def versions(engine: Engine) -> list[Any]:
    query = "SELECT id::text, version FROM characters UNION SELECT id::text, version FROM sessions"
    return rows(engine, f"{query} ORDER BY 1")


@pytest.fixture
def fight(hot: HotStore, full_core: FullCore) -> UUID:
    """A fight of three, never saved."""
    for i in PARTY:
        hot.create(i, **full_core(i))
    return hot.open_session("combat", PARTY, {"round": "1"}, state="combat")


def take(game: GameStateOrchestrator) -> Snapshot:
    """Take a snapshot, as a worker does before it is stopped."""
    claim, _ = game.hot.claim(1, lease_us=LEASE)
    snapshot = decode(1, game.hot.snapshot(claim, lease_us=LEASE))
    read_logs(game.hot, game.engine, game.sessions, [snapshot])
    return snapshot


def commit(game: GameStateOrchestrator, *todo: Snapshot) -> list[GroupResult]:
    with database.transaction(game.engine) as connection:
        return groups.save(connection, todo, game.sessions)


def test_old_group_is_refused_whole(
    orchestrator: GameStateOrchestrator, hot: HotStore, fight: UUID, engine: Engine
) -> None:
    old = take(orchestrator)
    hot.update_session("combat", fight, {"round": "2"})
    orchestrator.backup_many(PARTY)
    before = versions(engine)
    (outcome,) = commit(orchestrator, old)
    assert not outcome.saved
    assert versions(engine) == before
    assert rows(engine, "SELECT payload->>'round' FROM sessions") == [("2",)]


def test_one_refused_member_holds_back_the_group(
    orchestrator: GameStateOrchestrator, hot: HotStore, fight: UUID, engine: Engine
) -> None:
    orchestrator.backup_many(PARTY)
    hot.update_session("combat", fight, {"round": "2"})
    hot.update(1, gold=1)
    mine = take(orchestrator)
    with engine.begin() as connection:
        connection.execute(text("UPDATE characters SET version = 1000 WHERE id = 3"))
    before = versions(engine)
    (outcome,) = commit(orchestrator, mine)
    assert not outcome.saved
    assert versions(engine) == before
    assert rows(engine, "SELECT count(*) FROM characters WHERE extra ? 'gold'") == [(0,)]


@pytest.mark.slow
def test_locked_member_gives_the_group_back(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    engine: Engine,
    full_core: FullCore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hot.create(9, **full_core(9))
    orchestrator.backup_many([*PARTY, 9])
    for i in (*PARTY, 9):
        hot.update(i, gold=1)
    with engine.connect() as connection:
        connection.execute(text("SET lock_timeout = 1"))
        connection.execute(text("SELECT 1 FROM characters WHERE id = 2 FOR UPDATE"))
        reports = orchestrator.backup_many([*PARTY, 9])
        connection.rollback()
    assert [r.outcome for r in reports] == ["released"] * 3 + ["saved"]
    assert all(hot.sync_state(i).dirty for i in PARTY)
    assert hot.status().claimed == 0
    assert [r.outcome for r in orchestrator.backup_many(PARTY)] == ["saved"] * 3


def test_broken_member_holds_its_group_and_is_named(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    raw: Any,
    keys: Keys,
    engine: Engine,
    full_core: FullCore,
) -> None:
    hot.create(9, **full_core(9))
    raw.hset(keys.core(3), "stats", "{")
    reports = orchestrator.backup_many([*PARTY, 9])
    assert [r.outcome for r in reports] == ["quarantined"] * 3 + ["saved"]
    assert {r.field for r in reports[:3]} == {"stats"}
    assert "belongs together with character 3: is not valid JSON" in (reports[0].error or "")
    assert rows(engine, "SELECT id FROM characters") == [(9,)]
    raw.hset(keys.core(3), "stats", "{}")
    assert orchestrator.backup_full_state(2).outcome == "saved"
    assert rows(engine, "SELECT count(*) FROM characters") == [(4,)]
    assert hot.list_quarantine() == (0, [])


def test_bare_game_closes_by_clearing_the_references(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    raw: Any,
    keys: Keys,
    engine: Engine,
) -> None:
    orchestrator.backup_many(PARTY)
    raw.delete(keys.session("combat", str(fight)))
    for i in PARTY:
        assert rows(engine, "SELECT closed_at FROM sessions") == [(None,)]
        raw.hdel(keys.core(i), "combat_session_id")
        raw.sadd(keys.dirty, i)
        orchestrator.backup_full_state(i)
    assert rows(engine, "SELECT closed_at IS NULL FROM sessions") == [(False,)]
    assert rows(engine, "SELECT count(*) FROM session_characters WHERE left_at IS NULL") == [(0,)]


def test_lost_acknowledgement_of_a_close(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    raw: Any,
    keys: Keys,
    engine: Engine,
) -> None:
    hot.update_session("combat", fight, log=[1, 2])
    hot.close_session("combat", fight, {"result": "won"})
    commit(orchestrator, take(orchestrator))  # and here the worker dies
    assert rows(engine, "SELECT closed_at IS NULL FROM sessions") == [(False,)]
    assert hot.get(1).sessions == {"combat": fight}
    assert orchestrator.backup_full_state(2).sessions == {"combat": "closed"}
    assert hot.get(1).sessions == {}
    assert not raw.exists(keys.session("combat", str(fight)))
    assert rows(engine, "SELECT count(*) FROM combat_log") == [(2,)]


def test_closed_between_snapshot_and_acknowledgement_it_keeps_its_end(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save = groups.save

    def and_then_it_ends(*args: Any, **kwargs: Any) -> list[GroupResult]:
        outcomes = save(*args, **kwargs)
        hot.close_session("combat", fight, {"result": "won"})
        return outcomes

    monkeypatch.setattr(groups, "save", and_then_it_ends)
    assert orchestrator.backup_full_state(1).sessions == {"combat": "saved"}
    monkeypatch.undo()
    assert hot.get(1).sessions == {"combat": fight}
    assert orchestrator.backup_full_state(1).sessions == {"combat": "closed"}
    assert rows(engine, "SELECT payload->>'result' FROM sessions") == [("won",)]


def test_login_while_a_session_closes_keeps_no_reference(
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    raw: Any,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    orchestrator.backup_many(PARTY)
    orchestrator.evict(2)
    hot.close_session("combat", fight)
    save = groups.save

    def and_another_logs_in(*args: Any, **kwargs: Any) -> list[GroupResult]:
        other.restore_full_state(2)
        return save(*args, **kwargs)

    monkeypatch.setattr(groups, "save", and_another_logs_in)
    assert orchestrator.backup_full_state(1).sessions == {"combat": "closed"}
    assert hot.get(2).sessions == {}
    assert hot.sync_state(2).dirty


def test_slow_restore_does_not_bring_a_closed_one_back(
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    raw: Any,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    orchestrator.backup_many(PARTY)
    orchestrator.evict(2)
    send_now = Restore._send

    def after_it_has_closed(restore: Restore, plans: Any, *args: Any) -> list[int]:
        if not plans:  # none of them is in no session
            return send_now(restore, plans, *args)
        monkeypatch.undo()
        hot.close_session("combat", fight)
        assert orchestrator.backup_full_state(1).sessions == {"combat": "closed"}
        return send_now(restore, plans, *args)

    monkeypatch.setattr(Restore, "_send", after_it_has_closed)
    report = other.restore_full_state(2)
    assert (report.sessions, report.fallback_from) == ({"combat": "ended"}, "combat")
    assert not raw.exists(keys.session("combat", str(fight)))


def test_login_that_finds_the_sessions_gone_with_the_core_restores_both(
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for i in PARTY:
        hot.update(i, gold=i)
    orchestrator.backup_many(PARTY)
    orchestrator.evict(2)
    orchestrator.evict(3)
    peek = Restore._lost_sessions

    def after_the_eviction(restore: Restore, references: Any) -> Any:
        monkeypatch.undo()
        orchestrator.evict(1)
        return peek(restore, references)

    monkeypatch.setattr(Restore, "_lost_sessions", after_the_eviction)
    report = other.restore_full_state(1)
    assert (report.outcome, report.sessions) == ("restored", {"combat": "restored"})
    assert hot.get(1).fields["gold"] == "1"


def test_closed_while_nobody_was_loaded_it_ends_with_the_next_login(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    raw: Any,
    keys: Keys,
    engine: Engine,
) -> None:
    orchestrator.backup_many(PARTY)
    for i in (2, 3):
        orchestrator.evict(i)
    hot.leave_session("combat", fight, 1)
    orchestrator.backup_full_state(1)
    with pytest.raises(SessionNotLoaded):
        hot.close_session("combat", fight, {"result": "nobody came back"})
    session = keys.session("combat", str(fight))
    raw.hset(session, mapping={"result": "nobody came back", "closed_at": "1"})
    raw.hincrby(session, "version", 1)
    assert hot.status().dirty == 0
    assert orchestrator.restore_full_state(2).sessions == {"combat": "live"}
    assert hot.sync_state(2).dirty
    assert orchestrator.backup_full_state(2).sessions == {"combat": "closed"}
    assert rows(engine, "SELECT payload->>'result' FROM sessions") == [("nobody came back",)]


def test_leaver_is_saved_with_the_session_it_left(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    raw: Any,
    keys: Keys,
    engine: Engine,
) -> None:
    orchestrator.backup_many(PARTY)
    hot.update_session("combat", fight, {"pot": "0"}, log=["1 takes it all"])
    hot.leave_session("combat", fight, 1)
    hot.update(1, loot="pot")
    saved = "SELECT (SELECT extra->>'loot' FROM characters WHERE id = 1), payload->>'pot'"
    assert orchestrator.backup_full_state(3).outcome == "saved"
    assert rows(engine, f"{saved} FROM sessions") == [("pot", "0")]
    assert not raw.hexists(keys.core(1), TIE_FIELD)
    assert not raw.hexists(keys.session("combat", str(fight)), TIE_FIELD)
    assert not raw.keys(keys.tie("*"))
    hot.leave_session("combat", fight, 2)
    hot.update(2, loot="crumbs")
    orchestrator.evict(3)
    hot.update(2, loot="more")
    assert orchestrator.backup_full_state(2).sessions == {}
    assert rows(engine, "SELECT payload->'participants' FROM sessions") == [([3],)]


def test_last_loaded_one_leaves_and_what_it_did_is_saved(
    orchestrator: GameStateOrchestrator, hot: HotStore, fight: UUID, engine: Engine
) -> None:
    orchestrator.backup_many(PARTY)
    orchestrator.evict(2)
    orchestrator.evict(3)
    hot.update_session("combat", fight, log=["a hit"])
    hot.leave_session("combat", fight, 1)
    assert orchestrator.backup_full_state(1).outcome == "saved"
    assert rows(engine, "SELECT entry FROM combat_log") == [("a hit",)]
    assert orchestrator.restore_full_state(2).sessions == {"combat": "live"}


def test_same_save_repeated_doubles_no_row(
    orchestrator: GameStateOrchestrator, hot: HotStore, fight: UUID, engine: Engine
) -> None:
    hot.update_session("combat", fight, log=list(range(10)))
    group = take(orchestrator)
    orchestrator.backup_many(PARTY)
    hot.update_session("combat", fight, log=[10])
    orchestrator.backup_many(PARTY)
    commit(orchestrator, group)
    assert rows(engine, "SELECT seq, entry::text::int FROM combat_log ORDER BY 1") == [
        (i, i) for i in range(11)
    ]


# Redis went back, or a writer put something back


def conflicts(engine: Engine) -> list[Any]:
    return rows(engine, "SELECT reason, state FROM state_conflicts ORDER BY id")


def test_faster_worker_that_ended_the_fight_is_no_conflict(
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A session that was saved and has ended since has not gone back."""
    orchestrator.backup_many(PARTY)
    save = groups.save

    def too_late(*args: Any, **kwargs: Any) -> list[GroupResult]:
        monkeypatch.undo()
        hot.update_session("combat", fight, {"round": "2"})
        assert other.backup_full_state(2).outcome == "saved"
        hot.close_session("combat", fight)
        assert other.backup_full_state(2).sessions == {"combat": "closed"}
        return save(*args, **kwargs)

    monkeypatch.setattr(groups, "save", too_late)
    hot.update_session("combat", fight, {"round": "1.5"})
    assert orchestrator.backup_full_state(1).outcome in ("superseded", "stale")
    assert conflicts(engine) == []


def test_log_that_a_writer_has_cut_keeps_what_it_lost(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    raw: Any,
    keys: Keys,
    engine: Engine,
) -> None:
    hot.update_session("combat", fight, log=["a", "b", "c", "d"])
    orchestrator.backup_many(PARTY)
    log = keys.session_log("combat", str(fight))
    raw.ltrim(log, 0, 1)
    raw.rpush(log, json.dumps("other"))
    raw.hset(keys.session("combat", str(fight)), mapping={"version": 1, "round": "live"})
    raw.sadd(keys.dirty, 1)
    assert orchestrator.backup_full_state(1).outcome == "saved"
    entries = rows(engine, "SELECT entry FROM combat_log ORDER BY seq")
    assert entries == [("a",), ("b",), ("other",)]
    lost = [entry for _, state in conflicts(engine) for entry in state["log"]]
    assert lost == [{"seq": 2, "entry": "c"}, {"seq": 3, "entry": "d"}]


def test_character_that_went_back_takes_its_fight_along(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    rewind: Rewind,
    engine: Engine,
) -> None:
    orchestrator.backup_many(PARTY)
    before = rewind.moment()
    hot.update(1, gold="saved")
    orchestrator.backup_many(PARTY)
    rewind.to(before)
    hot.update(1, gold="live")
    hot.update_session("combat", fight, {"round": "9"})
    hot.update(3, gold="of 3")
    assert {r.outcome for r in orchestrator.backup_many(PARTY)} == {"conflict"}
    gold = "SELECT extra->>'gold' FROM characters ORDER BY id"
    assert rows(engine, gold) == [("saved",), (None,), (None,)]
    assert rows(engine, "SELECT payload->>'round' FROM sessions") == [("1",)]
    assert [hot.get(i).fields.get("gold") for i in PARTY] == ["saved", None, None]
    assert hot.get_session("combat", fight).fields["round"] == "1"
    assert [core.get("gold") for _, core in lost_cores(engine)] == ["live", None, "of 3"]
    assert [session["round"] for _, session in lost_sessions(engine)] == ["9"]


def test_closed_in_postgresql_but_live_again(
    orchestrator: GameStateOrchestrator, hot: HotStore, fight: UUID, engine: Engine
) -> None:
    orchestrator.backup_many(PARTY)
    with engine.begin() as connection:
        connection.execute(text("UPDATE sessions SET closed_at = now()"))
    hot.update_session("combat", fight, {"round": "2"})
    assert orchestrator.backup_full_state(1).sessions == {"combat": "saved"}
    assert rows(engine, "SELECT closed_at, payload->>'round' FROM sessions") == [(None, "2")]
