"""Redis goes back to between the note of a deletion and the deletion, and the game plays on."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, text

from statesync.errors import DatabaseUnavailable
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from tests.conftest import FullCore
from tests.integration.lifecycle.test_backup import once, row
from tests.rewind import Rewind, recorded


@pytest.fixture
def saved(orchestrator: GameStateOrchestrator, full_core: FullCore) -> HotStore:
    """Two characters, saved and loaded, with 10 gold each."""
    for char_id in (1, 2):
        orchestrator.hot.create(char_id, **full_core(char_id, gold="10"))
    orchestrator.backup_many([1, 2])
    return orchestrator.hot


@pytest.fixture
def traded(orchestrator: GameStateOrchestrator, saved: HotStore, rewind: Rewind) -> HotStore:
    """1 is deleted; Redis knows only that this had begun; 1 gives its gold to 2."""
    saved.note_deletion(1)
    before = rewind.moment()
    assert orchestrator.delete(1).outcome == "deleted"
    rewind.to(before)
    saved.update_together({1: {"gold": "0"}, 2: {"gold": "20"}})
    return saved


def assert_both_are_named(hot: HotStore, engine: Engine) -> None:
    entries = {entry.name: entry.error for entry in hot.list_quarantine()[1]}
    assert entries["1"].startswith("the character is deleted in PostgreSQL")
    assert entries["2"].startswith("belongs together with character 1: the character is deleted")
    assert row(engine, 2)["extra"]["gold"] == "10"
    assert hot.get(2).fields["gold"] == "20"


@pytest.mark.parametrize("anchor", [1, 2])
def test_who_traded_with_it_is_quarantined_too_until_it_is_deleted_again(
    orchestrator: GameStateOrchestrator, traded: HotStore, engine: Engine, anchor: int
) -> None:
    assert orchestrator.backup_full_state(anchor).outcome == "quarantined"
    assert_both_are_named(traded, engine)
    assert orchestrator.delete(1).outcome == "deleted"
    assert traded.peek(1) is None
    assert row(engine, 2)["extra"]["gold"] == "20"
    assert traded.status().quarantined == 0
    assert traded.sync_state(2) == (False, None, None, None)
    assert recorded(engine) == []


def test_who_traded_with_it_is_saved_once_its_core_is_gone(
    orchestrator: GameStateOrchestrator, traded: HotStore, engine: Engine, raw: Any, keys: Keys
) -> None:
    orchestrator.backup_full_state(2)
    assert_both_are_named(traded, engine)
    raw.delete(keys.core(1))
    traded.discard_quarantined("1")
    assert orchestrator.backup_full_state(2).outcome == "saved"
    assert row(engine, 2)["extra"]["gold"] == "20"
    assert traded.status().quarantined == 0


def test_slow_backup_of_a_trade_is_made_again_if_the_deletion_ends_meanwhile(
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    saved: HotStore,
    engine: Engine,
) -> None:
    """Its snapshot is of both; when it commits, one is deleted and gone."""
    saved.update_together({1: {"gold": "0"}, 2: {"gold": "20"}})

    def delete_first() -> None:
        with engine.begin() as connection:
            mark = "UPDATE characters SET deleted_at = now() WHERE id = 1"
            connection.execute(text(mark))
        other.hot.forget(1, [])

    saved.note_deletion(1)
    once(orchestrator.engine, "begin", delete_first)
    assert orchestrator.backup_full_state(2).outcome == "saved"
    assert row(engine, 2)["extra"]["gold"] == "20"
    assert saved.status().quarantined == 0


def test_partner_that_is_backed_up_during_a_deletion_is_saved_by_it(
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    saved: HotStore,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes when PostgreSQL has committed and Redis still has the core."""
    saved.update_together({1: {"gold": "0"}, 2: {"gold": "20"}})
    peek = saved.peek
    found: list[str | None] = []

    def back_up_before_the_second(char_id: int) -> Any:
        found.append(other.backup_full_state(2).outcome if len(found) == 1 else None)
        return peek(char_id)

    monkeypatch.setattr(saved, "peek", back_up_before_the_second)
    assert orchestrator.delete(1).outcome == "deleted"
    monkeypatch.undo()
    assert found == [None, "quarantined"]
    assert row(engine, 2)["extra"]["gold"] == "20"
    assert (saved.peek(1), saved.status().quarantined) == (None, 0)


def test_deletion_that_certainly_fails_takes_its_note_back(
    orchestrator: GameStateOrchestrator, saved: HotStore, engine: Engine, raw: Any, keys: Keys
) -> None:
    before = raw.hget(keys.seals, 1)
    with engine.begin() as connection:
        connection.execute(text("SELECT * FROM characters WHERE id = 1 FOR UPDATE"))
        with pytest.raises(DatabaseUnavailable, match="cannot be deleted now"):
            orchestrator.delete(1)
    assert raw.hget(keys.seals, 1) == before
    assert orchestrator.delete(9).outcome == "not_found"
    assert raw.hget(keys.seals, 9) is None


def test_deletion_that_fails_leaves_the_note_of_an_earlier_one(
    orchestrator: GameStateOrchestrator, saved: HotStore, engine: Engine, raw: Any, keys: Keys
) -> None:
    """That one may have been made: it has died, or its commit had no answer."""
    saved.note_deletion(1)
    with engine.begin() as connection:
        connection.execute(text("SELECT * FROM characters WHERE id = 1 FOR UPDATE"))
        with pytest.raises(DatabaseUnavailable, match="cannot be deleted now"):
            orchestrator.delete(1)
    assert b"deleted" in raw.hget(keys.seals, 1)
