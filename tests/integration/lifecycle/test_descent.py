"""One character: whose history a core is of, by the seals and notes that Redis has of it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine

from statesync.errors import CharacterNotLoaded
from statesync.hot.keys import Keys
from statesync.lifecycle import backup, servers
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from tests.conftest import FullCore
from tests.integration.lifecycle.test_backup import row, scalar
from tests.rewind import Rewind, lost_cores, recorded


@pytest.mark.parametrize("down_by", [0, 1, 30])
def test_number_that_a_writer_has_put_back_rises_and_is_saved(
    orchestrator: GameStateOrchestrator,
    engine: Engine,
    raw: Any,
    keys: Keys,
    full_core: FullCore,
    down_by: int,
) -> None:
    """Redis has not gone back: it knows the row's seal."""
    hot = orchestrator.hot
    hot.create(1, **full_core(gold="10"))
    for gold in range(11, 61):
        hot.update(1, gold=str(gold))
    orchestrator.backup_full_state(1)
    whole = raw.hgetall(keys.core(1))
    whole[b"version"] = b"%d" % (int(whole[b"version"]) - down_by)
    hot.update(1, gold="61")
    orchestrator.backup_full_state(1)
    raw.delete(keys.core(1))
    raw.hset(keys.core(1), mapping=whole)
    raw.sadd(keys.dirty, 1)
    assert orchestrator.backup_full_state(1).outcome == "saved"
    assert row(engine)["extra"]["gold"] == hot.get(1).fields["gold"] == "60"
    assert row(engine)["version"] == hot.get(1).version
    assert lost_cores(engine) == []


def test_row_that_is_deleted_without_a_note_was_deleted_in_a_history_that_is_forgotten(
    orchestrator: GameStateOrchestrator,
    engine: Engine,
    rewind: Rewind,
    full_core: FullCore,
    raw: Any,
    keys: Keys,
) -> None:
    hot = orchestrator.hot
    hot.create(1, **full_core(gold="1"))
    orchestrator.backup_full_state(1)
    before = rewind.moment()
    orchestrator.delete(1)
    rewind.to(before)
    hot.update(1, gold="2")
    report = orchestrator.backup_full_state(1)
    assert (report.outcome, report.version) == ("conflict", None)
    assert [core["gold"] for _, core in lost_cores(engine)] == ["2"]
    assert row(engine)["extra"]["gold"] == "1"
    with pytest.raises(CharacterNotLoaded):
        hot.get(1)
    assert not raw.hexists(keys.seals, "1")
    assert orchestrator.restore_full_state(1).outcome == "not_found"
    assert hot.sync_state(1) == (False, None, None, None)


def test_note_of_a_deletion_goes_with_the_character(
    orchestrator: GameStateOrchestrator, raw: Any, keys: Keys, full_core: FullCore
) -> None:
    orchestrator.hot.create(1, **full_core())
    orchestrator.backup_full_state(1)
    orchestrator.delete(1)
    assert not raw.hexists(keys.seals, "1")


@pytest.mark.usefixtures("all_as_groups")
def test_deletion_ends_a_claim_so_that_an_older_snapshot_raises_no_alarm(
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    engine: Engine,
    full_core: FullCore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its snapshot knows of no deletion, and finds a row that is deleted."""
    hot = orchestrator.hot
    hot.create(1, **full_core())
    orchestrator.backup_full_state(1)
    hot.update(1, gold=1)

    def deleted_meanwhile(name: str) -> None:
        if name == "snapshot":
            monkeypatch.undo()
            other.hot.note_deletion(1)
            scalar(engine, "UPDATE characters SET deleted_at = now() RETURNING 1")

    monkeypatch.setattr(backup, "failpoint", deleted_meanwhile)
    assert orchestrator.backup_full_state(1).outcome == "deleted"
    assert recorded(engine) == []
    assert other.delete(1).outcome == "deleted"
    assert hot.status()[:3] == (0, 0, 0)


def test_redis_forgets_before_it_is_played_on_and_the_row_comes_back(
    orchestrator: GameStateOrchestrator, engine: Engine, rewind: Rewind, full_core: FullCore
) -> None:
    """Nothing was played, but the core is not what was promised: it is set to its row."""
    hot = orchestrator.hot
    hot.create(1, **full_core(gold="1"))
    orchestrator.backup_full_state(1)
    before = rewind.moment()
    hot.update(1, gold="2")
    orchestrator.backup_full_state(1)
    rewind.to(before)
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert hot.get(1).fields["gold"] == "2"
    assert [core["gold"] for _, core in lost_cores(engine)] == ["1"]


def test_same_content_in_another_history_is_no_conflict(
    orchestrator: GameStateOrchestrator, engine: Engine, rewind: Rewind, full_core: FullCore
) -> None:
    hot = orchestrator.hot
    hot.create(1, **full_core(gold="1"))
    orchestrator.backup_full_state(1)
    before = rewind.moment()
    hot.update(1, gold="2")
    saved = orchestrator.backup_full_state(1)
    rewind.to(before)
    for gold in (5, 4, 3, 2):
        hot.update(1, gold=str(gold))
    report = orchestrator.backup_full_state(1)
    assert (report.outcome, report.version) == ("unchanged", saved.version)
    assert recorded(engine) == []
    hot.update(1, gold="9")
    assert orchestrator.backup_full_state(1).outcome == "saved"


def test_id_that_is_made_twice_is_no_loss_of_redis(
    orchestrator: GameStateOrchestrator, engine: Engine, full_core: FullCore
) -> None:
    hot = orchestrator.hot
    hot.create(1, **full_core(gold="10"))
    orchestrator.evict(1)
    hot.create(1, **full_core(gold="0"))
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert hot.get(1).fields["gold"] == row(engine)["extra"]["gold"] == "10"
    assert [core["gold"] for _, core in lost_cores(engine)] == ["0"]
    status = hot.status()
    assert (status.settling, status.counters.get("redis_went_back")) == (False, None)


def test_nothing_is_laid_over_a_row_while_the_servers_cannot_be_asked(
    orchestrator: GameStateOrchestrator, engine: Engine, raw: Any, keys: Keys, full_core: FullCore
) -> None:
    """What a bare writer has made may be of a history that Redis has forgotten."""
    hot = orchestrator.hot
    hot.create(1, **full_core(gold="10"))
    orchestrator.evict(1)
    servers.count_sweep(hot, engine)
    raw.hset(keys.core(1), "xp", "1")
    raw.sadd(keys.dirty, 1)
    with engine.begin() as another_sweep:
        another_sweep.exec_driver_sql("SELECT * FROM server_counters FOR UPDATE")
        assert orchestrator.backup_full_state(1).outcome == "released"
    assert row(engine)["extra"].get("xp") is None
    assert orchestrator.backup_full_state(1).outcome == "saved"
    assert row(engine)["extra"]["xp"] == "1"


def test_row_that_somebody_deletes_is_no_loss_of_redis(
    orchestrator: GameStateOrchestrator, engine: Engine, full_core: FullCore
) -> None:
    hot = orchestrator.hot
    hot.create(1, **full_core(gold="10"))
    orchestrator.backup_full_state(1)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE characters SET deleted_at = now()")
    hot.update(1, gold="11")
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert [core["gold"] for _, core in lost_cores(engine)] == ["11"]
    assert (hot.peek(1), hot.status().settling) == (None, False)
