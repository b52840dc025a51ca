"""A session's rows depend on others, its members' and its items': a change there reaches them."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from statesync import GameStateOrchestrator
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from tests.conftest import FullCore
from tests.integration.sessions.stores import rows, wipe

PARTY = [1, 2, 3]
SWORD = {"item_id": "sword", "kind": "sword", "quantity": 1}


@pytest.fixture
def party(hot: HotStore, full_core: FullCore) -> list[int]:
    for char_id in PARTY:
        hot.create(char_id, **full_core(char_id))
    return PARTY


@pytest.mark.usefixtures("party")
def test_item_that_went_there_and_back_is_still_there(
    hot: HotStore, orchestrator: GameStateOrchestrator, engine: Engine
) -> None:
    bags = [hot.open_session("inventory", [i], {"items": [SWORD] * (i == 1)}) for i in (1, 2)]
    orchestrator.backup_many([1, 2])
    for giver, taker in ((0, 1), (1, 0)):
        hot.update_session("inventory", bags[giver], {"items": []})
        hot.update_session("inventory", bags[taker], {"items": [SWORD]})
        orchestrator.backup_full_state(2)
    orchestrator.backup_full_state(1)
    assert rows(engine, "SELECT item_id, character_id FROM inventory_items") == [("sword", 1)]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.usefixtures("party")
def test_reference_cleared_and_set_again_opens_the_session_again(
    hot: HotStore, orchestrator: GameStateOrchestrator, raw: Any, keys: Keys, *, shared: bool
) -> None:
    fight = hot.open_session("combat", [1, 2] if shared else [1], {"turn": "1"})
    orchestrator.backup_many(PARTY)
    hot.update(1, combat_session_id="")
    orchestrator.backup_full_state(1)
    hot.update(1, combat_session_id=str(fight))
    orchestrator.backup_many(PARTY)
    wipe(raw, keys)
    assert orchestrator.restore_full_state(1).sessions == {"combat": "restored"}


def test_member_that_is_first_saved_after_its_session_is_in_it(
    hot: HotStore, orchestrator: GameStateOrchestrator, raw: Any, keys: Keys, full_core: FullCore
) -> None:
    hot.create(1, **full_core(1))
    fight = str(uuid4())
    raw.hset(keys.session("combat", fight), mapping={"turn": "1", "participants": "[1,2]"})
    hot.update(1, combat_session_id=fight)
    orchestrator.backup_full_state(1)
    hot.create(2, **full_core(2, combat_session_id=fight))
    orchestrator.backup_full_state(2)
    wipe(raw, keys)
    assert orchestrator.restore_full_state(2).sessions == {"combat": "restored"}


@pytest.mark.usefixtures("party")
def test_id_of_two_types_is_refused_by_name(
    hot: HotStore, orchestrator: GameStateOrchestrator, engine: Engine
) -> None:
    fight_id = hot.open_session("combat", [1], {"turn": "7"})
    orchestrator.backup_full_state(1)
    hot.open_session("scenario", [2], {"quest_id": "q"}, session_id=fight_id)
    hot.update(3, gold=1)
    reports = orchestrator.backup_many([2, 3])
    assert [r.outcome for r in reports] == ["quarantined", "saved"]
    assert "a combat session has this id" in (reports[0].error or "")
    hot.join_session("scenario", fight_id, 1)
    reports = orchestrator.backup_many([1, 2])
    assert [r.outcome for r in reports] == ["quarantined"] * 2
    assert "session as well" in (reports[0].error or "")
    assert rows(engine, "SELECT session_type FROM sessions") == [("combat",)]
