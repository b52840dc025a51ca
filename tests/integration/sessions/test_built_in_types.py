"""What our three session types keep, each in its way."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine

from statesync import GameStateOrchestrator
from statesync.durable import database
from statesync.errors import (
    InvalidField,
    InvalidInput,
)
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.sessions.base import make_orchestrators
from tests.conftest import FullCore
from tests.integration.sessions.stores import content, rows, settle, wipe

ROWS = "SELECT {}, xmin::text FROM {} ORDER BY 1"


def item(item_id: str, quantity: int = 1, **attributes: Any) -> dict[str, Any]:
    return {"item_id": item_id, "kind": "cup", "quantity": quantity, **attributes}


# Combat


@pytest.fixture
def fight(hot: HotStore, full_core: FullCore) -> UUID:
    """An open fight of two."""
    for i in (1, 2):
        hot.create(i, **full_core(i))
    return hot.open_session("combat", [1, 2], {"monsters": [], "turn_order": []}, state="combat")


def test_each_fight_has_a_log_of_its_own(
    fight: UUID,
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    engine: Engine,
    full_core: FullCore,
) -> None:
    hot.create(3, **full_core(3))
    other = hot.open_session("combat", [3], {})
    hot.update_session("combat", fight, log=["a", "b"])
    orchestrator.backup_full_state(1)
    hot.update_session("combat", other, log=["x", "y", "z"])
    orchestrator.backup_full_state(3)
    query = "SELECT entry FROM combat_log WHERE session_id = :id ORDER BY seq"
    assert rows(engine, query, id=other) == [("x",), ("y",), ("z",)]
    assert rows(engine, query, id=fight) == [("a",), ("b",)]
    combat = make_orchestrators(orchestrator)["combat"]
    with database.transaction(engine) as connection:
        assert combat.saved_log(connection, [other, uuid4(), fight]) == {other: 3, fight: 2}
        assert combat.saved_log(connection, []) == {}


def test_log_of_a_bare_writer_grows_by_its_tail_alone(
    fight: UUID, orchestrator: GameStateOrchestrator, engine: Engine, raw: Any, keys: Keys
) -> None:
    log = keys.session_log("combat", str(fight))
    raw.rpush(log, *(json.dumps({"turn": i}) for i in range(100_000)))
    raw.sadd(keys.dirty, 1)
    assert orchestrator.backup_full_state(1).sessions == {"combat": "saved"}
    with engine.begin() as connection:
        connection.exec_driver_sql(
            """
            CREATE TABLE sent (op text, seq bigint);
            CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN
              INSERT INTO sent VALUES (TG_OP, coalesce(NEW.seq, OLD.seq));
              RETURN coalesce(NEW, OLD);
            END $body$;
            CREATE TRIGGER note BEFORE INSERT OR UPDATE OR DELETE ON combat_log
              FOR EACH ROW EXECUTE FUNCTION note();
            """
        )
    raw.rpush(log, "null", '"x"', "[1.5]")
    raw.sadd(keys.dirty, 2)
    orchestrator.backup_full_state(2)
    # A row that is offered and then skipped would be seen by the trigger as well.
    assert rows(engine, "SELECT op, seq FROM sent ORDER BY 2") == [
        ("INSERT", 100_000),
        ("INSERT", 100_001),
        ("INSERT", 100_002),
    ]
    assert rows(engine, "SELECT entry FROM combat_log WHERE seq >= 100000 ORDER BY seq") == [
        (None,),
        ("x",),
        ([1.5],),
    ]
    assert orchestrator.backup_full_state(1).outcome == "unchanged"
    assert rows(engine, "SELECT count(*) FROM sent") == [(3,)]


def test_log_saved_again_after_a_lost_acknowledgement_has_no_row_twice(
    fight: UUID, hot: HotStore, orchestrator: GameStateOrchestrator, engine: Engine, raw: Any,
    keys: Keys,
) -> None:  # fmt: skip
    orchestrator.backup_many([1, 2])
    hot.update_session("combat", fight, log=["a", "b"])
    cores = {key: raw.hgetall(key) for key in (keys.core(1), keys.core(2))}
    session = raw.hgetall(keys.session("combat", str(fight)))
    orchestrator.backup_full_state(1)
    # As if Redis had never heard of that save: the marks and the versions are what they were.
    for key, fields in [*cores.items(), (keys.session("combat", str(fight)), session)]:
        raw.hset(key, mapping=fields)
    raw.sadd(keys.dirty, 1, 2)
    hot.update_session("combat", fight, log=["c"])
    settle(orchestrator, [1, 2])
    log = "SELECT seq, entry FROM combat_log ORDER BY 1"
    assert rows(engine, log) == [(0, "a"), (1, "b"), (2, "c")]


# Inventory


@pytest.mark.parametrize(
    ("items", "at"),
    [
        ([item("a"), item("b", -1)], "items[1].quantity"),
        ([item("a"), item("b", 2**63)], "items[1].quantity"),
        ([item("a"), {**item("b"), "quantity": 1.5}], "items[1].quantity"),
        ([item("a"), item("b"), item("a")], "items[2].item_id"),
        ([item("a"), {"item_id": "b", "quantity": 1}], "items[1].kind"),
        ([item("a"), "b"], "items[1]"),
        ("a", "items"),
    ],
    ids=[
        "below zero",
        "beyond 2^63-1",
        "a fraction",
        "twice",
        "without kind",
        "no item",
        "no list",
    ],
)
def test_item_that_is_none_is_named_and_holds_up_nobody_else(
    hot: HotStore,
    orchestrator: GameStateOrchestrator,
    engine: Engine,
    raw: Any,
    keys: Keys,
    full_core: FullCore,
    items: Any,
    at: str,
) -> None:
    for i in (1, 2, 3):
        hot.create(i, **full_core(i))
    bag = hot.open_session("inventory", [1], {"items": [item("a")]})
    hot.open_session("inventory", [2], {"items": [item("z")]})
    orchestrator.backup_many([1, 2, 3])
    with pytest.raises(InvalidField) as refused:
        hot.update_session("inventory", bag, {"items": items})
    assert refused.value.field == at
    with pytest.raises(InvalidField):
        hot.open_session("inventory", [3], {"items": items})
    assert hot.status().dirty == 0, "a refused change changes nothing"

    raw.hset(keys.session("inventory", str(bag)), "items", json.dumps(items))
    raw.sadd(keys.dirty, 1)
    hot.update(2, gold=1)
    reports = orchestrator.backup_many([1, 2, 3])
    assert [r.outcome for r in reports] == ["quarantined", "saved", "unchanged"]
    entry = hot.sync_state(1).quarantine
    assert entry is not None
    assert entry.field == reports[0].field == f"inventory:session:{bag}.{at}"
    assert rows(engine, "SELECT item_id, quantity FROM inventory_items ORDER BY 1") == [
        ("a", 1),
        ("z", 1),
    ]
    hot.update_session("inventory", bag, {"items": [item("a", 7)]})
    settle(orchestrator, [1])
    assert rows(engine, "SELECT quantity FROM inventory_items WHERE item_id = 'a'") == [(7,)]
    assert hot.sync_state(1).quarantine is None


def test_item_that_moves_has_one_owner_and_others_are_not_touched(
    hot: HotStore, orchestrator: GameStateOrchestrator, engine: Engine, full_core: FullCore
) -> None:
    for i in (1, 2):
        hot.create(i, **full_core(i))
    bags = {
        i: hot.open_session("inventory", [i], {"items": [item(f"{i}-{n}") for n in range(50)]})
        for i in (1, 2)
    }
    settle(orchestrator, [1, 2])
    before = dict(rows(engine, ROWS.format("item_id", "inventory_items")))
    hot.update_session("inventory", bags[1], {"items": [item(f"1-{n}") for n in range(1, 50)]})
    moved = [*(item(f"2-{n}") for n in range(50)), item("1-0", rune={"fire": None})]
    hot.update_session("inventory", bags[2], {"items": moved})
    orchestrator.backup_full_state(2)  # the new owner is saved first
    orchestrator.backup_full_state(1)
    after = dict(rows(engine, ROWS.format("item_id", "inventory_items")))
    assert {i for i in before if before[i] != after[i]} == {"1-0"}
    assert rows(
        engine, "SELECT character_id, attributes FROM inventory_items WHERE item_id = '1-0'"
    ) == [(2, {"rune": {"fire": None}})]


# Scenario


def test_quest_is_in_the_columns_of_each_of_its_participants(
    hot: HotStore, orchestrator: GameStateOrchestrator, engine: Engine, full_core: FullCore
) -> None:
    for i in (1, 2):
        hot.create(i, **full_core(i))
    quest = {"quest_id": "crypt", "node": "hall", "graph": {"hall": ["well"]}, "variables": [1]}
    session = hot.open_session("scenario", [1, 2], quest)
    settle(orchestrator, [1, 2])
    progress = (
        "SELECT character_id, quest_id, node, graph, variables FROM scenario_progress ORDER BY 1"
    )
    assert rows(engine, progress) == [(i, "crypt", "hall", {"hall": ["well"]}, [1]) for i in (1, 2)]
    before = rows(engine, ROWS.format("character_id", "scenario_progress"))
    hot.leave_session("scenario", session, 2)
    hot.update_session("scenario", session, {"node": "well"})
    settle(orchestrator, [1, 2])
    assert [row[2] for row in rows(engine, progress)] == ["well", "hall"]
    assert rows(engine, ROWS.format("character_id", "scenario_progress"))[1] == before[1]


_BAG = ("inventory", {"items": [item("a")]}, {"filters": {"kind": "cup"}})
_QUEST = ("scenario", {"quest_id": "q", "node": "a", "graph": {"a": []}}, {"quest_id": "q"})


@pytest.mark.parametrize(
    ("session_type", "before", "fields", "played"),
    [
        pytest.param("combat", {"monsters": [1]}, {"mood": "grim"}, True, id="combat"),
        pytest.param(*_BAG, False, id="first bag"),
        pytest.param(*_BAG, True, id="second bag"),
        pytest.param(*_QUEST, False, id="first quest"),
        pytest.param(*_QUEST, True, id="quest played again"),
    ],
)
def test_field_that_a_session_never_had_does_not_appear(
    hot: HotStore,
    orchestrator: GameStateOrchestrator,
    raw: Any,
    keys: Keys,
    session_type: str,
    before: dict[str, Any],
    fields: dict[str, Any],
    played: bool,
) -> None:
    hot.create(1, state="exploration")
    if played:
        hot.close_session(session_type, hot.open_session(session_type, [1], before))
        settle(orchestrator, [1])
    hot.open_session(session_type, [1], fields)
    settle(orchestrator, [1])
    saved = content(raw, keys)
    wipe(raw, keys)
    orchestrator.restore_full_state(1)
    assert content(raw, keys) == saved


def test_type_says_what_it_cannot_be_opened_without(hot: HotStore, full_core: FullCore) -> None:
    hot.create(1, **full_core(1))
    with pytest.raises(InvalidField, match="'scenario' cannot be opened without it") as refused:
        hot.open_session("scenario", [1], {"node": "n"})
    assert refused.value.field == "quest_id"
    with pytest.raises(InvalidInput, match="has no log"):
        hot.update_session("scenario", uuid4(), log=["x"])
