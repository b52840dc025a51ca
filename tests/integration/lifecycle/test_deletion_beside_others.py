"""A deletion changes no more rows than it must, and no odd session keeps a character."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text

from statesync.durable import database
from statesync.errors import DatabaseUnavailable
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle import deletion
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from tests.conftest import FullCore
from tests.integration.sessions.stores import rows

PAYLOAD = '{"round": "1"}'


@pytest.fixture
def saved(orchestrator: GameStateOrchestrator, full_core: FullCore) -> HotStore:
    """Two characters, saved and loaded."""
    for char_id in (1, 2):
        orchestrator.hot.create(char_id, **full_core(char_id))
    orchestrator.backup_many([1, 2])
    return orchestrator.hot


def join_by_sql(engine: Engine, session_type: str, closed_at: str = "NULL") -> UUID:
    """Have another program put both into a session; returns its id."""
    session = uuid4()
    with engine.begin() as connection:
        columns = "INSERT INTO sessions (id, session_type, payload, version, closed_at)"
        values = f"VALUES (:id, :type, '{PAYLOAD}', 1, {closed_at})"
        connection.execute(text(f"{columns} {values}"), {"id": session, "type": session_type})
        members = "INSERT INTO session_characters (session_id, character_id) VALUES (:id, :char_id)"
        for char_id in (1, 2):
            connection.execute(text(members), {"id": session, "char_id": char_id})
    return session


@pytest.mark.parametrize("session_type", ["combat", "raid"])
def test_session_of_another_program_goes_on_for_the_other(
    orchestrator: GameStateOrchestrator, saved: HotStore, engine: Engine, session_type: str
) -> None:
    session = join_by_sql(engine, session_type)  # no participants; and of a raid nobody knows
    assert orchestrator.delete(1).outcome == "deleted"
    assert rows(engine, "SELECT id, payload, closed_at FROM sessions") == [
        (session, {"round": "1"}, None)
    ]
    assert rows(engine, "SELECT character_id FROM session_characters WHERE left_at IS NULL") == [
        (2,)
    ]


def test_session_that_has_ended_ended_then(
    orchestrator: GameStateOrchestrator, saved: HotStore, engine: Engine
) -> None:
    join_by_sql(engine, "combat", closed_at="'2026-01-01'")
    before = rows(engine, "SELECT closed_at FROM sessions")
    orchestrator.delete(2)
    orchestrator.delete(1)
    assert rows(engine, "SELECT closed_at FROM sessions") == before


def test_session_that_was_left_was_left_then(
    orchestrator: GameStateOrchestrator, saved: HotStore, engine: Engine
) -> None:
    fight = saved.open_session("combat", [1, 2], {})
    orchestrator.backup_many([1, 2])
    saved.leave_session("combat", fight, 1)
    orchestrator.backup_many([1, 2])
    query = "SELECT left_at FROM session_characters WHERE character_id = 1"
    before = rows(engine, query)
    assert orchestrator.delete(1).sessions == []
    assert rows(engine, query) == before != [(None,)]


def test_session_of_which_nobody_is_loaded_keeps_no_character(
    orchestrator: GameStateOrchestrator, saved: HotStore, raw: Any, keys: Keys
) -> None:
    saved.open_session("combat", [1, 2], {})
    orchestrator.backup_many([1, 2])
    raw.delete(keys.core(1), keys.core(2))  # as by a loss of the cores alone
    assert orchestrator.delete(1).outcome == "deleted"


def test_lock_in_the_way_is_trouble_of_the_server(
    orchestrator: GameStateOrchestrator, saved: HotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meets_a_lock(*_: Any, **__: Any) -> Any:
        raise database.Rejected("canceling statement due to lock timeout", locked=True)

    monkeypatch.setattr(deletion, "_mark_deleted", meets_a_lock)
    with pytest.raises(DatabaseUnavailable, match="character 1"):
        orchestrator.delete(1)
    assert saved.get(1).state == "exploration"
