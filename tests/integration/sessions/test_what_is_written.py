"""What a save of a session writes: the difference alone, and each item for one owner."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from tests.conftest import FullCore
from tests.integration.lifecycle.test_groups import PARTY, rows


@pytest.fixture
def fight(hot: HotStore, full_core: FullCore) -> UUID:
    """A fight of three, never saved."""
    for i in PARTY:
        hot.create(i, **full_core(i))
    return hot.open_session("combat", PARTY, {"round": "1"}, state="combat")


def test_long_log_is_not_sent_again(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    raw: Any,
    keys: Keys,
    engine: Engine,
) -> None:
    log = keys.session_log("combat", str(fight))
    raw.rpush(log, *range(100_000))
    raw.sadd(keys.dirty, 2)
    assert orchestrator.backup_full_state(2).outcome == "saved"
    assert rows(engine, "SELECT count(*), max(seq) FROM combat_log") == [(100_000, 99_999)]
    reads = b"LRANGE"
    asked: list[tuple[int, int]] = []
    with raw.monitor() as monitor:
        hot.update_session("combat", fight, log=["a", "b", "c"])
        orchestrator.backup_full_state(1)
        hot.count({"end of this test": 1})
        for command in monitor.listen():
            words = command["command"].split()
            if words[0] == reads.decode() and words[1].endswith(f"{fight}:log"):
                asked.append((int(words[2]), int(words[3])))
            if "end of this test" in command["command"] and words[0] == "HINCRBY":
                break
    assert asked == [(100_000, 100_002)]
    assert rows(engine, "SELECT count(*), max(seq) FROM combat_log") == [(100_003, 100_002)]


def item(item_id: str, quantity: int = 1) -> dict[str, Any]:
    return {"item_id": item_id, "kind": "x", "quantity": quantity}


def test_inventory_writes_the_difference(
    orchestrator: GameStateOrchestrator, hot: HotStore, fight: UUID, engine: Engine
) -> None:
    bag = hot.open_session("inventory", [1], {"items": [item("a"), item("b"), item("c")]})
    orchestrator.backup_full_state(1)
    query = "SELECT item_id, xmin::text FROM inventory_items ORDER BY 1"
    before = dict(rows(engine, query))
    hot.update_session("inventory", bag, {"items": [item("c"), item("b", 5), item("d")]})
    orchestrator.backup_full_state(1)
    after = dict(rows(engine, query))
    assert after.keys() == {"b", "c", "d"}
    assert after["c"] == before["c"], "unchanged: its row is not touched"
    assert after["b"] != before["b"]


def test_item_has_one_owner_in_any_order_of_saves(
    orchestrator: GameStateOrchestrator, hot: HotStore, fight: UUID, engine: Engine
) -> None:
    first = hot.open_session("inventory", [1], {"items": [item("sword"), item("cup")]})
    second = hot.open_session("inventory", [2], {"items": []})
    owners = "SELECT item_id, character_id FROM inventory_items ORDER BY 1"
    orchestrator.backup_many([1, 2])
    hot.update_session("inventory", second, {"items": [item("sword")]})
    orchestrator.backup_many([1, 2])
    assert rows(engine, owners) == [("cup", 1), ("sword", 1)], "both hold it: both are set aside"
    hot.update_session("inventory", first, {"items": [item("cup")]})
    orchestrator.backup_many([1, 2])
    assert rows(engine, owners) == [("cup", 1), ("sword", 2)]


def test_inventory_of_a_character_never_saved_is_not_lost_in_silence(
    orchestrator: GameStateOrchestrator, raw: Any, keys: Keys, full_core: FullCore
) -> None:
    orchestrator.hot.create(1, **full_core())
    bag = orchestrator.hot.open_session("inventory", [1], {"items": [item("a")]})
    raw.hset(keys.session("inventory", str(bag)), "participants", "[77,1]")
    report = orchestrator.backup_full_state(1)
    assert report.outcome == "quarantined"
    assert "(77)" in (report.error or "") or "foreign key" in (report.error or "")
