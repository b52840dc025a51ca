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
