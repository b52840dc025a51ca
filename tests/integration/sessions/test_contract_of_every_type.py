"""What every session type owes, built in or not: one suite over all that are registered.

A type that is registered elsewhere is tested here as well; ``SAMPLES`` may name fields for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from statesync import GameStateOrchestrator
from statesync.errors import (
    InSession,
    SessionClosed,
    SessionNotFound,
)
from statesync.hot.keys import Keys
from statesync.state import session_types
from tests.conftest import FullCore
from tests.integration.sessions.stores import content, rows, settle, wipe
from tests.registry import registered

with registered():  # the example registers itself; it is not meant for other tests
    from examples import fishing


SAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "combat": (
        {"monsters": [{"id": "orc", "hp": 30, "loot": None}], "turn_order": [1, 2], "ß": "Ω"},
        {"monsters": [], "turn_order": [2]},
    ),
    "inventory": (
        {
            "items": [
                {"item_id": "b", "kind": "bow", "quantity": 1, "runes": [1.5, {"a": None}]},
                {"item_id": "a", "kind": "arrow", "quantity": 0},
            ],
            "filters": {"kind": ["bow"]},
        },
        {"items": [{"item_id": "c", "kind": "cup", "quantity": 2**63 - 1}]},
    ),
    "scenario": (
        {"quest_id": "q", "node": "a", "graph": {"a": ["b"]}, "variables": {"keys": [1, "x"]}},
        {"node": "b", "variables": {}},
    ),
    "fishing": (
        {"catch": [{"fish": "carp", "grams": 900}], "place": "lake"},
        {"catch": [{"fish": "carp", "grams": 900}, {"fish": "pike", "grams": 4000}]},
    ),
}
PARTY = [1, 2, 3, 4]


@pytest.fixture(params=[*session_types.names(), "fishing"])
def session_type(request: pytest.FixtureRequest, engine: Engine) -> Iterator[str]:
    """A registered session type."""
    if request.param != "fishing":
        yield request.param
        return
    with engine.begin() as connection:
        connection.exec_driver_sql(fishing.TABLE)
    with registered(fishing.FishingTrip):
        yield request.param


@pytest.fixture
def game(session_type: str, request: pytest.FixtureRequest) -> GameStateOrchestrator:
    """A worker's orchestrator, made when the type was there."""
    made = request.getfixturevalue("orchestrator")
    assert isinstance(made, GameStateOrchestrator)
    assert session_type in made.sessions
    return made


@pytest.fixture
def sample(session_type: str) -> dict[str, Any]:
    return SAMPLES.get(session_type, ({"note": "x"}, {}))[0]


@pytest.fixture
def change(session_type: str) -> dict[str, Any]:
    return SAMPLES.get(session_type, ({}, {"note": "y"}))[1]


@pytest.fixture
def session(
    session_type: str, game: GameStateOrchestrator, sample: Any, full_core: FullCore
) -> UUID:
    """An open session of four, in the state that leads to it."""
    for i in PARTY:
        game.hot.create(i, **full_core(i))
    (state,) = game.sessions[session_type].states or ("exploration",)
    return game.hot.open_session(session_type, PARTY, sample, state=state)


def test_comes_back_as_it_was_under_its_old_id(
    game: GameStateOrchestrator, session_type: str, session: UUID, change: Any, raw: Any, keys: Keys
) -> None:
    settle(game, PARTY)
    game.hot.update_session(session_type, session, change)
    settle(game, PARTY)
    before = content(raw, keys)
    wipe(raw, keys)
    reports = game.restore_many(PARTY)
    assert [r.sessions for r in reports] == [
        {session_type: "restored"},
        *[{session_type: "live"}] * 3,
    ]
    assert content(raw, keys) == before
    assert game.hot.get(4).sessions == {session_type: session}
    assert not any(game.hot.sync_state(i).dirty for i in PARTY)


def test_is_saved_by_its_own_name_and_restored_by_a_character(
    game: GameStateOrchestrator, session_type: str, session: UUID, raw: Any, keys: Keys
) -> None:
    orchestrator = game.sessions[session_type]
    assert orchestrator.backup_session(session).outcome == "saved"
    assert orchestrator.backup_session(str(session)).outcome == "unchanged"
    wipe(raw, keys)
    assert orchestrator.backup_session(session).outcome == "missing"
    restored = orchestrator.restore_session(3)
    assert (restored.outcome, restored.session_id) == ("restored", str(session))
    assert orchestrator.restore_session(2).outcome == "live"


def test_is_saved_once_for_all(
    game: GameStateOrchestrator, session_type: str, session: UUID, change: Any, engine: Engine
) -> None:
    settle(game, PARTY)
    first = rows(engine, "SELECT version, xmin::text FROM sessions")
    assert [r.outcome for r in game.backup_many(PARTY)] == ["unchanged"] * 4
    assert rows(engine, "SELECT version, xmin::text FROM sessions") == first
    game.hot.update_session(session_type, session, change)
    assert game.hot.status().dirty == 4, "every participant is marked"
    assert game.backup_full_state(2).sessions == {session_type: "saved"}
    assert game.hot.status().dirty == 0, "and one backup has saved it for all"
    second = rows(engine, "SELECT version, xmin::text FROM sessions")
    assert second != first
    assert [r.sessions for r in game.backup_many(PARTY)] == [{session_type: "unchanged"}] * 4
    assert rows(engine, "SELECT version, xmin::text FROM sessions") == second


