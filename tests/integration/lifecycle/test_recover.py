"""A loss is settled: all that is live is compared once around, and saved again if it must be."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine

from statesync.durable import database
from statesync.durable.losses import NotLive
from statesync.errors import DatabaseWentBack
from statesync.hot.commands.servers import LossFlag
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle import recover, servers
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.sweep import SweepReport, drain, scheduled_sweep
from statesync.settings import Settings
from statesync.state.outcomes import BackupOutcome
from tests.conftest import FullCore

LEASE_US = 60_000_000
LIVE = range(1, 13)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have several pages, and time for all of them in one sweep on a busy machine."""
    monkeypatch.setattr(recover, "PAGE_KEYS", 3)
    monkeypatch.setattr("statesync.lifecycle.sweep._SETTLE_SECONDS", 600)


@pytest.fixture
def played(orchestrator: GameStateOrchestrator, full_core: FullCore) -> GameStateOrchestrator:
    """A dozen characters, saved; every third in a fight, and the sweeps counted."""
    hot = orchestrator.hot
    for char_id in LIVE:
        hot.create(char_id, **full_core(char_id))
    hot.open_session("combat", [3, 6], {"monsters": ["rat"]})
    orchestrator.backup_many(LIVE)
    for _ in range(3):
        servers.count_sweep(hot, orchestrator.engine)
    return orchestrator


def put_back(engine: Engine) -> None:
    """Put PostgreSQL back to before the last sweep, some saves, the fight and two characters."""
    with engine.begin() as connection:
        for statement in (
            "UPDATE server_counters SET sweeps = sweeps - 2",
            "UPDATE characters SET version = version - 1, location_id = 'cave'"
            " WHERE mod(id, 2) = 0",
            "DELETE FROM sessions",
            "DELETE FROM characters WHERE id IN (5, 7)",
        ):
            connection.exec_driver_sql(statement)


def locations(engine: Engine) -> dict[int, str]:
    with engine.begin() as connection:
        found = connection.exec_driver_sql("SELECT id, location_id FROM characters")
        return {row.id: row.location_id for row in found}


def sessions(engine: Engine) -> int:
    with engine.begin() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM sessions").scalar_one())


def sweep(orchestrator: GameStateOrchestrator, settings: Settings) -> SweepReport:
    """Sweep as the schedule does, and save what it dispatches at once."""
    save = orchestrator.backup_claims
    return scheduled_sweep(orchestrator, settings, save, save)


def flags(hot: HotStore) -> tuple[bool, bool]:
    status = hot.status()
    return status.comparing, status.recovering


def test_the_sweep_that_finds_postgresql_back_saves_everything_live_again(
    played: GameStateOrchestrator, settings: Settings, engine: Engine
) -> None:
    put_back(engine)
    played.hot.update(1, gold=5)
    report = sweep(played, settings)
    assert (report.claimed, report.comparing) == (0, False)
    assert locations(engine) == dict.fromkeys(LIVE, "harbour")
    assert sessions(engine) == 1
    assert flags(played.hot) == (False, False)
    counters = played.hot.status().counters
    assert counters["postgresql_went_back"] == 1
    assert counters["saved_again"] >= 8
    assert sweep(played, settings).comparing is False
    assert played.hot.status().counters["saved_again"] == counters["saved_again"]


def test_its_time_is_bounded_and_the_next_sweep_goes_on(
    played: GameStateOrchestrator, settings: Settings, engine: Engine
) -> None:
    put_back(engine)
    servers.count_sweep(played.hot, engine)
    turns = 1
    while recover.settle(played, lease_us=LEASE_US, seconds=0):
        assert flags(played.hot) == (True, True)
        turns += 1
    assert turns > 1
    assert locations(engine) == dict.fromkeys(LIVE, "harbour")
    assert flags(played.hot) == (False, False)


def test_while_postgresql_is_recovered_nothing_is_claimed_restored_or_evicted(
    played: GameStateOrchestrator, settings: Settings, engine: Engine
) -> None:
    played.evict(2)
    put_back(engine)
    servers.count_sweep(played.hot, engine)
    played.hot.take_comparison("another worker", lease_us=LEASE_US)
    with pytest.raises(DatabaseWentBack):
        played.restore_full_state(2)
    with pytest.raises(DatabaseWentBack):
        played.evict(1)
    played.hot.update(1, gold=5)
    assert sweep(played, settings) == SweepReport(0, 0, 0, 1)
    with pytest.raises(DatabaseWentBack, match="statesync recover"):
        drain(played, settings, timeout=0)
    assert played.hot.sync_state(1).dirty
    assert flags(played.hot) == (True, True)


