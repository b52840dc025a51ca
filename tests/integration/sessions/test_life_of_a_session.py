"""The life of a session: opened, changed, saved with its characters, closed, and brought back."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine

from statesync import GameStateOrchestrator, errors
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from tests.conftest import FullCore
from tests.integration.sessions.stores import content, rows, settle, wipe

MONSTERS = [{"id": "orc", "hp": 30}, {"id": "rat", "hp": 2.5}]
ITEMS = [
    {"item_id": "sword-1", "kind": "sword", "quantity": 1, "durability": 5},
    {"item_id": "arrow-1", "kind": "arrow", "quantity": 20},
]


@pytest.fixture
def party(hot: HotStore, full_core: FullCore) -> list[int]:
    """Four loaded characters."""
    ids = [1, 2, 3, 4]
    for i in ids:
        hot.create(i, **full_core(i))
    return ids


def fight(hot: HotStore, party: list[int]) -> UUID:
    return hot.open_session(
        "combat", party, {"monsters": MONSTERS, "turn_order": party}, state="combat"
    )


def test_fight_is_saved_once_for_all_and_comes_back(
    hot: HotStore,
    raw: Any,
    keys: Keys,
    engine: Engine,
    orchestrator: GameStateOrchestrator,
    party: list[int],
) -> None:
    session = fight(hot, party)
    hot.update_session(
        "combat", session, {"turn": "2", "weather": "rain"}, log=[{"hit": i} for i in range(3)]
    )
    reports = orchestrator.backup_many(party)
    assert [r.outcome for r in reports] == ["saved"] * 4
    assert [r.sessions for r in reports] == [{"combat": "saved"}] * 4
    assert rows(engine, "SELECT id, session_type, closed_at FROM sessions") == [
        (session, "combat", None)
    ]
    [(payload,)] = rows(engine, "SELECT payload FROM sessions")
    assert payload == {
        "monsters": MONSTERS,
        "turn_order": party,
        "participants": party,
        "turn": "2",
        "weather": "rain",
    }
    assert rows(engine, "SELECT seq, entry FROM combat_log ORDER BY seq") == [
        (i, {"hit": i}) for i in range(3)
    ]
    assert rows(engine, "SELECT character_id FROM session_characters ORDER BY 1") == [
        (i,) for i in party
    ]
    before = content(raw, keys)
    wipe(raw, keys)
    restored = orchestrator.restore_many(party)
    assert [r.outcome for r in restored] == ["restored"] * 4
    assert [r.sessions["combat"] for r in restored] == ["restored", "live", "live", "live"]
    assert content(raw, keys) == before


def test_unchanged_session_is_not_written(
    hot: HotStore, engine: Engine, orchestrator: GameStateOrchestrator, party: list[int]
) -> None:
    fight(hot, party)
    orchestrator.backup_many(party)
    query = "SELECT xmin::text FROM sessions UNION ALL SELECT xmin::text FROM session_characters"
    before = rows(engine, query)
    reports = orchestrator.backup_many(party)
    assert [(r.outcome, r.sessions) for r in reports] == [
        ("unchanged", {"combat": "unchanged"})
    ] * 4
    assert rows(engine, query) == before


def test_inventory_and_scenario_come_back_under_a_fight(
    hot: HotStore,
    raw: Any,
    keys: Keys,
    engine: Engine,
    orchestrator: GameStateOrchestrator,
    party: list[int],
) -> None:
    hot.open_session("inventory", [1], {"items": ITEMS, "filters": {"kind": None}})
    quest = {"quest_id": "q7", "graph": {"a": ["b"]}, "node": "a", "variables": {"seen": 3}}
    hot.open_session("scenario", [1, 2], quest)
    fight(hot, party)
    settle(orchestrator, party)
    assert rows(
        engine,
        "SELECT item_id, character_id, kind, quantity, attributes FROM inventory_items ORDER BY 1",
    ) == [
        ("arrow-1", 1, "arrow", 20, {}),
        ("sword-1", 1, "sword", 1, {"durability": 5}),
    ]
    assert rows(
        engine,
        "SELECT character_id, quest_id, node, variables, graph FROM scenario_progress ORDER BY 1",
    ) == [(i, "q7", "a", {"seen": 3}, {"a": ["b"]}) for i in (1, 2)]
    before = content(raw, keys)
    wipe(raw, keys)
    report = orchestrator.restore_full_state(1)
    assert report.sessions == {
        "combat": "restored",
        "inventory": "restored",
        "scenario": "restored",
    }
    orchestrator.restore_many(party)
    assert content(raw, keys) == before


def test_closed_session_is_saved_for_good_and_gone(
    hot: HotStore,
    raw: Any,
    keys: Keys,
    engine: Engine,
    orchestrator: GameStateOrchestrator,
    party: list[int],
) -> None:
    session = fight(hot, party)
    orchestrator.backup_many(party)
    hot.close_session("combat", session, {"result": "won"})
    with pytest.raises(errors.SessionClosed):
        hot.update_session("combat", session, {"turn": 9})
    assert orchestrator.backup_full_state(1).sessions == {"combat": "closed"}
    assert rows(engine, "SELECT payload->>'result', closed_at IS NULL FROM sessions") == [
        ("won", False)
    ]
    assert all("combat" not in hot.get(i).sessions for i in party)
    assert not raw.exists(keys.session("combat", str(session)))
    wipe(raw, keys)
    report = orchestrator.restore_full_state(2)
    assert (report.sessions, report.fallback_from) == ({"combat": "ended"}, "combat")
    assert hot.get(2).state == "exploration"
    assert hot.sync_state(2).dirty


def test_session_that_is_gone_is_reported_and_its_row_stays(
    hot: HotStore,
    raw: Any,
    keys: Keys,
    engine: Engine,
    orchestrator: GameStateOrchestrator,
    party: list[int],
) -> None:
    session = fight(hot, party)
    orchestrator.backup_many(party)
    raw.delete(keys.session("combat", str(session)))
    hot.update(1, gold=5)
    report = orchestrator.backup_full_state(1)
    assert (report.outcome, report.sessions) == ("saved", {"combat": "missing"})
    assert str(session) in (report.error or "")
    assert rows(engine, "SELECT payload->'monsters' FROM sessions") == [(MONSTERS,)]
    again = orchestrator.restore_full_state(1)
    assert (again.outcome, again.sessions) == ("live", {"combat": "restored"})
    assert hot.get_session("combat", session).fields["monsters"] == MONSTERS


def test_last_one_to_leave_closes(
    hot: HotStore,
    raw: Any,
    keys: Keys,
    engine: Engine,
    orchestrator: GameStateOrchestrator,
    party: list[int],
) -> None:
    session = fight(hot, party)
    settle(orchestrator, party)
    for i in party[:3]:
        hot.leave_session("combat", session, i)
        settle(orchestrator, party)
        assert "combat" not in hot.get(i).sessions
    assert rows(engine, "SELECT closed_at FROM sessions") == [(None,)]
    assert hot.get_session("combat", session).participants == (4,)
    hot.leave_session("combat", session, 4)
    settle(orchestrator, [4])
    assert rows(engine, "SELECT closed_at IS NULL FROM sessions") == [(False,)]
    assert not raw.exists(keys.session("combat", str(session)))


def test_evicting_everybody_evicts_the_fight(
    hot: HotStore, raw: Any, keys: Keys, orchestrator: GameStateOrchestrator, party: list[int]
) -> None:
    session = fight(hot, party)
    hot.update_session("combat", session, log=[1, 2, 3])
    settle(orchestrator, party)
    before = content(raw, keys)
    for i in party:
        assert raw.exists(keys.session("combat", str(session)))
        orchestrator.evict(i)
    assert content(raw, keys) == {}
    orchestrator.restore_many(party)
    assert content(raw, keys) == before


def test_bare_writers_fight(
    hot: HotStore, raw: Any, keys: Keys, engine: Engine, orchestrator: GameStateOrchestrator
) -> None:
    session = str(uuid4())
    with raw.pipeline(transaction=True) as pipe:
        for i in (1, 2):
            pipe.hset(keys.core(i), mapping={"state": "combat", "combat_session_id": session})
        pipe.hset(
            keys.session("combat", session),
            mapping={
                "monsters": json.dumps(MONSTERS),
                "turn_order": "[1, 2]",
                "participants": "[1, 2]",
                "version": 1,
            },
        )
        pipe.rpush(keys.session_log("combat", session), '{"a": 1}', '{"b": 2}')
        pipe.sadd(keys.dirty, 1, 2)
        pipe.execute()
    assert orchestrator.backup_full_state(1).sessions == {"combat": "saved"}
    assert hot.sync_state(2).dirty is False
    assert rows(engine, "SELECT count(*) FROM combat_log") == [(2,)]
    before = content(raw, keys)
    wipe(raw, keys)
    orchestrator.restore_many([2, 1])
    assert content(raw, keys) == before
