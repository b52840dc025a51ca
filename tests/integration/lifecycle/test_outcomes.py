"""Outcomes and counters say what is so: no alarm without a loss, no loss without an alarm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine

from statesync.errors import CharacterNotSaved, DatabaseUnavailable
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle import backup, plain, sweep
from statesync.lifecycle.orchestrator import BackupReport, GameStateOrchestrator
from statesync.settings import Settings
from statesync.state.outcomes import BackupOutcome
from tests.conftest import FullCore
from tests.integration.lifecycle.test_backup import outcomes, scalar, sweep_once

Orchestrator = GameStateOrchestrator


# Play on a deleted id


def play_by_create(hot: HotStore, raw: Any, keys: Keys, core: dict[str, Any]) -> None:
    hot.create(1, **core)


def play_by_update(hot: HotStore, raw: Any, keys: Keys, core: dict[str, Any]) -> None:
    raw.hset(keys.core(1), "version", 1)  # a login that was slower than the deletion
    hot.update(1, gold=1)


def play_by_bare_write(hot: HotStore, raw: Any, keys: Keys, core: dict[str, Any]) -> None:
    raw.hset(keys.core(1), "gold", "1")
    raw.sadd(keys.dirty, 1)


@pytest.mark.parametrize("play", [play_by_create, play_by_update, play_by_bare_write])
def test_play_on_a_deleted_id_is_named_until_it_is_deleted_again(
    orchestrator: Orchestrator,
    raw: Any,
    keys: Keys,
    full_core: FullCore,
    play: Callable[[HotStore, Any, Keys, dict[str, Any]], None],
) -> None:
    hot = orchestrator.hot
    hot.create(1, **full_core(1))
    orchestrator.backup_full_state(1)
    orchestrator.delete(1)
    play(hot, raw, keys, full_core(1))
    hot.create(2, **full_core(2))
    assert outcomes(sweep_once(orchestrator)) == {1: "deleted", 2: "saved"}
    entry = hot.sync_state(1).quarantine
    assert entry is not None
    assert "deleted in PostgreSQL" in entry.error
    assert [one.name for one in hot.list_quarantine()[1]] == ["1"]
    assert [(one.name, one.marks) for one in hot.pending(limit=9).characters] == [
        ("1", ("quarantined",))
    ]
    with pytest.raises(CharacterNotSaved):
        orchestrator.evict(1)
    assert raw.exists(keys.core(1))
    assert orchestrator.delete(1).outcome == "deleted"
    assert hot.sync_state(1) == (False, None, None, None)
    assert not raw.exists(keys.core(1))


def test_deletion_is_no_play_on_a_deleted_id(
    orchestrator: Orchestrator, full_core: FullCore, caplog: pytest.LogCaptureFixture
) -> None:
    orchestrator.hot.create(1, **full_core(1))
    orchestrator.hot.open_session("combat", [1], {})
    assert orchestrator.delete(1).outcome == "deleted"
    assert caplog.text == ""
    assert orchestrator.hot.list_quarantine() == (0, [])
    assert not orchestrator.hot.pending(limit=9).characters


def test_group_of_a_deleted_member_is_saved_when_the_deletion_is_run_again(
    orchestrator: Orchestrator, engine: Engine, full_core: FullCore, raw: Any, keys: Keys
) -> None:
    hot = orchestrator.hot
    for char_id in (1, 2):
        hot.create(char_id, **full_core(char_id))
    fight = hot.open_session("combat", [1, 2], {"turn": "1"})
    orchestrator.backup_many([1, 2])
    hot.note_deletion(1)
    scalar(engine, "UPDATE characters SET deleted_at = now() WHERE id = 1 RETURNING 1")
    hot.close_session("combat", fight, {"turn": "2"})
    assert outcomes(sweep_once(orchestrator)) == {1: "quarantined", 2: "quarantined"}
    assert orchestrator.delete(1).outcome == "deleted"
    assert scalar(engine, "SELECT payload->>'turn' FROM sessions") == "2"
    assert not raw.exists(keys.session("combat", str(fight)))
    assert hot.get(2).sessions == {}
    assert (hot.status().claimed, hot.status().quarantined) == (0, 0)


# Counters


def test_what_is_acknowledged_is_counted_although_the_worker_dies_later(
    orchestrator: Orchestrator, full_core: FullCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = GameStateOrchestrator(orchestrator.hot, orchestrator.engine, batch_size=10)
    for char_id in range(1, 31):
        small.hot.create(char_id, **full_core(char_id))
    claims = small.hot.claim_dirty(
        lease_us=60_000_000, max_in_flight=99, count=99, round_ms=60_000, whole=True
    ).claims
    counts = iter(range(9))

    def die(name: str) -> None:
        if name == "acknowledged" and next(counts) == 1:
            raise DatabaseUnavailable("the worker dies here")

    monkeypatch.setattr(backup, "failpoint", die)
    monkeypatch.setattr(plain, "failpoint", die)
    with pytest.raises(DatabaseUnavailable):
        small.backup_claims(claims)
    assert small.hot.status().counters["saved"] == 20


def test_each_character_is_counted_once(
    orchestrator: Orchestrator, full_core: FullCore, raw: Any, keys: Keys
) -> None:
    hot = orchestrator.hot
    for char_id in range(1, 6):
        hot.create(char_id, **full_core(char_id))
    hot.open_session("combat", [1, 2], {})
    raw.hset(keys.core(5), "bio", "{")
    orchestrator.backup_many([1, 3, 4, 5])
    assert hot.status().counters == {"saved": 3, "quarantined": 1}


def test_drain_counts_no_sweeps(
    orchestrator: Orchestrator, settings: Settings, full_core: FullCore
) -> None:
    orchestrator.hot.create(1, **full_core(1))
    report = sweep.drain(orchestrator, replace(settings, batch_above=0), 10)
    assert report.complete
    counters = orchestrator.hot.status().counters
    assert (counters.get("sweeps", 0), counters["saved"], counters["claimed"]) == (0, 1, 1)


# Backups that come after a logout


def test_backup_that_comes_after_the_logout_is_no_alarm(
    orchestrator: Orchestrator, full_core: FullCore, caplog: pytest.LogCaptureFixture
) -> None:
    hot = orchestrator.hot
    hot.create(1, **full_core(1))
    evicted = orchestrator.evict(1)
    assert evicted is not None
    late = orchestrator.backup_full_state(1)
    assert late == BackupReport(1, BackupOutcome.UNCHANGED, version=evicted.version)
    assert caplog.text == ""
    assert hot.sync_state(1) == (False, None, None, None)
    assert "missing" not in hot.status().counters


def test_backup_of_a_stranger_is_missing_and_not_counted(orchestrator: Orchestrator) -> None:
    assert orchestrator.backup_full_state(1).outcome == "missing"
    assert "missing" not in orchestrator.hot.status().counters


def test_lost_changes_are_counted(
    orchestrator: Orchestrator, full_core: FullCore, raw: Any, keys: Keys
) -> None:
    orchestrator.hot.create(1, **full_core(1))
    raw.delete(keys.core(1))
    assert orchestrator.backup_full_state(1).outcome == "missing"
    assert orchestrator.hot.status().counters["missing"] == 1


# A logout says that it is saved


@pytest.mark.parametrize("elsewhere", [BackupOutcome.SUPERSEDED, BackupOutcome.STALE])
def test_logout_reports_what_postgresql_has(
    orchestrator: Orchestrator,
    other: Orchestrator,
    engine: Engine,
    full_core: FullCore,
    monkeypatch: pytest.MonkeyPatch,
    elsewhere: BackupOutcome,
) -> None:
    orchestrator.hot.create(1, **full_core(1))

    def faster_worker(char_id: int) -> BackupReport:
        other.backup_full_state(char_id)
        return BackupReport(char_id, elsewhere)

    monkeypatch.setattr(orchestrator, "backup_full_state", faster_worker)
    report = orchestrator.evict(1)
    assert report is not None
    assert report.outcome == "unchanged"
    assert report.version == scalar(engine, "SELECT version FROM characters")
    assert orchestrator.hot.peek(1) is None


def test_logout_that_another_one_overtakes_reports_what_postgresql_has(
    orchestrator: Orchestrator,
    other: Orchestrator,
    full_core: FullCore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    orchestrator.hot.create(1, **full_core(1))

    def faster_logout(char_id: int) -> BackupReport:
        other.evict(char_id)
        return BackupReport(char_id, BackupOutcome.SUPERSEDED)

    monkeypatch.setattr(orchestrator, "backup_full_state", faster_logout)
    report = orchestrator.evict(1)
    assert report is not None
    assert (report.outcome, report.version) == ("unchanged", 2)
