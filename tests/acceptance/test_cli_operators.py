"""The operators' part of the command line, as a person or a script meets it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import text

from statesync import GameStateOrchestrator, Settings
from statesync.hot.store import HotStore
from tests.acceptance.command_line import run, run_json
from tests.conftest import FullCore
from tests.rewind import Rewind

FULL: dict[str, Any] = {
    "state": "exploration",
    "location": {"current": "harbour", "prev": "forest"},
    "bio": {"name": "Ann", "gender": "f", "created_at": "2026-11-01T12:00:00+00:00"},
    "stats": {"strength": 5, "luck": 7},
    "vitals": {"hp": {"cur": 70, "max": 170}},
    "guild": "Wölfe",
}


def test_pending(settings: Settings, hot: HotStore, full_core: FullCore) -> None:
    assert "0 dirty, 0 claimed, 0 quarantined" in run(settings, "pending")
    hot.create(1, **full_core())
    hot.create(2, **full_core())
    hot.claim(2, lease_us=settings.lease_us)
    found: dict[str, Any] = run_json(settings, "pending")
    assert [(c["name"], c["marks"]) for c in found["characters"]] == [
        ("1", ["dirty"]),
        ("2", ["claimed"]),
    ]
    assert "claimed" in run(settings, "pending", "2")
    assert "no unsaved changes" in run(settings, "pending", "3")
    assert run_json(settings, "pending", "3")["characters"] == []
    assert len(run_json(settings, "pending", "--limit", "1")["characters"]) == 1
    run(settings, "pending", "--limit", "0", status=2)
    run(settings, "pending", "x", status=2)


def test_conflicts(
    settings: Settings, hot: HotStore, rewind: Rewind, orchestrator: GameStateOrchestrator
) -> None:
    assert "There are no conflicts" in run(settings, "conflicts", "list")
    (check,) = run_json(settings, "doctor", "--only", "conflicts")
    assert (check["status"], check["found"]) == ("ok", "0 in the last seven days")
    assert run_json(settings, "conflicts", "list") == {"conflicts": [], "next": None}
    for char_id in (1, 2, 3):
        hot.create(char_id, **FULL, gold="10")
    orchestrator.backup_many([1, 2, 3])
    before = rewind.moment()
    for char_id in (1, 2, 3):
        hot.update(char_id, gold="20")
    orchestrator.backup_many([1, 2, 3])
    rewind.to(before)
    for char_id in (1, 2, 3):
        hot.update(char_id, gold="1")
    assert run_json(settings, "drain")["outcomes"] == {"conflict": 3}

    page = run_json(settings, "conflicts", "list", "--limit", "2")
    rest = run_json(settings, "conflicts", "list", "--before", str(page["next"]))
    listed = page["conflicts"] + rest["conflicts"]
    assert (len(page["conflicts"]), len(rest["conflicts"]), rest["next"]) == (2, 1, None)
    assert {row["character_id"] for row in listed} == {1, 2, 3}
    assert [row["id"] for row in listed] == sorted((row["id"] for row in listed), reverse=True)
    (of_two,) = run_json(settings, "conflicts", "list", "--character", "2")["conflicts"]
    assert "conflicts show CONFLICT" in run(settings, "conflicts", "list")

    shown = run_json(settings, "conflicts", "show", str(of_two["id"]))
    assert shown["state"]["core"]["gold"] == "1"
    assert json.loads(shown["state"]["core"]["stats"])["luck"] == 7
    as_text = run(settings, "conflicts", "show", str(of_two["id"]))
    assert all(part in as_text for part in ('"gold": "1"', "Redis went back in time"))
    (check,) = run_json(settings, "doctor", "--only", "conflicts")
    assert (check["status"], check["found"]) == ("warn", "3 in the last seven days")
    with orchestrator.engine.begin() as connection:
        connection.execute(text("UPDATE state_conflicts SET recorded_at = now() - interval '8 d'"))
    (check,) = run_json(settings, "doctor", "--only", "conflicts")
    assert check["status"] == "ok"
    assert "there is no conflict 99999" in run(settings, "conflicts", "show", "99999", status=1)
    run(settings, "conflicts", "show", "0", status=2)
    run(settings, "conflicts", "list", "--limit", "0", status=2)


def test_conflicts_show_what_was_set_back_together(
    settings: Settings, hot: HotStore, rewind: Rewind, orchestrator: GameStateOrchestrator
) -> None:
    for char_id in (1, 2, 3):
        hot.create(char_id, **FULL)
    fight = hot.open_session("combat", [1, 2], {})
    orchestrator.backup_many([1, 2, 3])
    before = rewind.moment()
    hot.update_session("combat", fight, {"turn": 1})
    hot.update(3, gold="20")
    for char_id in (1, 3):
        orchestrator.backup_full_state(char_id)
    rewind.to(before)
    for char_id in (1, 3):
        hot.update(char_id, gold="1")
    assert run_json(settings, "drain")["outcomes"] == {"conflict": 2}

    entries = run_json(settings, "conflicts", "list")["conflicts"]
    divergences = {
        (entry["character_id"], entry["session_id"]): entry["divergence"] for entry in entries
    }
    in_fight = {divergences[1, None], divergences[2, None], divergences[1, str(fight)]}
    assert len(in_fight) == 1
    assert in_fight != {divergences[3, None]}
    listed = run(settings, "conflicts", "list")
    for text_ in (str(fight), *map(str, divergences.values())):
        assert text_ in listed


def test_conflicts_of_a_character_are_those_of_its_sessions_too(
    settings: Settings, hot: HotStore, rewind: Rewind, orchestrator: GameStateOrchestrator
) -> None:
    party = [1, 2, 13]
    for char_id in party:
        hot.create(char_id, **FULL)
    fight = hot.open_session("combat", party, {})
    bag = hot.open_session("inventory", [13], {"items": []})
    orchestrator.backup_many(party)
    before = rewind.moment()
    hot.update_session("combat", fight, {"turn": 1})
    orchestrator.backup_many(party)
    rewind.to(before)
    hot.update_session("combat", fight, {"turn": 2})
    assert "Drained: 3 set to their rows (conflict)." in run(settings, "drain")

    def of(char_id: int) -> set[tuple[int, str | None]]:
        found = run_json(settings, "conflicts", "list", "--character", str(char_id))
        return {(entry["character_id"], entry["session_id"]) for entry in found["conflicts"]}

    assert of(1) == {(1, None), (1, str(fight))}
    assert of(2) == {(2, None), (1, str(fight))}
    assert of(13) == {(13, None), (1, str(fight)), (13, str(bag))}
    assert of(3) == set()


def test_conflict_that_holds_what_python_cannot(
    settings: Settings, orchestrator: GameStateOrchestrator
) -> None:
    insert = text(
        "INSERT INTO state_conflicts (character_id, version, reason, state, recorded_at) VALUES "
        "(1, 1, 'before', '{}', now()), (1, 2, 'deep', CAST(:deep AS jsonb), '20000-01-01') "
        "RETURNING id"
    )
    deep = "[" * 2000 + "1" + "]" * 2000
    with orchestrator.engine.begin() as connection:
        _, number = connection.execute(insert, {"deep": deep}).scalars()
    assert "20000-01-01 00:00:00 UTC" in run(settings, "conflicts", "list")
    times = [row["recorded_at"] for row in run_json(settings, "conflicts", "list")["conflicts"]]
    assert times[0] == "20000-01-01T00:00:00+00:00"
    assert datetime.fromisoformat(times[1]).tzinfo
    assert f'"state":{deep}' in run(settings, "conflicts", "show", str(number), "--json")
    assert "reason: deep" in run(settings, "conflicts", "show", str(number))


def test_inspect_compares_by_value(
    settings: Settings, hot: HotStore, orchestrator: GameStateOrchestrator
) -> None:
    vitals = {"stamina": {"max": 9, "cur": 9}, "hp": {"max": 2, "cur": 1}}
    hot.create(1, **FULL | {"vitals": vitals})
    items = [{"quantity": 1, "kind": "blade", "item_id": "sword", "runes": [{"z": 1, "a": True}]}]
    bag = hot.open_session("inventory", [1], {"items": items, "filters": {"z": 1, "a": 2}})
    orchestrator.backup_full_state(1)
    assert "differs" not in run(settings, "inspect", "1")
    items[0]["runes"] = [{"z": 1, "a": 1}]
    hot.update_session("inventory", bag, {"items": items})
    shown = run(settings, "inspect", "1")
    [line] = [line for line in shown.splitlines() if line.startswith("inventory: items")]
    assert line.endswith("differs")


def test_inspect_of_a_row_that_holds_what_python_cannot(
    settings: Settings, hot: HotStore, orchestrator: GameStateOrchestrator
) -> None:
    hot.create(1, **FULL)
    orchestrator.backup_full_state(1)
    with orchestrator.engine.begin() as connection:
        connection.execute(text("UPDATE characters SET created_at = '20000-01-01'"))
    reason = "field 'created_at': cannot be read from PostgreSQL: year 20000 is out of range"
    assert reason in run(settings, "inspect", "1")
    found = run_json(settings, "inspect", "1")
    assert reason in found["postgresql_error"]
    assert found["redis"]["bio"] == FULL["bio"]


def test_a_core_made_without_a_restore_erases_nothing(
    settings: Settings, hot: HotStore, raw: Any, orchestrator: GameStateOrchestrator
) -> None:
    hot.create(1, **FULL, gold="10")
    assert orchestrator.backup_full_state(1).outcome == "saved"
    raw.delete(hot.keys.core(1))
    raw.hset(hot.keys.core(1), "gold", "1")
    raw.sadd(hot.keys.dirty, 1)
    assert run_json(settings, "drain")["outcomes"] == {"saved": 1}
    found = run_json(settings, "inspect", "1")
    for side in ("redis", "postgresql"):
        core = found[side]
        assert core["fields"] == {"gold": "1", "guild": "Wölfe"}
        assert {name: core[name] for name in FULL if name != "guild"} == {
            name: value for name, value in FULL.items() if name != "guild"
        }


def test_row_that_cannot_be_read_is_shown_as_such(
    settings: Settings, hot: HotStore, orchestrator: GameStateOrchestrator
) -> None:
    hot.create(1, **FULL)
    orchestrator.backup_full_state(1)
    with orchestrator.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE characters SET vitals = '7'")
    found = run_json(settings, "inspect", "1")
    assert "field 'vitals'" in found["postgresql_error"]
    assert found["redis"]["char_id"] == 1
    assert "In PostgreSQL, but not readable" in run(settings, "inspect", "1")


def test_scrub(settings: Settings, hot: HotStore, raw: Any) -> None:
    hot.create(1, **FULL)
    raw.delete(hot.keys.dirty)
    found = run_json(settings, "scrub")
    assert (found["characters"], found["marked"]) == (1, 1)
    assert hot.sync_state(1).dirty
    assert "Looked at 1 characters" in run(settings, "scrub")


def test_delete(settings: Settings, hot: HotStore) -> None:
    hot.create(1, **FULL)
    assert "interrupted" in run(settings, "delete", "1", status=1)  # no answer is no
    assert hot.peek(1)
    assert run_json(settings, "delete", "1", "--yes")["outcome"] == "deleted"
    assert "1: deleted" in run(settings, "delete", "1", "--yes")
    assert "not_found" in run(settings, "restore", "1", status=1)
    assert "not_found" in run(settings, "delete", "2", "--yes", status=1)
