"""Which characters a recovery restores: those that were saved lately, or are in an open session."""

from __future__ import annotations

from sqlalchemy import Engine, text

from statesync.lifecycle.orchestrator import GameStateOrchestrator
from tests.conftest import FullCore


def test_active_are_those_saved_lately_and_those_in_open_sessions(
    orchestrator: GameStateOrchestrator, engine: Engine, full_core: FullCore
) -> None:
    for char_id in (1, 2, 3):
        orchestrator.hot.create(char_id, **full_core(char_id))
    orchestrator.hot.open_session("scenario", [2], {"quest_id": "q"})
    orchestrator.backup_many([1, 2, 3])
    with engine.begin() as connection:
        long_ago = "UPDATE characters SET updated_at = now() - interval '9 hours' WHERE id < 3"
        connection.execute(text(long_ago))
    assert list(orchestrator.active(8)) == [[2, 3]]
    assert orchestrator.count_active(8) == 2


def test_gone_is_who_is_deleted_has_left_or_whose_session_has_ended(
    orchestrator: GameStateOrchestrator, engine: Engine, full_core: FullCore
) -> None:
    hot = orchestrator.hot
    for char_id in (1, 2, 3, 4, 5):
        hot.create(char_id, **full_core(char_id))
    fight = hot.open_session("combat", [1, 2], {})
    quest = hot.open_session("scenario", [3], {"quest_id": "q"})
    trade = hot.open_session("inventory", [5], {"items": []})
    orchestrator.backup_many([1, 2, 3, 4, 5])
    hot.leave_session("combat", fight, 2)
    hot.close_session("scenario", quest)
    orchestrator.backup_many([1, 2, 3])
    orchestrator.delete(4)
    with engine.begin() as connection:
        long_ago = "UPDATE characters SET updated_at = now() - interval '9 hours' WHERE id <> 4"
        connection.execute(text(long_ago))
        ended = "UPDATE sessions SET closed_at = now() WHERE id = :id"  # by another program
        connection.execute(text(ended), {"id": trade})
    assert list(orchestrator.active(8)) == [[1]]
    hot.update(3, gold=1)
    orchestrator.backup_full_state(3)
    assert list(orchestrator.active(8)) == [[1, 3]], "it has been saved again"
