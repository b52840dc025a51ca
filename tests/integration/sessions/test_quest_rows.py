"""Quests in PostgreSQL: each character has a row for each of them, if it has a row itself."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, text

from statesync.hot.keys import Keys
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from tests.conftest import FullCore


@pytest.fixture
def game(orchestrator: GameStateOrchestrator, full_core: FullCore) -> GameStateOrchestrator:
    """The orchestrator, with one character."""
    orchestrator.hot.create(1, **full_core())
    return orchestrator


def test_quest_comes_back_with_its_own_progress(game: GameStateOrchestrator) -> None:
    for quest_id in ("first", "second"):
        fields = {"quest_id": quest_id, "node": f"in the {quest_id}"}
        quest = game.hot.open_session("scenario", [1], fields)
        game.backup_full_state(1)
        if quest_id == "first":
            game.hot.close_session("scenario", quest)
            game.backup_full_state(1)
    game.evict(1)
    game.restore_full_state(1)
    assert game.hot.get_session("scenario", quest).fields["node"] == "in the second"


def test_participant_without_a_row_holds_up_no_other(
    game: GameStateOrchestrator, raw: Any, keys: Keys, engine: Engine
) -> None:
    quest = game.hot.open_session("scenario", [1], {"quest_id": "q"})
    raw.hset(keys.session("scenario", str(quest)), "participants", "[1,77]")
    assert game.backup_full_state(1).outcome == "saved"
    with engine.begin() as connection:
        rows = connection.execute(text("SELECT character_id FROM scenario_progress"))
        assert rows.scalars().all() == [1]
