"""Redis went back, PostgreSQL holds a newer session: the losing side is recorded, whole and once.

The live side is saved, at whatever step a worker dies.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from tests.conftest import FullCore

PARTY = [1, 2, 3]
OLDER = "Redis held an older version"
State = dict[str, Any]


class Redis:
    """The test's own part of Redis, to be brought back later, as by a failover."""

    def __init__(self, raw: Any, keys: Keys) -> None:
        self.raw = raw
        self.pattern = f"{keys.prefix}*"

    def dump(self) -> dict[bytes, bytes]:
        return {key: self.raw.dump(key) for key in self.raw.scan_iter(self.pattern, count=1000)}

    def put(self, dump: dict[bytes, bytes]) -> None:
        self.wipe()
        for key, value in dump.items():
            self.raw.restore(key, 0, value)

    def wipe(self) -> None:
        for key in self.raw.scan_iter(self.pattern, count=1000):
            self.raw.delete(key)


@pytest.fixture
def redis(raw: Any, keys: Keys) -> Redis:
    return Redis(raw, keys)


@pytest.fixture
def fight(hot: HotStore, full_core: FullCore, orchestrator: GameStateOrchestrator) -> UUID:
    """A fight of three that is saved."""
    for i in PARTY:
        hot.create(i, **full_core(i))
    session = hot.open_session("combat", PARTY, {"round": "0"}, state="combat")
    hot.update_session("combat", session, log=["begin"])
    orchestrator.backup_many(PARTY)
    return session


def rows(engine: Engine, query: str) -> list[Any]:
    with engine.begin() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def lost(engine: Engine, session: UUID) -> list[State]:
    """Return what was kept of a session that lost, without what it lost of its log alone."""
    query = "SELECT reason, state FROM state_conflicts ORDER BY id"
    name = f"combat:session:{session}: {OLDER}"
    return [state for reason, state in rows(engine, query) if reason == name]


def kept(engine: Engine) -> list[State]:
    query = f"SELECT state FROM state_conflicts WHERE reason LIKE '%:session:%{OLDER}' ORDER BY id"
    return [state for (state,) in rows(engine, query)]


def play(hot: HotStore, orchestrator: GameStateOrchestrator, fight: UUID, *turns: str) -> None:
    """Play on, saved after each turn."""
    for turn in turns:
        hot.update_session("combat", fight, {"round": turn}, log=[turn])
        orchestrator.backup_many(PARTY)


def test_whole_party_went_back_and_both_histories_are_kept(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    redis: Redis,
    fight: UUID,
    engine: Engine,
    full_core: FullCore,
) -> None:
    before = redis.dump()
    for i in PARTY:
        hot.update(i, gold=i)
    play(hot, orchestrator, fight, "1", "2", "3")
    redis.put(before)
    hot.create(9, **full_core(9))
    hot.update_session("combat", fight, {"round": "live"}, log=["live"])
    reports = orchestrator.backup_many([9, *PARTY])
    assert [r.outcome for r in reports] == ["saved", *["conflict"] * 3]
    assert all(r.sessions == {"combat": "saved"} for r in reports[1:])
    assert rows(engine, "SELECT payload->>'round' FROM sessions") == [("live",)]
    assert rows(engine, "SELECT entry FROM combat_log ORDER BY seq") == [("begin",), ("live",)]
    [state] = lost(engine, fight)
    assert state["session"] == {
        "id": str(fight),
        "session_type": "combat",
        "round": "3",
        "participants": PARTY,
    }
    assert state["log"] == ["begin", "1", "2", "3"]
    cores = "SELECT character_id, state #>> '{character,extra,gold}' FROM state_conflicts"
    assert rows(engine, f"{cores} WHERE reason = '{OLDER}' ORDER BY 1") == [
        (i, str(i)) for i in PARTY
    ]
    # From here on the game goes on as ever: it is saved and comes back.
    assert {r.outcome for r in orchestrator.backup_many(PARTY)} == {"unchanged"}
    play(hot, orchestrator, fight, "on")
    redis.wipe()
    orchestrator.restore_many(PARTY)
    assert hot.get_session("combat", fight).fields["round"] == "on"
    assert hot.read_log("combat", fight) == ["begin", "live", "on"]
    assert len(lost(engine, fight)) == 1


def test_same_version_with_other_content(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    raw: Any,
    keys: Keys,
    engine: Engine,
) -> None:
    play(hot, orchestrator, fight, "saved")
    [(version,)] = rows(engine, "SELECT version FROM sessions")
    key = keys.session("combat", str(fight))
    raw.hset(key, mapping={"version": version - 1, "round": "live"})
    raw.sadd(keys.dirty, 2)
    report = orchestrator.backup_full_state(2)
    assert (report.outcome, report.sessions) == ("conflict", {"combat": "saved"})
    assert [state["session"]["round"] for state in lost(engine, fight)] == ["saved"]
    [(after, now)] = rows(engine, "SELECT version, payload->>'round' FROM sessions")
    assert (after > version, now) == (True, "live")


