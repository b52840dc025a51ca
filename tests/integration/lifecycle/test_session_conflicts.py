"""Redis went back, PostgreSQL holds a newer session: the rows are right, for all who are tied.

What was live is recorded whole and once, at whatever step a worker dies.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from statesync.errors import SessionNotFound
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle import revert
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.revert import record_dropped
from tests.conftest import FullCore
from tests.rewind import Rewind, lost_cores, lost_logs, lost_sessions

PARTY = [1, 2, 3]
State = dict[str, Any]


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


def rounds(engine: Engine) -> list[str | None]:
    """Return the rounds of the fights that were lost."""
    return [session.get("round") for _, session in lost_sessions(engine)]


def play(hot: HotStore, orchestrator: GameStateOrchestrator, fight: UUID, *turns: str) -> None:
    """Play on, saved after each turn."""
    for turn in turns:
        hot.update_session("combat", fight, {"round": turn}, log=[turn])
        orchestrator.backup_many(PARTY)


def is_settled(hot: HotStore, raw: Any) -> bool:
    """Return whether nothing is left to be saved or recorded."""
    keys = hot.keys
    left = [*raw.scan_iter(f"{keys.prefix}statesync:dropped*")]
    return hot.status()[:3] == (0, 0, 0) and not left


def test_whole_party_went_back_and_both_histories_are_kept(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    rewind: Rewind,
    fight: UUID,
    engine: Engine,
    full_core: FullCore,
    raw: Any,
) -> None:
    before = rewind.moment()
    for i in PARTY:
        hot.update(i, gold=i)
    play(hot, orchestrator, fight, "1", "2", "3")
    saved = rows(engine, "SELECT version, seal, payload, digest FROM sessions")
    rewind.to(before)
    hot.create(9, **full_core(9))
    for turn in range(9):
        hot.update_session("combat", fight, {"round": f"live {turn}"}, log=["live"])
    reports = orchestrator.backup_many([9, *PARTY])
    assert [r.outcome for r in reports] == ["saved", *["conflict"] * 3]
    assert rows(engine, "SELECT version, seal, payload, digest FROM sessions") == saved
    assert hot.get_session("combat", fight).fields["round"] == "3"
    assert hot.read_log("combat", fight) == ["begin", "1", "2", "3"]
    assert [hot.get(i).fields["gold"] for i in PARTY] == ["1", "2", "3"]
    assert [i for i, _ in lost_cores(engine)] == PARTY
    assert all("gold" not in core and core["combat_session_id"] for _, core in lost_cores(engine))
    [(session_id, session)] = lost_sessions(engine)
    assert (session_id, session["round"]) == (fight, "live 8")
    assert json.loads(session["participants"]) == PARTY
    assert [[json.loads(one) for one in log] for log in lost_logs(engine)] == [
        ["begin", *["live"] * 9]
    ]
    assert is_settled(hot, raw)
    # From here on the game goes on as ever: it is saved and comes back.
    assert {r.outcome for r in orchestrator.backup_many(PARTY)} == {"unchanged"}
    play(hot, orchestrator, fight, "on")
    rewind.wipe()
    orchestrator.restore_many(PARTY)
    assert hot.get_session("combat", fight).fields["round"] == "on"
    assert hot.read_log("combat", fight) == ["begin", "1", "2", "3", "on"]
    assert len(lost_sessions(engine)) == 1


@pytest.mark.parametrize("down_by", [1, 2])
def test_number_of_a_session_that_a_writer_has_put_back_rises_and_is_saved(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    fight: UUID,
    raw: Any,
    keys: Keys,
    engine: Engine,
    down_by: int,
) -> None:
    play(hot, orchestrator, fight, "1", "saved")
    [(version,)] = rows(engine, "SELECT version FROM sessions")
    key = keys.session("combat", str(fight))
    raw.hset(key, mapping={"version": version - down_by, "round": "live"})
    raw.sadd(keys.dirty, 2)
    report = orchestrator.backup_full_state(2)
    assert (report.outcome, report.sessions) == ("saved", {"combat": "saved"})
    [(after, now)] = rows(engine, "SELECT version, payload->>'round' FROM sessions")
    assert (after > version, now) == (True, "live")
    assert hot.get_session("combat", fight).version == after
    assert lost_sessions(engine) == []


def test_id_of_a_closed_session_may_be_used_again(
    orchestrator: GameStateOrchestrator, hot: HotStore, fight: UUID, engine: Engine
) -> None:
    for turn in range(5):
        hot.update_session("combat", fight, {"turn": str(turn)})
        orchestrator.backup_full_state(1)
    hot.close_session("combat", fight)
    orchestrator.backup_full_state(1)
    hot.open_session("combat", [1], {"turn": "again"}, session_id=fight)
    assert orchestrator.backup_full_state(1).outcome == "saved"
    assert hot.get_session("combat", fight).fields["turn"] == "again"
    with engine.connect() as connection:
        query = "SELECT payload->>'turn', closed_at FROM sessions"
        assert connection.execute(text(query)).all() == [("again", None)]
        query = "SELECT count(*) FROM state_conflicts WHERE divergence IS NOT NULL"
        assert connection.execute(text(query)).scalar() == 0


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
    rewind: Rewind,
    fight: UUID,
    engine: Engine,
    log_of_postgres: str,
    live: str,
) -> None:
    before = rewind.moment()
    for entry in log_of_postgres:
        play(hot, orchestrator, fight, entry)
    rewind.to(before)
    hot.update_session("combat", fight, {"round": "live"}, log=list(live))
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    entries = "SELECT entry FROM combat_log ORDER BY seq"
    assert rows(engine, entries) == [("begin",), *((entry,) for entry in log_of_postgres)]
    assert hot.read_log("combat", fight) == ["begin", *log_of_postgres]
    assert lost_logs(engine) == [[f'"{entry}"' for entry in ("begin", *live)]]


def test_log_of_the_same_length_is_another_one(
    orchestrator: GameStateOrchestrator, hot: HotStore, rewind: Rewind, fight: UUID, engine: Engine
) -> None:
    before = rewind.moment()
    hot.update_session("combat", fight, log=["a", "b"])
    orchestrator.backup_full_state(1)
    rewind.to(before)
    hot.update_session("combat", fight, log=["x", "y"])
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert hot.read_log("combat", fight) == ["begin", "a", "b"]
    assert lost_logs(engine) == [['"begin"', '"x"', '"y"']]


def test_long_log_comes_back_whole(
    orchestrator: GameStateOrchestrator, hot: HotStore, rewind: Rewind, fight: UUID, engine: Engine
) -> None:
    before = rewind.moment()
    hot.update_session("combat", fight, log=list(range(2500)))
    orchestrator.backup_full_state(1)
    rewind.to(before)
    hot.update_session("combat", fight, log=list(range(1500, 3900)))
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert hot.read_log("combat", fight) == ["begin", *range(2500)]
    [log] = lost_logs(engine)
    assert log == ['"begin"', *map(str, range(1500, 3900))]


@pytest.mark.parametrize("is_loaded", [True, False])
def test_fight_went_back_to_other_participants(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    rewind: Rewind,
    fight: UUID,
    engine: Engine,
    full_core: FullCore,
    *,
    is_loaded: bool,
) -> None:
    """PostgreSQL knows none of the members that the session has in Redis."""
    hot.create(4, **full_core(4))
    orchestrator.backup_full_state(4)
    if not is_loaded:
        orchestrator.evict(4)
    before = rewind.moment()
    orchestrator.restore_full_state(4)
    hot.join_session("combat", fight, 4)
    for i in PARTY:
        hot.leave_session("combat", fight, i)
    hot.update_session("combat", fight, {"round": "of 4 alone"}, log=["4"])
    orchestrator.backup_many([*PARTY, 4])
    rewind.to(before)
    hot.update_session("combat", fight, {"round": "live"})
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert rounds(engine) == ["live"]
    assert all(not hot.get(i).sessions for i in PARTY)
    orchestrator.restore_full_state(4)
    assert hot.get(4).sessions == {"combat": fight}
    assert hot.get_session("combat", fight).fields["round"] == "of 4 alone"
    assert hot.get_session("combat", fight).participants == (4,)
    assert hot.read_log("combat", fight) == ["begin", "4"]
    active = "SELECT character_id FROM session_characters WHERE left_at IS NULL ORDER BY 1"
    assert rows(engine, active) == [(4,)]


def test_member_that_is_not_loaded_can_log_in_after_a_revert(
    orchestrator: GameStateOrchestrator, hot: HotStore, rewind: Rewind, fight: UUID
) -> None:
    orchestrator.evict(3)
    before = rewind.moment()
    play(hot, orchestrator, fight, "1")
    rewind.to(before)
    hot.update_session("combat", fight, {"round": "live"})
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert orchestrator.restore_full_state(3).outcome == "restored"
    assert hot.get(3).sessions == {"combat": fight}
    assert hot.get_session("combat", fight).fields["round"] == "1"


def test_fight_that_had_ended_does_not_go_on(
    orchestrator: GameStateOrchestrator, hot: HotStore, rewind: Rewind, fight: UUID, engine: Engine
) -> None:
    before = rewind.moment()
    play(hot, orchestrator, fight, "1", "2")
    hot.close_session("combat", fight, {"result": "won"})
    assert orchestrator.backup_full_state(1).sessions == {"combat": "closed"}
    saved = rows(engine, "SELECT closed_at, payload FROM sessions")
    rewind.to(before)
    hot.update_session("combat", fight, {"round": "live"})
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert rows(engine, "SELECT closed_at, payload FROM sessions") == saved
    assert rounds(engine) == ["live"]
    with pytest.raises(SessionNotFound):
        hot.get_session("combat", fight)
    assert all(not hot.get(i).sessions for i in PARTY)
    assert {r.outcome for r in orchestrator.backup_many(PARTY)} <= {"saved", "unchanged"}
    assert rows(engine, "SELECT closed_at, payload FROM sessions") == saved


def test_fight_of_before_goes_and_the_next_one_is_live_again(
    orchestrator: GameStateOrchestrator, hot: HotStore, rewind: Rewind, fight: UUID, engine: Engine
) -> None:
    before = rewind.moment()
    hot.close_session("combat", fight)
    orchestrator.backup_many(PARTY)
    following = hot.open_session("combat", PARTY, {"round": "next"})
    hot.update_session("combat", following, log=["next"])
    orchestrator.backup_many(PARTY)
    rewind.to(before)
    hot.update_session("combat", fight, {"round": "live"})
    assert {r.outcome for r in orchestrator.backup_many(PARTY)} == {"conflict"}
    state = "SELECT payload->>'round', closed_at IS NULL FROM sessions ORDER BY 1"
    assert rows(engine, state) == [("0", False), ("next", True)]
    assert [hot.get(i).sessions for i in PARTY] == [{"combat": following}] * 3
    assert hot.read_log("combat", following) == ["next"]
    assert lost_sessions(engine)[0][0] == fight
    assert rounds(engine) == ["live"]


def item(item_id: str, quantity: int = 1, **attributes: Any) -> State:
    return {"item_id": item_id, "kind": "x", "quantity": quantity, **attributes}


@pytest.mark.parametrize("ended", [False, True])
def test_inventory_that_went_back_doubles_and_loses_no_item(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    rewind: Rewind,
    fight: UUID,
    engine: Engine,
    *,
    ended: bool,
) -> None:
    bag = hot.open_session("inventory", [1], {"items": [item("a")]})
    orchestrator.backup_full_state(1)
    before = rewind.moment()
    items = [item("a", 5), item("b", 1, soul="bound")]
    for count in range(1, 4):
        hot.update_session("inventory", bag, {"items": items[:count], "filters": [count]})
        orchestrator.backup_full_state(1)
    if ended:
        hot.close_session("inventory", bag)
        orchestrator.backup_full_state(1)
    held = rows(engine, "SELECT item_id, quantity FROM inventory_items ORDER BY 1")
    rewind.to(before)
    hot.update_session("inventory", bag, {"items": [item("c")]})
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert rows(engine, "SELECT item_id, quantity FROM inventory_items ORDER BY 1") == held
    lost = dict(lost_sessions(engine))
    assert json.loads(lost[bag]["items"]) == [item("c")]
    if ended:
        assert "inventory" not in hot.get(1).sessions
    else:
        assert hot.get_session("inventory", bag).fields["items"] == items


def test_quest_that_went_back_is_as_its_row(
    orchestrator: GameStateOrchestrator, hot: HotStore, rewind: Rewind, fight: UUID, engine: Engine
) -> None:
    fields = {"quest_id": "q", "graph": {"a": ["b"]}, "node": "a", "variables": {"seen": 1}}
    quest = hot.open_session("scenario", [1, 2], fields)
    orchestrator.backup_full_state(1)
    before = rewind.moment()
    for seen in (2, 3):
        hot.update_session("scenario", quest, {"node": "b", "variables": {"seen": seen}})
        orchestrator.backup_full_state(2)
    rewind.to(before)
    hot.update_session("scenario", quest, {"variables": {"seen": 9}})
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    progress = "SELECT node, variables FROM scenario_progress ORDER BY character_id"
    assert rows(engine, progress) == [("b", {"seen": 3})] * 2
    live = hot.get_session("scenario", quest).fields
    assert (live["node"], live["variables"]) == ("b", {"seen": 3})
    lost = dict(lost_sessions(engine))
    assert (lost[quest]["node"], lost[quest]["variables"]) == ("a", '{"seen":9}')


class Died(BaseException):
    """A worker is killed here."""


def dies(*_: Any, **__: Any) -> Any:
    raise Died


def dies_at(step: str) -> Any:
    def die(name: str) -> None:
        if name == step:
            raise Died

    return die


@pytest.mark.parametrize("step", ["reverted", "recorded"])
def test_what_a_worker_drops_and_dies_is_recorded_once_by_another(
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    hot: HotStore,
    rewind: Rewind,
    fight: UUID,
    engine: Engine,
    raw: Any,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    before = rewind.moment()
    play(hot, orchestrator, fight, "1", "2", "3")
    rewind.to(before)
    hot.update_session("combat", fight, {"round": "live"}, log=["live"])
    with monkeypatch.context() as patched:
        patched.setattr(revert, "failpoint", dies_at(step))
        with pytest.raises(Died):
            orchestrator.backup_full_state(1)
    assert rounds(engine) == ([] if step == "reverted" else ["live"])
    assert hot.get_session("combat", fight).fields["round"] == "3"
    assert [*raw.scan_iter(f"{hot.keys.prefix}statesync:dropped*")]
    record_dropped(other.hot, engine)
    record_dropped(other.hot, engine)
    assert rounds(engine) == ["live"]
    assert [i for i, _ in lost_cores(engine)] == PARTY
    assert lost_logs(engine) == [['"begin"', '"live"']]
    assert {r.outcome for r in other.backup_many(PARTY)} == {"unchanged"}
    assert is_settled(hot, raw)


def test_worker_that_dies_before_the_revert_has_changed_nothing(
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    hot: HotStore,
    rewind: Rewind,
    fight: UUID,
    engine: Engine,
    raw: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = rewind.moment()
    play(hot, orchestrator, fight, "1", "2", "3")
    rewind.to(before)
    hot.update_session("combat", fight, {"round": "live"}, log=["live"])
    monkeypatch.setattr(orchestrator.hot, "revert", dies, raising=False)
    with pytest.raises(Died):
        orchestrator.backup_full_state(1)
    assert rounds(engine) == []
    assert hot.get_session("combat", fight).fields["round"] == "live"
    assert all(hot.sync_state(i).dirty or hot.sync_state(i).token for i in PARTY)
    assert other.backup_full_state(2).outcome == "conflict"
    assert rounds(engine) == ["live"]
    assert hot.read_log("combat", fight) == ["begin", "1", "2", "3"]
    assert is_settled(hot, raw)


def test_two_workers_meet_the_same_conflict(
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    hot: HotStore,
    rewind: Rewind,
    fight: UUID,
    engine: Engine,
    raw: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = rewind.moment()
    play(hot, orchestrator, fight, "1", "2", "3")
    rewind.to(before)
    hot.update_session("combat", fight, {"round": "live"})
    revert_it = orchestrator.hot.revert

    def after_the_other(group: Any) -> Any:
        monkeypatch.undo()
        assert other.backup_full_state(2).outcome == "conflict"
        hot.update_session("combat", fight, {"round": "4"})
        return revert_it(group)

    monkeypatch.setattr(orchestrator.hot, "revert", after_the_other, raising=False)
    assert orchestrator.backup_full_state(1).outcome in ("superseded", "stale")
    assert hot.get_session("combat", fight).fields["round"] == "4"
    assert rounds(engine) == ["live"]
    assert {r.outcome for r in orchestrator.backup_many(PARTY)} == {"saved"}
    assert rows(engine, "SELECT payload->>'round' FROM sessions") == [("4",)]
    assert is_settled(hot, raw)


def test_type_that_cannot_load_the_rows_holds_up_no_other_group(
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    rewind: Rewind,
    fight: UUID,
    engine: Engine,
    full_core: FullCore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = rewind.moment()
    play(hot, orchestrator, fight, "1", "2", "3")
    rewind.to(before)
    hot.update_session("combat", fight, {"round": "live"})
    hot.create(9, **full_core(9))

    def fails(*_: Any) -> Any:
        raise KeyError("a field that an older game did not have")

    monkeypatch.setattr(orchestrator.sessions["combat"], "load", fails)
    reports = orchestrator.backup_many([*PARTY, 9])
    assert reports[3].outcome == "saved"
    assert {r.outcome for r in reports[:3]} == {"quarantined"}
    assert orchestrator.backup_full_state(1).outcome == "quarantined"
    assert rows(engine, "SELECT payload->>'round' FROM sessions") == [("3",)]
    assert hot.get_session("combat", fight).fields["round"] == "live"
    monkeypatch.undo()
    assert orchestrator.backup_full_state(1).outcome == "conflict"
    assert rounds(engine) == ["live"]
    assert hot.list_quarantine() == (0, [])
