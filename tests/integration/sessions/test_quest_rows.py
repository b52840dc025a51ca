"""Quests in PostgreSQL: each character has a row for each of them, if it has a row itself."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from statesync.hot.keys import Keys
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from tests.conftest import FullCore

QUEST = UUID(int=1)


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


def test_of_several_quests_none_is_guessed(game: GameStateOrchestrator, engine: Engine) -> None:
    game.evict(1)
    with engine.begin() as connection:
        session = "INSERT INTO sessions (id, session_type, payload, version)"
        connection.execute(text(f"{session} VALUES (:id, 'scenario', '{{}}', 1)"), {"id": QUEST})
        member = "INSERT INTO session_characters (session_id, character_id) VALUES (:id, 1)"
        connection.execute(text(member), {"id": QUEST})
        for quest_id in ("first", "second"):
            progress = (
                "INSERT INTO scenario_progress (character_id, quest_id, node, variables, graph)"
            )
            values = "VALUES (1, :quest_id, 'a node', '{}', '{}')"
            connection.execute(text(f"{progress} {values}"), {"quest_id": quest_id})
    game.restore_full_state(1)
    assert game.hot.get_session("scenario", QUEST).fields == {"participants": [1]}