def test_live_one_is_left_alone_by_a_restore(
    game: GameStateOrchestrator, session_type: str, session: UUID, change: Any, raw: Any, keys: Keys
) -> None:
    settle(game, PARTY)
    game.evict(1)
    game.hot.update_session(session_type, session, change)
    live = raw.hgetall(keys.session(session_type, str(session)))
    assert game.restore_full_state(1).sessions == {session_type: "live"}
    assert raw.hgetall(keys.session(session_type, str(session))) == live


def test_closed_one_is_kept_for_good_and_never_restored(
    game: GameStateOrchestrator,
    session_type: str,
    session: UUID,
    change: Any,
    engine: Engine,
    raw: Any,
    keys: Keys,
) -> None:
    settle(game, PARTY)
    game.hot.close_session(session_type, session, change)
    game.hot.close_session(session_type, session)
    with pytest.raises(SessionClosed):
        game.hot.update_session(session_type, session, change)
    assert game.sessions[session_type].backup_session(session).outcome == "closed"
    assert not raw.exists(keys.session(session_type, str(session)))
    assert all(game.hot.get(i).sessions == {} for i in PARTY)
    assert rows(engine, "SELECT id, closed_at IS NULL FROM sessions") == [(session, False)]
    assert len(rows(engine, "SELECT * FROM session_characters")) == 4, "history is kept"
    settle(game, PARTY)
    wipe(raw, keys)
    report = game.restore_full_state(1)
    assert report.sessions == {}
    assert report.fallback_from == game.sessions[session_type].states[0]
    assert game.hot.get(1).state == "exploration"
    with pytest.raises(SessionNotFound):
        game.hot.get_session(session_type, session)


def test_wiped_before_the_references_went_it_is_not_restored(
    game: GameStateOrchestrator, session_type: str, session: UUID, raw: Any, keys: Keys
) -> None:
    settle(game, PARTY)
    game.hot.close_session(session_type, session)
    game.backup_full_state(1)
    wipe(raw, keys)
    report = game.restore_full_state(2)
    assert report.sessions == {session_type: "ended"}
    assert game.hot.get(2).sessions == {}
    assert game.hot.sync_state(2).dirty, "the core is not what its row says"


def test_gone_from_redis_is_reported_and_its_row_stays(
    game: GameStateOrchestrator,
    session_type: str,
    session: UUID,
    engine: Engine,
    raw: Any,
    keys: Keys,
) -> None:
    settle(game, PARTY)
    before = rows(engine, "SELECT payload, version, closed_at FROM sessions")
    raw.delete(keys.session(session_type, str(session)))
    game.hot.update(1, gold=5)
    report = game.backup_full_state(1)
    assert (report.outcome, report.sessions) == ("saved", {session_type: "missing"})
    assert str(session) in (report.error or "")
    assert rows(engine, "SELECT payload, version, closed_at FROM sessions") == before
    assert game.restore_full_state(1).sessions == {session_type: "restored"}


def test_comes_back_whatever_the_state(
    game: GameStateOrchestrator, session_type: str, session: UUID, raw: Any, keys: Keys
) -> None:
    for i in PARTY:
        game.hot.update(i, state="exploration")
    settle(game, PARTY)
    wipe(raw, keys)
    assert game.restore_full_state(1).sessions == {session_type: "restored"}
    assert game.hot.get(1).sessions == {session_type: session}


def test_goes_with_the_last_and_comes_back_with_the_first(
    game: GameStateOrchestrator, session_type: str, session: UUID, raw: Any, keys: Keys
) -> None:
    settle(game, PARTY)
    before = content(raw, keys)
    for i in PARTY:
        assert raw.exists(keys.session(session_type, str(session)))
        game.evict(i)
    assert content(raw, keys) == {}
    game.restore_full_state(3)
    assert raw.exists(keys.session(session_type, str(session)))
    game.restore_many(PARTY)
    assert content(raw, keys) == before


def test_joining_and_leaving(
    game: GameStateOrchestrator,
    session_type: str,
    session: UUID,
    sample: Any,
    full_core: FullCore,
    engine: Engine,
) -> None:
    settle(game, PARTY)
    game.hot.create(5, **full_core(5))
    game.hot.join_session(session_type, session, 5)
    game.hot.join_session(session_type, session, 5)
    with pytest.raises(InSession):
        game.hot.open_session(session_type, [5], sample)
    assert game.hot.get_session(session_type, session).participants == (1, 2, 3, 4, 5)
    for i in PARTY:
        game.hot.leave_session(session_type, session, i)
    game.backup_many([*PARTY, 5])
    active = "SELECT character_id FROM session_characters WHERE left_at IS NULL"
    assert rows(engine, active) == [(5,)]
    assert rows(engine, "SELECT closed_at FROM sessions") == [(None,)]
    game.hot.leave_session(session_type, session, 5)
    assert game.backup_full_state(5).sessions == {session_type: "closed"}
    assert rows(engine, active) == []
    assert len(rows(engine, "SELECT * FROM session_characters")) == 5, "history is kept"