def test_a_worker_that_died_is_followed_when_its_lease_ends(
    played: GameStateOrchestrator, settings: Settings, engine: Engine
) -> None:
    put_back(engine)
    servers.count_sweep(played.hot, engine)
    played.hot.take_comparison("one that dies", lease_us=0)
    sweep(played, settings)
    assert locations(engine) == dict.fromkeys(LIVE, "harbour")


def test_what_cannot_be_saved_yet_is_saved_in_another_round(
    played: GameStateOrchestrator, settings: Settings, engine: Engine
) -> None:
    put_back(engine)
    with database.transaction(engine) as connection:
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        connection.exec_driver_sql("SELECT FROM characters WHERE id = 4 FOR UPDATE")
        sweep(played, settings)  # waits for the lock, several times
        assert flags(played.hot) == (True, True)
    assert locations(engine)[4] == "cave"
    sweep(played, settings)
    assert locations(engine)[4] == "harbour"
    assert flags(played.hot) == (False, False)


def test_what_is_quarantined_holds_up_nobody(
    played: GameStateOrchestrator, settings: Settings, engine: Engine, raw: Any
) -> None:
    raw.hset(played.hot.keys.core(4), "stats", "no JSON")
    put_back(engine)
    sweep(played, settings)
    assert locations(engine) == dict.fromkeys(LIVE, "harbour") | {4: "cave"}
    assert played.hot.status().quarantined == 1
    assert flags(played.hot) == (False, False)


def test_a_loss_in_the_middle_begins_the_comparison_anew(
    played: GameStateOrchestrator, settings: Settings, engine: Engine, raw: Any
) -> None:
    servers.note_redis_went_back(played.hot, engine)
    while recover.settle(played, lease_us=LEASE_US, seconds=0):
        stands_at = raw.hget(played.hot.keys.servers, "comparing").decode()
        if not stands_at.startswith("0 "):
            break
    put_back(engine)
    servers.count_sweep(played.hot, engine)
    assert raw.hget(played.hot.keys.servers, "comparing").startswith(b"0 ")
    assert not played.hot.advance_comparison("x", lease_us=LEASE_US, before=stands_at, after="")
    sweep(played, settings)
    assert locations(engine) == dict.fromkeys(LIVE, "harbour")


def test_if_redis_went_back_what_differs_is_marked_and_swept(
    played: GameStateOrchestrator, settings: Settings, engine: Engine, raw: Any
) -> None:
    raw.hset(played.hot.keys.servers, "sweeps", 1)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE characters SET version = version + 2 WHERE id < 4")
    report = sweep(played, settings)
    assert (report.claimed, report.comparing) == (0, False)
    assert raw.smembers(played.hot.keys.dirty) == {b"1", b"2", b"3"}
    assert flags(played.hot) == (False, False)
    assert sweep(played, settings).claimed == 3


def test_a_recovery_by_hand_does_all_of_it_at_once(
    played: GameStateOrchestrator, engine: Engine, raw: Any
) -> None:
    put_back(engine)
    pages: list[recover.SettledPage] = []
    report = recover.recover(played, lease_us=LEASE_US, progress=pages.append)
    assert locations(engine) == dict.fromkeys(LIVE, "harbour")
    assert (report.left, report.characters, report.sessions) == (0, 12, 1)
    assert report.outcomes[BackupOutcome.SAVED] >= 8
    assert report.losses[0].side == "postgresql"
    assert pages[-1].is_last
    assert flags(played.hot) == (False, False)
    again = recover.recover(played, lease_us=LEASE_US)
    assert (again.differing, again.outcomes) == (0, {})


def test_a_recovery_by_hand_backs_up_what_is_dirty_as_well(
    played: GameStateOrchestrator, engine: Engine
) -> None:
    played.hot.update(2, gold=7)
    report = recover.recover(played, lease_us=LEASE_US)
    assert (report.differing, report.outcomes, report.losses) == (1, {"saved": 1}, [])
    assert not played.hot.sync_state(2).dirty


