"""A server's trouble is no character's fault, and leaves no claim to wait for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine

from statesync import durable
from statesync.durable import database
from statesync.embedded.servers import Servers
from statesync.errors import (
    CharacterNotLoaded,
    CharacterNotSaved,
    CorruptState,
    DatabaseUnavailable,
    NotMigrated,
    RedisUnavailable,
)
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle import groups, sweep
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.settings import Settings
from statesync.state.outcomes import BackupOutcome
from tests.conftest import FullCore, NewDatabase


@pytest.fixture
def out_of_memory(raw: Any) -> Iterator[Any]:
    """A switch that fills Redis."""

    def restore() -> None:
        raw.config_set("maxmemory", 1)

    yield restore
    raw.config_set("maxmemory", 0)


def test_redis_out_of_memory_is_drained_and_refuses_what_a_game_adds(
    hot: HotStore,
    orchestrator: GameStateOrchestrator,
    settings: Settings,
    full_core: FullCore,
    out_of_memory: Any,
) -> None:
    for char_id in range(1, 8):
        hot.create(char_id, **full_core())
    fight = hot.open_session("combat", [1, 2], {"monsters": [{"hp": 3}]})
    hot.update_session("combat", fight, log=[{"hit": 1}])
    hot.open_session("inventory", [3], {"items": []})
    hot.update_together({4: {"gold": 0}, 5: {"gold": 2}})
    hot.close_session("combat", hot.open_session("combat", [6], {"monsters": []}))
    out_of_memory()
    with pytest.raises(RedisUnavailable, match="maxmemory"):
        hot.update(1, gold=1)
    report = sweep.drain(orchestrator, settings, 60)
    assert (report.complete, report.quarantined) == (True, 0), report
    assert {BackupOutcome.RELEASED, BackupOutcome.QUARANTINED}.isdisjoint(report.outcomes)
    orchestrator.evict(7)
    with pytest.raises(CharacterNotLoaded):
        hot.get(7)
    with pytest.raises(RedisUnavailable, match="maxmemory"):
        orchestrator.restore_full_state(7)
    sweep.scheduled_sweep(orchestrator, settings, fail, fail)


def test_deletion_of_one_in_a_fight_works_while_redis_is_out_of_memory(
    hot: HotStore, orchestrator: GameStateOrchestrator, full_core: FullCore, out_of_memory: Any
) -> None:
    for char_id in (1, 2):
        hot.create(char_id, **full_core(char_id))
    fight = hot.open_session("combat", [1, 2], {"monsters": []})
    out_of_memory()
    assert orchestrator.delete(1).outcome == "deleted"
    assert hot.get_session("combat", fight).participants == (2,)
    assert hot.status().quarantined == 0
    assert orchestrator.backup_full_state(2).outcome in ("saved", "unchanged")


def fail(claims: object) -> None:
    raise AssertionError(f"still dirty: {claims}")


@pytest.mark.parametrize("version", ["x", "1.5", str(2**63 - 1)])
def test_a_version_that_cannot_be_raised_is_the_characters_fault(
    hot: HotStore, raw: Any, keys: Keys, full_core: FullCore, version: str
) -> None:
    hot.create(1, **full_core())
    raw.hset(keys.core(1), "version", version)
    with pytest.raises(CorruptState) as info:
        hot.update(1, gold=1)
    assert info.value.field == "version"
    assert raw.hget(keys.core(1), "gold") is None


@pytest.mark.slow
def test_a_locked_row_holds_up_neither_the_batch_nor_itself_for_ever(
    hot: HotStore, orchestrator: GameStateOrchestrator, engine: Engine, full_core: FullCore
) -> None:
    ids = list(range(1, 11))
    for i in ids:
        hot.create(i, **full_core(i))
    orchestrator.backup_many(ids)
    for i in ids:
        hot.update(i, gold=1)
    with engine.begin() as connection:
        connection.exec_driver_sql("SELECT 1 FROM characters WHERE id IN (3, 4) FOR UPDATE")
        outcomes = {r.char_id: r.outcome for r in orchestrator.backup_many(ids)}
    assert {i for i, outcome in outcomes.items() if outcome != "saved"} == {3, 4}
    assert (outcomes[3], hot.sync_state(3).dirty, hot.sync_state(3).token) == (
        "released",
        True,
        None,
    )
    assert {r.outcome for r in orchestrator.backup_many([3, 4])} == {"saved"}


def test_a_drain_gives_back_what_it_claimed_when_postgresql_is_away(
    hot: HotStore, unreachable: Settings, full_core: FullCore
) -> None:
    for i in range(1, 21):
        hot.create(i, **full_core(i))
    away = GameStateOrchestrator.from_settings(replace(unreachable, batch_size=5))
    with pytest.raises(DatabaseUnavailable):
        sweep.drain(away, replace(unreachable, batch_size=5), 0.0)
    away.close()
    assert (hot.status().dirty, hot.status().claimed) == (20, 0)


def test_conflict_that_meets_a_lock_is_released_and_ends_no_drain(
    hot: HotStore,
    orchestrator: GameStateOrchestrator,
    settings: Settings,
    engine: Engine,
    full_core: FullCore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for i in (1, 2, 3):
        hot.create(i, **full_core(i))
    orchestrator.backup_many([1, 2, 3])
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE characters SET version = 100 WHERE id IN (1, 2)")
    for i in (1, 2, 3):
        hot.update(i, gold=1)
    load = durable.characters.load_each

    def meets_a_lock(connection: Any, ids: Any, *more: Any) -> Any:
        if 2 in ids:
            raise database.Rejected("canceling statement due to lock timeout", locked=True)
        return load(connection, ids, *more)

    with monkeypatch.context() as patched:
        patched.setattr(durable.characters, "load_each", meets_a_lock)
        reports = orchestrator.backup_many([1, 2, 3])
        assert [r.outcome for r in reports] == ["conflict", "released", "saved"]
        assert "lock" in (reports[1].error or "")
        hot.update(3, gold=2)
        report = sweep.drain(orchestrator, settings, 0.2)
        assert not report.complete
    assert (hot.status().claimed, hot.sync_state(2).dirty) == (0, True)
    assert orchestrator.backup_full_state(2).outcome == "conflict"


def test_missing_tables_leave_no_claim(
    hot: HotStore,
    settings: Settings,
    embedded: Servers,
    new_database: NewDatabase,
    full_core: FullCore,
) -> None:
    hot.create(1, **full_core())
    url = embedded.database_url(new_database(empty=True))
    orchestrator = GameStateOrchestrator.from_settings(replace(settings, database_url=url))
    with pytest.raises(NotMigrated, match="statesync migrate"):
        orchestrator.backup_full_state(1)
    orchestrator.close()
    assert (hot.sync_state(1).dirty, hot.sync_state(1).token) == (True, None)


def test_a_busy_connection_pool_is_the_database_unavailable(
    hot: HotStore, settings: Settings, full_core: FullCore
) -> None:
    hot.create(1, **full_core())
    one = create_engine(settings.database_url, pool_size=1, max_overflow=0, pool_timeout=0.01)
    orchestrator = GameStateOrchestrator(hot, one)
    with one.connect(), pytest.raises(DatabaseUnavailable, match="all connections are busy"):
        orchestrator.backup_full_state(1)
    one.dispose()
    assert hot.sync_state(1).dirty


def test_a_discarded_entry_is_forgotten_whole(
    hot: HotStore, raw: Any, keys: Keys, orchestrator: GameStateOrchestrator
) -> None:
    raw.sadd(keys.dirty, 99)
    orchestrator.backup_claims(
        hot.claim_dirty(
            lease_us=60_000_000, max_in_flight=100, count=100, round_ms=60_000, whole=True
        ).claims
    )
    assert hot.sync_state(99).quarantine
    assert hot.discard_quarantined("99")
    assert hot.status().oldest_ms is None


@pytest.mark.usefixtures("all_as_groups")
def test_a_worker_that_lost_the_claim_records_no_conflict(
    hot: HotStore,
    orchestrator: GameStateOrchestrator,
    engine: Engine,
    full_core: FullCore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hot.create(1, **full_core())
    orchestrator.backup_full_state(1)
    hot.update(1, gold=1)
    save = groups.save

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        hot.claim(1, lease_us=60_000_000)
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE characters SET version = 100")
        return save(*args, **kwargs)

    monkeypatch.setattr(groups, "save", overtaken)
    assert orchestrator.backup_full_state(1).outcome == "stale"
    with engine.connect() as connection:
        assert not connection.exec_driver_sql("SELECT 1 FROM state_conflicts").all()


def test_evicting_what_cannot_be_saved_is_refused_at_once(
    hot: HotStore, raw: Any, keys: Keys, orchestrator: GameStateOrchestrator, full_core: FullCore
) -> None:
    hot.create(1, **full_core())
    raw.hset(keys.core(1), "stats", "{")
    with pytest.raises(CharacterNotSaved):
        orchestrator.evict(1)
    entry = hot.sync_state(1).quarantine
    assert entry
    assert entry.attempts == 1
    assert raw.exists(keys.core(1))


def test_a_connection_that_ended_while_it_rested_is_made_anew(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_REST_SECONDS", 0)
    mine = database.connect(settings)
    with database.transaction(mine) as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    with engine.begin() as connection:
        connection.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 5000)")
    with database.statement(mine) as connection:
        assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() != pid
    mine.dispose()
