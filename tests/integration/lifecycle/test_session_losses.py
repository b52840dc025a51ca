"""PostgreSQL goes back by less than a sweep, and only a session was saved since: it is found."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from statesync.errors import DatabaseWentBack
from statesync.hot.commands.servers import LossFlag
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.recover import recover
from tests.conftest import FullCore
from tests.integration.lifecycle.test_backup import scalar
from tests.rewind import Rewind, recorded

PARTY = [1, 2]
COLUMNS = "payload, version, digest, seal, seal_version"
PUT_BACK = f"UPDATE sessions SET ({COLUMNS}) = (SELECT {COLUMNS} FROM earlier)"
ROUND = "SELECT payload->>'round' FROM sessions"


@pytest.fixture
def fight(orchestrator: GameStateOrchestrator, engine: Engine, full_core: FullCore) -> UUID:
    """A fight of two, saved at round 1, which is put away, and then at round 2."""
    hot = orchestrator.hot
    for char_id in PARTY:
        hot.create(char_id, **full_core(char_id))
    made = hot.open_session("combat", PARTY, {"round": "1"})
    orchestrator.backup_many(PARTY)
    run(engine, "CREATE TABLE earlier AS TABLE sessions")
    hot.update_session("combat", made, {"round": "2"})
    assert {r.outcome for r in orchestrator.backup_many(PARTY)} == {"saved"}
    return made


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@pytest.mark.parametrize(
    "loss", [(PUT_BACK,), ("DELETE FROM session_characters", "DELETE FROM sessions")]
)
def test_session_that_was_saved_is_missed_in_its_row(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    engine: Engine,
    fight: UUID,
    loss: tuple[str, ...],
) -> None:
    run(engine, *loss)
    hot.update_session("combat", fight, {"round": "3"})
    with pytest.raises(DatabaseWentBack):
        orchestrator.backup_full_state(1)
    assert hot.get_session("combat", fight).fields["round"] == "3"
    assert recover(orchestrator, lease_us=60_000_000).left == 0
    assert scalar(engine, ROUND) == "3"
    assert recorded(engine) == []
    assert hot.status().counters.get("redis_went_back") is None


def test_restored_session_misses_its_row_as_well(
    orchestrator: GameStateOrchestrator, hot: HotStore, engine: Engine, fight: UUID
) -> None:
    for char_id in PARTY:
        assert orchestrator.evict(char_id)
    orchestrator.restore_many(PARTY)
    run(engine, PUT_BACK)
    hot.update_session("combat", fight, {"round": "3"})
    with pytest.raises(DatabaseWentBack):
        orchestrator.backup_full_state(1)


def test_nothing_is_reverted_once_postgresql_is_found_to_have_gone_back(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    engine: Engine,
    fight: UUID,
    rewind: Rewind,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another worker finds it between the snapshot of a group and its revert."""
    before = rewind.moment()
    hot.update(1, gold="saved")
    orchestrator.backup_full_state(1)
    rewind.to(before)
    hot.update(1, gold="live")
    revert = orchestrator.hot.revert

    def after_the_finding(group: Any) -> Any:
        assert hot.note_loss(LossFlag.RECOVERING)
        return revert(group)

    monkeypatch.setattr(orchestrator.hot, "revert", after_the_finding, raising=False)
    with pytest.raises(DatabaseWentBack):
        orchestrator.backup_full_state(1)
    monkeypatch.undo()
    assert hot.get(1).fields["gold"] == "live"
    assert recorded(engine) == []
