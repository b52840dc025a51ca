"""Who is in a session, in its rows: in the order of the game, and left when it was left."""

from __future__ import annotations

from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from statesync import GameStateOrchestrator, durable
from statesync.durable import database
from statesync.hot.store import HotStore
from tests.conftest import FullCore
from tests.integration.sessions.stores import rows

PARTY = [3, 1, 2]


@pytest.fixture
def fight(orchestrator: GameStateOrchestrator, full_core: FullCore) -> UUID:
    """A fight of three, saved."""
    for char_id in PARTY:
        orchestrator.hot.create(char_id, **full_core(char_id))
    made = orchestrator.hot.open_session("combat", PARTY, {"round": "1"})
    orchestrator.backup_many(PARTY)
    return made


def test_participants_come_back_in_their_order(
    orchestrator: GameStateOrchestrator, fight: UUID
) -> None:
    for char_id in PARTY:
        orchestrator.evict(char_id)
    orchestrator.restore_full_state(1)
    assert orchestrator.hot.get_session("combat", fight).participants == (3, 1, 2)


def test_one_that_left_is_in_it_no_more_and_left_only_once(
    orchestrator: GameStateOrchestrator, hot: HotStore, fight: UUID, engine: Engine
) -> None:
    hot.leave_session("combat", fight, 1)
    orchestrator.backup_many(PARTY)
    query = "SELECT left_at FROM session_characters WHERE character_id = 1"
    left_at = rows(engine, query)
    hot.update_session("combat", fight, {"round": "2"})
    orchestrator.backup_many(PARTY)
    assert rows(engine, query) == left_at != [(None,)]
    with database.transaction(engine) as connection:
        current = durable.memberships.current(connection, PARTY)
    assert sorted(one.char_id for one in current) == [2, 3]
    hot.leave_session("combat", fight, 3)
    orchestrator.backup_many(PARTY)
    assert rows(engine, query) == left_at


def test_of_two_open_sessions_that_no_core_points_at_the_newest_comes_back(
    orchestrator: GameStateOrchestrator, full_core: FullCore, engine: Engine
) -> None:
    orchestrator.hot.create(1, **full_core(1))
    orchestrator.evict(1)
    with engine.begin() as connection:
        for number, hours in ((1, 2), (2, 1), (3, 3)):
            session = "INSERT INTO sessions (id, session_type, payload, version, updated_at)"
            values = "VALUES (:id, 'combat', '{}', 1, now() - make_interval(hours => :hours))"
            parameters = {"id": UUID(int=number), "hours": hours}
            connection.execute(text(f"{session} {values}"), parameters)
            member = "INSERT INTO session_characters (session_id, character_id) VALUES (:id, 1)"
            connection.execute(text(member), {"id": UUID(int=number)})
    orchestrator.restore_full_state(1)
    assert orchestrator.hot.get(1).sessions == {"combat": UUID(int=2)}
