"""Items that go from an inventory that ends to another one: the new owner has the row."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from statesync import Together
from statesync.errors import InvalidField
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from tests.conftest import FullCore

SWORD = {"item_id": "sword", "kind": "sword", "quantity": 1}


@pytest.fixture
def two(orchestrator: GameStateOrchestrator, full_core: FullCore) -> HotStore:
    """Two characters."""
    for char_id in (1, 2):
        orchestrator.hot.create(char_id, **full_core(char_id))
    return orchestrator.hot


def owners(engine: Engine) -> list[int]:
    with engine.begin() as connection:
        return list(connection.execute(text("SELECT character_id FROM inventory_items")).scalars())


@pytest.mark.parametrize("was_saved", [False, True])
def test_closed_and_given_in_one_change(
    orchestrator: GameStateOrchestrator, two: HotStore, engine: Engine, *, was_saved: bool
) -> None:
    chest = two.open_session("inventory", [1], {"items": [SWORD]})
    bag = two.open_session("inventory", [2], {"items": []})
    if was_saved:
        orchestrator.backup_many([1, 2])
    loot = Together().update_session("inventory", bag, {"items": [SWORD]})
    two.update_together(loot.close_session("inventory", chest))
    assert [r.outcome for r in orchestrator.backup_many([1, 2])] == ["saved", "saved"]
    assert owners(engine) == [2]


def test_given_after_the_owner_has_closed_its_inventory(
    orchestrator: GameStateOrchestrator, two: HotStore, engine: Engine
) -> None:
    chest = two.open_session("inventory", [1], {"items": [SWORD]})
    orchestrator.backup_full_state(1)
    two.close_session("inventory", chest)
    orchestrator.backup_full_state(1)
    assert owners(engine) == [1]
    two.open_session("inventory", [2], {"items": [SWORD]})
    assert orchestrator.backup_full_state(2).outcome == "saved"
    assert owners(engine) == [2]


def test_inventory_that_never_had_its_items_deletes_none(
    orchestrator: GameStateOrchestrator, two: HotStore, engine: Engine
) -> None:
    chest = two.open_session("inventory", [1], {"items": [SWORD]})
    orchestrator.backup_full_state(1)
    two.close_session("inventory", chest)
    orchestrator.backup_full_state(1)
    two.open_session("inventory", [1], {"filters": []})
    assert orchestrator.backup_full_state(1).outcome == "saved"
    assert owners(engine) == [1]


def test_transfer_is_saved_once(orchestrator: GameStateOrchestrator, two: HotStore) -> None:
    chest = two.open_session("inventory", [1], {"items": [SWORD]})
    bag = two.open_session("inventory", [2], {"items": []})
    orchestrator.backup_many([1, 2])
    loot = Together().update_session("inventory", bag, {"items": [SWORD]})
    two.update_together(loot.update_session("inventory", chest, {"items": []}))
    orchestrator.backup_many([1, 2])
    assert {r.outcome for r in orchestrator.backup_many([1, 2])} == {"unchanged"}


def test_item_needs_an_id_and_a_kind(two: HotStore) -> None:
    for name in ("item_id", "kind"):
        with pytest.raises(InvalidField, match=name):
            two.open_session("inventory", [1], {"items": [SWORD | {name: ""}]})
