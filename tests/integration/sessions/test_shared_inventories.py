"""An inventory that several share keeps its items when its owner leaves it in any way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from statesync import GameStateOrchestrator
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from tests.conftest import FullCore
from tests.integration.sessions.stores import rows, settle, wipe

SWORD = {"item_id": "sword", "kind": "sword", "quantity": 1, "runes": [1, 2]}
SHIELD = {"item_id": "shield", "kind": "shield", "quantity": 1}
COIN = {"item_id": "coin", "kind": "coin", "quantity": 7}
PARTY = [1, 2, 3]
OWNERS = "SELECT item_id, character_id FROM inventory_items ORDER BY 1"


@pytest.fixture
def chest(orchestrator: GameStateOrchestrator, full_core: FullCore) -> UUID:
    """A chest of 2 and 3, with a sword; 2 owns it. The id of 1 is lower, but it joins last."""
    hot = orchestrator.hot
    for char_id in PARTY:
        hot.create(char_id, **full_core(char_id))
    chest = hot.open_session("inventory", [2, 3, 1], {"items": [SWORD]})
    orchestrator.backup_many(PARTY)
    return chest


def items(hot: HotStore, session_id: UUID) -> Any:
    return hot.get_session("inventory", session_id).fields["items"]


@pytest.mark.parametrize("saved_first", [[2], PARTY])
@pytest.mark.parametrize("is_changed", [False, True])
def test_owner_that_clears_its_reference_leaves_the_items_to_the_next(
    orchestrator: GameStateOrchestrator,
    engine: Engine,
    raw: Any,
    keys: Keys,
    chest: UUID,
    saved_first: list[int],
    *,
    is_changed: bool,
) -> None:
    hot = orchestrator.hot
    hot.update(2, inventory_session_id="")
    bag = hot.open_session("inventory", [2], {"items": [SHIELD]})
    orchestrator.backup_many(saved_first)
    assert rows(engine, OWNERS) == [("shield", 2), ("sword", 3)]
    if is_changed:
        hot.update_session("inventory", chest, {"items": [SWORD, COIN]})
        orchestrator.backup_full_state(3)
        assert rows(engine, OWNERS) == [("coin", 3), ("shield", 2), ("sword", 3)]
    wipe(raw, keys)
    orchestrator.restore_many(PARTY)
    assert items(hot, chest) == [SWORD, COIN] if is_changed else [SWORD]
    assert items(hot, bag) == [SHIELD]


def test_owner_that_goes_without_another_inventory_leaves_them_as_well(
    orchestrator: GameStateOrchestrator, engine: Engine, raw: Any, keys: Keys, chest: UUID
) -> None:
    orchestrator.hot.update(2, inventory_session_id="")
    orchestrator.backup_full_state(2)
    assert rows(engine, OWNERS) == [("sword", 3)]
    wipe(raw, keys)
    orchestrator.restore_many(PARTY)
    assert items(orchestrator.hot, chest) == [SWORD]
    assert "inventory" not in orchestrator.hot.peek(2).references  # type: ignore[union-attr]


def test_item_that_it_took_along_without_taking_it_out_is_in_both(
    orchestrator: GameStateOrchestrator, engine: Engine, chest: UUID
) -> None:
    hot = orchestrator.hot
    hot.update(2, inventory_session_id="")
    hot.open_session("inventory", [2], {"items": [SWORD]})
    assert orchestrator.backup_full_state(2).outcome == "quarantined"
    assert rows(engine, OWNERS) == [("sword", 2)]
    for char_id in (2, 3):
        entry = hot.sync_state(char_id).quarantine
        assert entry is not None
        assert "item 'sword' is also in the inventory of character" in entry.error
    hot.update_session("inventory", chest, {"items": []})
    settle(orchestrator, PARTY)
    assert rows(engine, OWNERS) == [("sword", 2)]


def leave(orchestrator: GameStateOrchestrator, chest: UUID) -> None:
    orchestrator.hot.leave_session("inventory", chest, 2)
    orchestrator.backup_full_state(2)


def delete(orchestrator: GameStateOrchestrator, _: UUID) -> None:
    orchestrator.delete(2)


def log_out_and_delete(*away: int) -> Callable[[GameStateOrchestrator, UUID], None]:
    def go(orchestrator: GameStateOrchestrator, _: UUID) -> None:
        for char_id in away:
            orchestrator.evict(char_id)
        orchestrator.delete(2)

    return go


@pytest.mark.parametrize("go", [leave, delete, log_out_and_delete(2), log_out_and_delete(1, 2, 3)])
def test_owner_that_leaves_or_is_deleted_leaves_the_items_to_the_next(
    orchestrator: GameStateOrchestrator,
    engine: Engine,
    raw: Any,
    keys: Keys,
    chest: UUID,
    go: Callable[[GameStateOrchestrator, UUID], None],
) -> None:
    go(orchestrator, chest)
    assert rows(engine, OWNERS) == [("sword", 3)]
    wipe(raw, keys)
    orchestrator.restore_many([1, 3])
    assert items(orchestrator.hot, chest) == [SWORD]
    settle(orchestrator, [1, 3])
    assert rows(engine, OWNERS) == [("sword", 3)]


def test_what_a_deleted_character_alone_has_stays_its_own(
    orchestrator: GameStateOrchestrator, engine: Engine, full_core: FullCore
) -> None:
    orchestrator.hot.create(1, **full_core(1))
    orchestrator.hot.open_session("inventory", [1], {"items": [SHIELD]})
    orchestrator.backup_full_state(1)
    orchestrator.evict(1)
    orchestrator.delete(1)
    assert rows(engine, OWNERS) == [("shield", 1)]


def test_items_of_a_chest_whose_owner_is_away_are_seen_in_it(
    orchestrator: GameStateOrchestrator, engine: Engine, full_core: FullCore, chest: UUID
) -> None:
    """The owner of the chest is logged out; 3 plays on with it, and 4 takes from it."""
    hot = orchestrator.hot
    orchestrator.evict(2)
    hot.create(4, **full_core(4))
    hot.open_session("inventory", [4], {"items": [SWORD]})
    assert orchestrator.backup_full_state(4).outcome == "quarantined"
    hot.update_session("inventory", chest, {"items": []})
    settle(orchestrator, [*PARTY, 4])
    assert rows(engine, OWNERS) == [("sword", 4)]
    assert hot.list_quarantine() == (0, [])
