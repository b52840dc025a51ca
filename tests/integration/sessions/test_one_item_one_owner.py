"""An item in two live inventories: both are set aside with each other's name, and none loses it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from statesync import GameStateOrchestrator, Together
from statesync.errors import InvalidField
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from tests.conftest import FullCore
from tests.integration.sessions.stores import rows, settle

SWORD = {"item_id": "sword", "kind": "sword", "quantity": 1}
SHIELD = {"item_id": "shield", "kind": "shield", "quantity": 1}
PARTY = [1, 2, 3]
OWNERS = "SELECT item_id, character_id FROM inventory_items ORDER BY 1"


@pytest.fixture
def bags(hot: HotStore, full_core: FullCore) -> Iterator[dict[int, UUID]]:
    """An open inventory each of 1, 2 and 3; the sword is in the first."""
    for char_id in PARTY:
        hot.create(char_id, **full_core(char_id))
    items: dict[int, list[Any]] = {1: [SWORD], 2: [SHIELD], 3: []}
    yield {i: hot.open_session("inventory", [i], {"items": items[i]}) for i in PARTY}


def put(hot: HotStore, bags: dict[int, UUID], char_id: int, *items: Any) -> None:
    hot.update_session("inventory", bags[char_id], {"items": list(items)})


def assert_both_are_named(hot: HotStore) -> None:
    for char_id, other in ((1, 2), (2, 1)):
        entry = hot.sync_state(char_id).quarantine
        assert entry is not None
        assert entry.field == "items"
        assert entry.error == f"item 'sword' is also in the inventory of character {other}"


@pytest.mark.parametrize(
    ("saved_before", "batch"),
    [
        *((PARTY, [2]), (PARTY, [1, 2, 3]), (PARTY, [3, 2, 1])),
        *(([], [1, 2, 3]), ([1], [2]), ([2], [1])),
    ],
)
def test_item_in_two_live_inventories_sets_both_aside(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    engine: Engine,
    bags: dict[int, UUID],
    saved_before: list[int],
    batch: list[int],
) -> None:
    if saved_before == PARTY:
        orchestrator.backup_many(PARTY)
    put(hot, bags, 2, SHIELD, SWORD)
    if saved_before != PARTY:
        orchestrator.backup_many(saved_before)
    before = rows(engine, OWNERS)
    hot.update(1, gold=1)
    for _ in range(3):
        reports = {r.char_id: r.outcome for r in orchestrator.backup_many(batch)}
        assert {reports[i] for i in batch if i != 3} == {"quarantined"}
        assert rows(engine, OWNERS) == before
    assert_both_are_named(hot)
    settle(orchestrator, PARTY)
    assert hot.status().claimed == 0
    assert_both_are_named(hot)


def test_those_that_are_set_aside_are_counted(
    orchestrator: GameStateOrchestrator, hot: HotStore, bags: dict[int, UUID]
) -> None:
    put(hot, bags, 2, SHIELD, SWORD)
    orchestrator.backup_many([1, 2])
    assert hot.status().counters["quarantined"] == 2


@pytest.mark.parametrize("dropped_by", [1, 2])
def test_when_one_drops_it_the_row_stays_for_the_other_and_both_are_saved(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    engine: Engine,
    bags: dict[int, UUID],
    dropped_by: int,
) -> None:
    orchestrator.backup_many(PARTY)
    put(hot, bags, 2, SHIELD, SWORD)
    orchestrator.backup_full_state(2)
    settle(orchestrator, PARTY)
    put(hot, bags, dropped_by, *([SHIELD] if dropped_by == 2 else []))
    assert orchestrator.backup_full_state(dropped_by).outcome == "saved"
    assert rows(engine, OWNERS) == [("shield", 2), ("sword", 3 - dropped_by)]
    assert hot.list_quarantine() == (0, [])
    settle(orchestrator, PARTY)
    assert rows(engine, OWNERS) == [("shield", 2), ("sword", 3 - dropped_by)]


def test_two_bare_writes_are_a_transfer_in_any_order(
    orchestrator: GameStateOrchestrator, hot: HotStore, engine: Engine, bags: dict[int, UUID]
) -> None:
    orchestrator.backup_many(PARTY)
    put(hot, bags, 1)
    put(hot, bags, 2, SHIELD, SWORD)
    assert orchestrator.backup_full_state(2).outcome == "saved"
    assert rows(engine, OWNERS) == [("shield", 2), ("sword", 2)]
    put(hot, bags, 2, SHIELD)
    put(hot, bags, 3, SWORD)
    assert {r.outcome for r in orchestrator.backup_many([3, 2])} == {"saved"}
    assert rows(engine, OWNERS) == [("shield", 2), ("sword", 3)]
    settle(orchestrator, PARTY)
    assert hot.list_quarantine() == (0, [])


def test_chain_of_transfers_is_saved(
    orchestrator: GameStateOrchestrator, hot: HotStore, engine: Engine, full_core: FullCore
) -> None:
    """Each one has what the one before had: saving the last one needs all of them."""
    crowd = range(1, 9)
    bags = {}
    for i in crowd:
        hot.create(i, **full_core(i))
        bags[i] = hot.open_session("inventory", [i], {"items": [SWORD | {"item_id": f"s{i}"}]})
    orchestrator.backup_many(crowd)
    for i in crowd:
        put(hot, bags, i, *([SWORD | {"item_id": f"s{i - 1}"}] if i > 1 else []))
    assert orchestrator.backup_full_state(8).outcome == "saved"
    assert rows(engine, OWNERS) == [(f"s{i}", i + 1) for i in range(1, 8)]


@pytest.mark.parametrize("dropped_by", [1, 2])
def test_item_of_an_owner_that_is_not_loaded_is_not_taken(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    engine: Engine,
    bags: dict[int, UUID],
    dropped_by: int,
) -> None:
    orchestrator.backup_many(PARTY)
    orchestrator.evict(1)
    put(hot, bags, 2, SHIELD, SWORD)
    for _ in range(2):
        assert orchestrator.backup_full_state(2).outcome == "quarantined"
        assert rows(engine, OWNERS) == [("shield", 2), ("sword", 1)]
    entry = hot.sync_state(2).quarantine
    assert entry is not None
    assert (entry.field, entry.error) == (
        "items",
        "item 'sword' is also in the inventory of character 1, which is not loaded",
    )
    orchestrator.restore_full_state(1)
    assert hot.get_session("inventory", bags[1]).fields["items"] == [SWORD]
    put(hot, bags, dropped_by, *([SHIELD] if dropped_by == 2 else []))
    hot.retry_quarantined(2)
    settle(orchestrator, PARTY)
    assert rows(engine, OWNERS) == [("shield", 2), ("sword", 3 - dropped_by)]
    assert hot.list_quarantine() == (0, [])


def test_item_of_an_inventory_that_was_closed_may_go_to_another(
    orchestrator: GameStateOrchestrator, hot: HotStore, engine: Engine, bags: dict[int, UUID]
) -> None:
    orchestrator.backup_many(PARTY)
    hot.close_session("inventory", bags[1])
    put(hot, bags, 2, SHIELD, SWORD)
    assert orchestrator.backup_full_state(2).outcome == "saved"
    settle(orchestrator, PARTY)
    assert rows(engine, OWNERS) == [("shield", 2), ("sword", 2)]
    assert hot.list_quarantine() == (0, [])


def test_both_in_one_change_are_refused(
    hot: HotStore, raw: Any, keys: Keys, bags: dict[int, UUID]
) -> None:
    before = {i: raw.hgetall(keys.session("inventory", str(bags[i]))) for i in (1, 2)}
    trade = (
        Together()
        .update_session("inventory", bags[1], {"items": [SWORD]})
        .update_session("inventory", bags[2], {"items": [SHIELD, SWORD]})
    )
    with pytest.raises(InvalidField, match="'sword' is in two inventories"):
        hot.update_together(trade)
    assert before == {i: raw.hgetall(keys.session("inventory", str(bags[i]))) for i in (1, 2)}
    hot.update_together(
        Together()
        .update_session("inventory", bags[1], {"items": []})
        .update_session("inventory", bags[2], {"items": [SHIELD, SWORD]})
    )