def test_a_recovery_by_hand_goes_on_when_a_backup_finds_that_postgresql_went_back(
    played: GameStateOrchestrator, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup_many = played.backup_many

    def refuse(char_ids: Any) -> Any:
        if not played.hot.status().recovering:
            servers.note_postgresql_went_back(played.hot, engine, [1])
            raise DatabaseWentBack
        return backup_many(char_ids)

    monkeypatch.setattr(played, "backup_many", refuse)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE characters SET version = version - 1")
    report = recover.recover(played, lease_us=LEASE_US)
    assert report.outcomes[BackupOutcome.SAVED] >= 11  # a fight is saved with one of its two
    assert flags(played.hot) == (False, False)


def test_who_is_not_live_and_was_newer_is_on_record(
    played: GameStateOrchestrator, settings: Settings, engine: Engine
) -> None:
    for char_id in (2, 5, 9):
        played.evict(char_id)
    played.delete(10)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE characters SET deleted_at = NULL WHERE id = 10")
        rows = connection.exec_driver_sql("SELECT id, version FROM characters")
        newest = {row.id: row.version for row in rows}
    put_back(engine)
    for _ in range(2):
        report = recover.recover(played, lease_us=LEASE_US)
    assert sorted(report.losses[0].not_live) == [
        NotLive(2, newest[2], newest[2] - 1),
        NotLive(5, newest[5], None),
        NotLive(10, None, newest[10] - 1),
    ]
    assert locations(engine)[2] == "cave", "it stays at the backup"
    assert played.restore_full_state(2).outcome == "restored"
    assert played.restore_full_state(10).outcome == "failed", "it was deleted"


def test_a_flag_of_a_backup_alone_is_enough(
    played: GameStateOrchestrator, settings: Settings, engine: Engine
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE characters SET version = version - 1")
    assert played.hot.note_loss(LossFlag.RECOVERING)
    sweep(played, settings)
    assert flags(played.hot) == (False, False)
    assert played.hot.status().counters["saved_again"] >= 11  # a fight is saved with one of its two


def test_a_core_without_a_history_is_not_laid_over_its_row_after_redis_went_back(
    played: GameStateOrchestrator, settings: Settings, engine: Engine, raw: Any
) -> None:
    played.evict(1)
    keys = played.hot.keys
    raw.hset(keys.core(1), "gold", "7")  # a bare writer, before or after the loss: nobody can say
    servers.note_redis_went_back(played.hot, engine)
    while recover.settle(played, lease_us=LEASE_US, seconds=0):
        pass
    assert played.hot.status()[6:] == (False, False, False)
    assert raw.smembers(keys.dirty) == {b"1"}
    assert played.backup_full_state(1).outcome == "conflict"
    assert played.hot.get(1).location == {"current": "harbour", "prev": "forest"}
    assert "gold" not in played.hot.get(1).fields
    with engine.begin() as connection:
        found = connection.exec_driver_sql("SELECT state FROM state_conflicts").scalar_one()
    assert found["core"]["gold"] == "7"


def test_after_a_start_of_postgresql_such_a_core_is_laid_over_its_row_as_ever(
    played: GameStateOrchestrator, settings: Settings, engine: Engine, raw: Any
) -> None:
    played.evict(1)
    raw.hset(played.hot.keys.core(1), "gold", "7")
    raw.hset(played.hot.keys.servers, "postgresql_run_id", "another")
    servers.count_sweep(played.hot, engine)
    assert flags(played.hot) == (True, False)
    while recover.settle(played, lease_us=LEASE_US, seconds=0):
        pass
    assert played.backup_full_state(1).outcome == "saved"
    core = played.hot.get(1)
    assert core.fields["gold"] == "7"
    assert core.location == {"current": "harbour", "prev": "forest"}


def test_old_receipts_go_and_what_a_dead_worker_dropped_is_recorded(
    played: GameStateOrchestrator,
    settings: Settings,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO durable_changes SELECT gen_random_uuid(), now() - days * interval '1 day'"
            " FROM unnest(ARRAY[6, 8]) AS days"
        )
    recorded = []
    monkeypatch.setattr("statesync.lifecycle.sweep.record_dropped", lambda *_: recorded.append(1))
    sweep(played, settings)
    with engine.begin() as connection:
        left = connection.exec_driver_sql("SELECT count(*) FROM durable_changes").scalar_one()
    assert (left, recorded) == (1, [1])


def test_a_core_without_a_history_does_not_hold_up_a_recovery(
    played: GameStateOrchestrator, settings: Settings, engine: Engine, raw: Any
) -> None:
    played.evict(4)
    raw.hset(played.hot.keys.core(4), "gold", "7")
    put_back(engine)
    sweep(played, settings)
    assert flags(played.hot) == (False, False)
    sweep(played, settings)
    core = played.hot.get(4)
    assert (core.fields["gold"], core.location) == ("7", {"current": "cave", "prev": "forest"})


def test_a_recovery_by_hand_leaves_such_a_core_to_the_next_sweep(
    played: GameStateOrchestrator, raw: Any
) -> None:
    played.evict(4)
    raw.hset(played.hot.keys.core(4), "gold", "7")
    report = recover.recover(played, lease_us=LEASE_US)
    assert (report.left, flags(played.hot)) == (0, (False, False))
    assert raw.smembers(played.hot.keys.dirty) == {b"4"}


def test_a_session_that_left_with_its_last_participant_comes_back_as_the_backup_has_it(
    played: GameStateOrchestrator, engine: Engine
) -> None:
    hot = played.hot
    peek = hot.peek(3)
    assert peek
    fight = peek.references["combat"]
    hot.update_session("combat", fight, {"monsters": ["rat", "wolf"]})
    for char_id in (3, 6):
        played.evict(char_id)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE server_counters SET sweeps = sweeps - 2")
        connection.exec_driver_sql("UPDATE sessions SET version = version - 1")
    recover.recover(played, lease_us=LEASE_US)
    assert played.restore_full_state(3).sessions == {"combat": "restored"}


def test_a_core_without_a_history_in_a_fight_does_not_hold_up_a_recovery(
    played: GameStateOrchestrator, settings: Settings, engine: Engine, raw: Any
) -> None:
    hot = played.hot
    fight = raw.hget(hot.keys.core(6), "combat_session_id")
    played.evict(6)
    raw.hset(hot.keys.core(6), mapping={"gold": "7", "combat_session_id": fight})
    put_back(engine)
    for _ in range(2):  # it waits until what 6 has lost is on record, which may be a round later
        sweep(played, settings)
    assert flags(hot) == (False, False)
    assert locations(engine)[3] == "harbour"
    assert hot.get(6).fields["gold"] == "7"


@pytest.mark.parametrize("who", ["left", "was deleted"])
def test_who_is_not_live_shows_alone_that_postgresql_went_back(
    played: GameStateOrchestrator,
    settings: Settings,
    engine: Engine,
    raw: Any,
    keys: Keys,
    who: str,
) -> None:
    """PostgreSQL has lost less than a sweep, and nobody whose save it lost is loaded."""
    if who == "left":
        played.evict(2)
        lost = "UPDATE characters SET version = version - 1, location_id = 'cave' WHERE id = 2"
    else:
        played.delete(2)
        lost = "UPDATE characters SET deleted_at = NULL WHERE id = 2"
    with engine.begin() as connection:
        connection.exec_driver_sql(lost)
    raw.hset(keys.servers, "postgresql_run_id", "another")  # it has started
    for _ in range(3):
        sweep(played, settings)
    [loss] = servers.losses(played.hot, engine)
    assert (loss.side, [one.char_id for one in loss.not_live]) == ("postgresql", [2])
    assert flags(played.hot) == (False, False)


def test_eviction_and_deletion_alone_show_no_loss(
    played: GameStateOrchestrator, settings: Settings, engine: Engine, raw: Any, keys: Keys
) -> None:
    played.evict(1)
    played.delete(2)
    raw.hset(keys.servers, "postgresql_run_id", "another")
    for _ in range(3):
        sweep(played, settings)
    assert servers.losses(played.hot, engine) == []


def test_login_of_who_is_not_found_waits_for_the_recovery(
    played: GameStateOrchestrator,
) -> None:
    """Its row may be what is lost: a game that makes a new one would take its place."""
    servers.note_postgresql_went_back(played.hot, played.engine, [1])
    with pytest.raises(DatabaseWentBack):
        played.restore_full_state(99)