@pytest.mark.parametrize(
    ("log_of_postgres", "live"),
    [
        ("abcd", "ab"),
        ("abcd", "axyz"),
        ("abcd", "abcdxy"),
        ("abcd", "xbcdef"),
        ("abcd", ""),
    ],
)
def test_log_that_is_another_one(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    redis: Redis,
    fight: UUID,
    engine: Engine,
    log_of_postgres: str,
    live: str,
) -> None:
    before = redis.dump()
    for entry in log_of_postgres:
        play(hot, orchestrator, fight, entry)
    redis.put(before)
    hot.update_session("combat", fight, {"round": "live"}, log=list(live))
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    entries = "SELECT entry FROM combat_log ORDER BY seq"
    assert rows(engine, entries) == [("begin",), *((entry,) for entry in live)]
    assert [state["log"] for state in lost(engine, fight)] == [["begin", *log_of_postgres]]
    redis.wipe()
    orchestrator.restore_full_state(3)
    assert hot.read_log("combat", fight) == ["begin", *live]


def test_fight_went_back_to_other_participants(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    redis: Redis,
    fight: UUID,
    engine: Engine,
    full_core: FullCore,
) -> None:
    """PostgreSQL knows none of the members that the session has in Redis now."""
    hot.create(4, **full_core(4))
    orchestrator.backup_full_state(4)
    before = redis.dump()
    hot.join_session("combat", fight, 4)
    for i in PARTY:
        hot.leave_session("combat", fight, i)
    hot.update_session("combat", fight, {"round": "of 4 alone"}, log=["4"])
    orchestrator.backup_many([*PARTY, 4])
    redis.put(before)
    hot.update_session("combat", fight, {"round": "live"})
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    [state] = lost(engine, fight)
    assert state["session"].get("round") == "of 4 alone"
    assert state["log"] == ["begin", "4"]
    active = "SELECT character_id FROM session_characters WHERE left_at IS NULL ORDER BY 1"
    assert rows(engine, active) == [(i,) for i in PARTY]


def test_fight_that_had_ended_goes_on(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    redis: Redis,
    fight: UUID,
    engine: Engine,
) -> None:
    before = redis.dump()
    play(hot, orchestrator, fight, "1", "2")
    hot.close_session("combat", fight, {"result": "won"})
    assert orchestrator.backup_full_state(1).sessions == {"combat": "closed"}
    redis.put(before)
    hot.update_session("combat", fight, {"round": "live"})
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert rows(engine, "SELECT closed_at, payload->>'round' FROM sessions") == [(None, "live")]
    [state] = lost(engine, fight)
    assert (state["session"].get("round"), state["session"].get("result")) == ("2", "won")
    assert state["log"] == ["begin", "1", "2"]


def test_fight_of_before_is_live_again_and_the_next_one_is_not_lost(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    redis: Redis,
    fight: UUID,
    engine: Engine,
) -> None:
    before = redis.dump()
    hot.close_session("combat", fight)
    orchestrator.backup_many(PARTY)
    following = hot.open_session("combat", PARTY, {"round": "next"})
    hot.update_session("combat", following, log=["next"])
    orchestrator.backup_many(PARTY)
    redis.put(before)
    hot.update_session("combat", fight, {"round": "live"})
    assert {r.outcome for r in orchestrator.backup_many(PARTY)} == {"conflict"}
    state = "SELECT payload->>'round', closed_at IS NULL FROM sessions ORDER BY 1"
    assert rows(engine, state) == [("live", True), ("next", False)]
    entries = f"SELECT entry FROM combat_log WHERE session_id = '{following}'"
    assert rows(engine, entries) == [("next",)]


def item(item_id: str, quantity: int = 1, **attributes: Any) -> State:
    return {"item_id": item_id, "kind": "x", "quantity": quantity, **attributes}


@pytest.mark.parametrize("ended", [False, True])
def test_inventory_that_went_back_loses_no_item(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    redis: Redis,
    fight: UUID,
    engine: Engine,
    *,
    ended: bool,
) -> None:
    bag = hot.open_session("inventory", [1], {"items": [item("a")]})
    orchestrator.backup_full_state(1)
    before = redis.dump()
    items = [item("a", 5), item("b", 1, soul="bound")]
    for count in range(1, 4):
        hot.update_session("inventory", bag, {"items": items[:count], "filters": [count]})
        orchestrator.backup_full_state(1)
    if ended:
        hot.close_session("inventory", bag)
        orchestrator.backup_full_state(1)
    redis.put(before)
    hot.update_session("inventory", bag, {"items": [item("c")]})
    report = orchestrator.backup_full_state(1)
    assert (report.outcome, report.sessions["inventory"]) == ("conflict", "saved")
    assert rows(engine, "SELECT item_id, quantity FROM inventory_items") == [("c", 1)]
    [state] = kept(engine)
    assert state["session"].get("items") == items
    assert state["session"]["filters"] == [3]


