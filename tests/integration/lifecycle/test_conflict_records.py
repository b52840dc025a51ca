"""Recording the losing side of a conflict reads it whole, and changes no row but the digest."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from tests.integration.lifecycle import test_session_conflicts as conflicts
from tests.integration.lifecycle.test_session_conflicts import PARTY, Redis, lost, play, rows

redis, fight = conflicts.redis, conflicts.fight


def test_session_that_had_ended_stays_ended_if_the_worker_dies(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    redis: Redis,
    fight: UUID,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = redis.dump()
    play(hot, orchestrator, fight, "1", "2")
    hot.close_session("combat", fight)
    orchestrator.backup_many(PARTY)
    members = "SELECT character_id FROM session_characters WHERE left_at IS NULL"
    state = "SELECT closed_at, payload FROM sessions"
    saved = rows(engine, state)
    redis.put(before)
    hot.update_session("combat", fight, {"round": "live"})
    monkeypatch.setattr(
        orchestrator.hot.commands, "reconcile_session", conflicts.dies, raising=False
    )
    with pytest.raises(conflicts.Died):
        orchestrator.backup_full_state(1)
    assert len(lost(engine, fight)) == 1
    assert (rows(engine, state), rows(engine, members)) == (saved, [])
    assert rows(engine, "SELECT digest FROM sessions") == [("",)], "its log is compared whole"


def test_session_of_before_is_recorded_though_its_members_are_in_the_next_one(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    redis: Redis,
    fight: UUID,
    engine: Engine,
) -> None:
    before = redis.dump()
    play(hot, orchestrator, fight, "1", "2")
    hot.close_session("combat", fight)
    orchestrator.backup_many(PARTY)
    hot.open_session("combat", PARTY, {"round": "next"})
    orchestrator.backup_many(PARTY)
    redis.put(before)
    hot.update_session("combat", fight, {"round": "live"})
    orchestrator.backup_many(PARTY)
    [state] = lost(engine, fight)
    assert (state["session"].get("round"), state["log"]) == ("2", ["begin", "1", "2"])


def test_losing_side_that_cannot_be_recorded_is_not_overwritten_later(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    redis: Redis,
    fight: UUID,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = redis.dump()
    play(hot, orchestrator, fight, "1", "2", "3")
    redis.put(before)
    hot.update_session("combat", fight, {"round": "live"})

    def fails(*_: Any) -> Any:
        raise KeyError("a field that an older game did not have")

    monkeypatch.setattr(orchestrator.sessions["combat"], "load", fails)
    for _ in range(2):
        assert orchestrator.backup_full_state(1).outcome == "quarantined"
    assert rows(engine, "SELECT payload->>'round' FROM sessions") == [("3",)]
    monkeypatch.undo()
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert [state["session"]["round"] for state in lost(engine, fight)] == ["3"]
