"""A server goes back between two steps of one backup."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine

from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle import backup, commit, plain, servers, snapshots
from statesync.lifecycle.claims import requeue
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from tests.conftest import FullCore
from tests.rewind import Rewind, recorded


@pytest.fixture
def saved(orchestrator: GameStateOrchestrator, full_core: FullCore) -> HotStore:
    """One character, saved and loaded."""
    orchestrator.hot.create(1, **full_core(gold=0))
    orchestrator.backup_full_state(1)
    return orchestrator.hot


def entries(engine: Engine) -> list[tuple[int, Any]]:
    with engine.begin() as connection:
        found = connection.exec_driver_sql("SELECT seq, entry FROM combat_log ORDER BY seq")
        return [(row.seq, row.entry) for row in found]


@pytest.mark.parametrize("with_fight", [False, True])
def test_snapshot_that_redis_has_forgotten_ends_no_claim(
    orchestrator: GameStateOrchestrator,
    saved: HotStore,
    engine: Engine,
    raw: Any,
    keys: Keys,
    rewind: Rewind,
    monkeypatch: pytest.MonkeyPatch,
    with_fight: bool,
) -> None:
    """A bare change is kept, a later one forgotten: what was saved is as the row before."""
    if with_fight:
        saved.open_session("combat", [1], {})
        orchestrator.backup_full_state(1)
    raw.hset(keys.core(1), "gold", 1)
    raw.sadd(keys.dirty, 1)
    claim = saved.claim(1, lease_us=10**8).claim
    assert not saved.sync_state(1).dirty
    kept = rewind.moment()
    raw.hset(keys.core(1), "gold", 0)

    def goes_back(name: str) -> None:
        if name == "committed":
            rewind.to(kept)

    monkeypatch.setattr(commit if with_fight else plain, "failpoint", goes_back)
    assert [r.outcome for r in orchestrator.backup_claims([claim])] == ["unchanged"]
    monkeypatch.undo()
    assert saved.get(1).fields["gold"] == "1"
    requeue(saved, include_unexpired=True)
    assert saved.sync_state(1).dirty
    assert orchestrator.backup_full_state(1).outcome == "saved"
    with engine.begin() as connection:
        query = "SELECT extra->>'gold' FROM characters"
        assert connection.exec_driver_sql(query).scalar_one() == "1"
    assert recorded(engine) == []


def test_log_that_postgresql_has_forgotten_in_between_gets_no_hole(
    orchestrator: GameStateOrchestrator,
    saved: HotStore,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it lacks is read in one transaction, and written in another."""
    fight = saved.open_session("combat", [1], {})
    saved.update_session("combat", fight, log=["a", "b"])
    orchestrator.backup_full_state(1)
    saved.update_session("combat", fight, log=["c"])
    with_log = snapshots._with_log

    def goes_back(*args: Any) -> Any:
        monkeypatch.undo()
        with engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM combat_log WHERE seq = 1")
        return with_log(*args)

    monkeypatch.setattr(snapshots, "_with_log", goes_back)
    assert orchestrator.backup_full_state(1).outcome == "saved"
    assert entries(engine) == [(0, "a"), (1, "b"), (2, "c")]


def test_log_of_another_history_is_not_saved(
    orchestrator: GameStateOrchestrator,
    saved: HotStore,
    engine: Engine,
    rewind: Rewind,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Redis goes back between the snapshot and the reading of the log, and play goes on."""
    fight = saved.open_session("combat", [1], {})
    saved.update_session("combat", fight, log=["a", "b"])
    orchestrator.backup_full_state(1)
    before = rewind.moment()
    saved.update_session("combat", fight, {"round": "2"}, log=["c"])

    def goes_back(name: str) -> None:
        if name == "snapshot":
            monkeypatch.undo()
            rewind.to(before)
            saved.update_session("combat", fight, {"round": "9"}, log=["d"])

    monkeypatch.setattr(backup, "failpoint", goes_back)
    orchestrator.backup_full_state(1)
    requeue(saved, include_unexpired=True)
    orchestrator.backup_full_state(1)
    assert entries(engine) == [(0, "a"), (1, "b"), (2, "d")]
    with engine.begin() as connection:
        query = "SELECT payload->>'round' FROM sessions"
        assert connection.exec_driver_sql(query).scalar_one() == "9"
    assert recorded(engine) == []


def test_bare_write_to_a_session_that_has_left_is_no_loss_of_a_server(
    orchestrator: GameStateOrchestrator, saved: HotStore, engine: Engine, raw: Any, keys: Keys
) -> None:
    fight = saved.open_session("combat", [1], {"round": "1"})
    orchestrator.backup_full_state(1)
    orchestrator.evict(1)
    raw.hset(keys.session("combat", str(fight)), "round", "2")
    orchestrator.restore_full_state(1)
    raw.sadd(keys.dirty, 1)
    orchestrator.backup_full_state(1)
    assert servers.losses(saved, engine) == []
    assert "redis_went_back" not in saved.status().counters