def test_quest_that_went_back_keeps_what_it_lost(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    redis: Redis,
    fight: UUID,
    engine: Engine,
) -> None:
    fields = {"quest_id": "q", "graph": {"a": ["b"]}, "node": "a", "variables": {"seen": 1}}
    quest = hot.open_session("scenario", [1, 2], fields)
    orchestrator.backup_full_state(1)
    before = redis.dump()
    for seen in (2, 3):
        hot.update_session("scenario", quest, {"node": "b", "variables": {"seen": seen}})
        orchestrator.backup_full_state(2)
    redis.put(before)
    hot.update_session("scenario", quest, {"variables": {"seen": 9}})
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    progress = "SELECT node, variables FROM scenario_progress ORDER BY character_id"
    assert rows(engine, progress) == [("a", {"seen": 9})] * 2
    [state] = kept(engine)
    want = fields | {"node": "b", "variables": {"seen": 3}, "participants": [1, 2]}
    assert want.items() <= state["session"].items()


class Died(BaseException):
    """A worker is killed here."""


def dies(*_: Any, **__: Any) -> Any:
    raise Died


@pytest.mark.parametrize("repeated_by", [1, 2])
def test_crash_after_the_record_tells_it_once(
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    hot: HotStore,
    redis: Redis,
    fight: UUID,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    repeated_by: int,
) -> None:
    before = redis.dump()
    play(hot, orchestrator, fight, "1", "2", "3")
    redis.put(before)
    hot.update_session("combat", fight, {"round": "live"})
    monkeypatch.setattr(orchestrator.hot.commands, "reconcile_session", dies, raising=False)
    with pytest.raises(Died):
        orchestrator.backup_full_state(1)
    assert len(lost(engine, fight)) == 1
    assert rows(engine, "SELECT payload->>'round' FROM sessions") == [("3",)]
    assert hot.get_session("combat", fight).fields["round"] == "live"
    assert other.backup_full_state(repeated_by).outcome == "conflict"
    assert rows(engine, "SELECT payload->>'round' FROM sessions") == [("live",)]
    assert [state["session"]["round"] for state in lost(engine, fight)] == ["3"]


def test_crash_after_the_version_was_raised_saves_the_live_side_later(
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    hot: HotStore,
    redis: Redis,
    fight: UUID,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = redis.dump()
    play(hot, orchestrator, fight, "1", "2", "3")
    redis.put(before)
    hot.update_session("combat", fight, {"round": "live"}, log=["live"])
    run_many = orchestrator.hot.run_many

    def and_dies(todo: Any) -> Any:
        replies = run_many(todo)
        if any(b"the row's version" in command.script.source for command in todo):
            raise Died
        return replies

    monkeypatch.setattr(orchestrator.hot, "run_many", and_dies)
    with pytest.raises(Died):
        orchestrator.backup_full_state(1)
    assert all(hot.sync_state(i).dirty or hot.sync_state(i).token for i in PARTY)
    assert other.backup_full_state(2).outcome in ("saved", "conflict")
    assert rows(engine, "SELECT payload->>'round' FROM sessions") == [("live",)]
    assert hot.read_log("combat", fight) == ["begin", "live"]
    entries = "SELECT entry FROM combat_log ORDER BY seq"
    assert rows(engine, entries) == [("begin",), ("live",)]
    assert [state["session"]["round"] for state in lost(engine, fight)] == ["3"]


def test_two_workers_meet_the_same_conflict(
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    hot: HotStore,
    redis: Redis,
    fight: UUID,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = redis.dump()
    play(hot, orchestrator, fight, "1", "2", "3")
    redis.put(before)
    hot.update_session("combat", fight, {"round": "live"})
    commands = orchestrator.hot.commands

    def after_the_other(session_type: str, session: UUID, version: int) -> Any:
        monkeypatch.undo()
        assert other.backup_full_state(2).outcome == "conflict"
        return commands.reconcile_session(session_type, session, version=version)

    monkeypatch.setattr(commands, "reconcile_session", after_the_other, raising=False)
    assert orchestrator.backup_full_state(1).outcome in ("superseded", "stale", "conflict")
    assert rows(engine, "SELECT payload->>'round' FROM sessions") == [("live",)]
    assert hot.status().claimed == 0
    assert {r.outcome for r in orchestrator.backup_many(PARTY)} <= {"saved", "unchanged"}
    assert {state["session"]["round"] for state in lost(engine, fight)} == {"3"}


def test_type_that_cannot_load_the_losing_side_holds_up_no_other_group(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    redis: Redis,
    fight: UUID,
    engine: Engine,
    full_core: FullCore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = redis.dump()
    play(hot, orchestrator, fight, "1", "2", "3")
    redis.put(before)
    hot.update_session("combat", fight, {"round": "live"})
    hot.create(9, **full_core(9))

    def fails(*_: Any) -> Any:
        raise KeyError("a field that an older game did not have")

    monkeypatch.setattr(orchestrator.sessions["combat"], "load", fails)
    reports = orchestrator.backup_many([*PARTY, 9])
    assert reports[3].outcome == "saved"
    assert rows(engine, "SELECT payload->>'round' FROM sessions") == [("3",)]
    assert {r.outcome for r in reports[:3]} == {"quarantined"}
