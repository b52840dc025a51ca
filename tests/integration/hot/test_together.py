"""What is changed together: all or nothing, if it is as expected; tied, and saved as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text

from statesync import GameStateOrchestrator, Settings, Together
from statesync.errors import (
    CharacterNotLoaded,
    CorruptState,
    GroupTooLarge,
    InvalidField,
    InvalidInput,
    PreconditionFailed,
    SessionClosed,
    SessionNotFound,
)
from statesync.hot.keys import Keys
from statesync.hot.members import MAX_TIED
from statesync.hot.store import HotStore
from statesync.state.fields import TIE_FIELD
from tests.conftest import Driver
from tests.integration.hot.acks import CoreAck, acknowledge_group


@pytest.fixture
def players(store: Driver) -> Driver:
    """Four characters with 100 gold each, clean."""
    for char_id in (1, 2, 3, 4):
        store.create(char_id, gold=100)
    store.raw.delete(store.keys.dirty, store.keys.since)
    return store


def gold(store: Any, *char_ids: int) -> list[int]:
    return [int(store.get(char_id).fields["gold"]) for char_id in char_ids]


def ties(raw: Any, keys: Keys) -> list[dict[str, str]]:
    """Return what every tie holds, sorted."""
    found = [raw.hgetall(key) for key in raw.scan_iter(keys.tie("*"))]
    return sorted(({k.decode(): v.decode() for k, v in one.items()} for one in found), key=sorted)


def everything(store: Driver) -> dict[str, Any]:
    """Return all that Redis holds under the test's prefix."""
    type_names = {"hash": store.raw.hgetall, "list": lambda key: store.raw.lrange(key, 0, -1)}
    type_names |= {"set": store.raw.smembers, "string": store.raw.get}
    type_names |= {"zset": lambda key: store.raw.zrange(key, 0, -1)}
    return {
        key: type_names[store.raw.type(key).decode()](key)
        for key in store.raw.keys(f"{store.keys.prefix}*")
    }


# One step, all or nothing


def test_all_changes_and_all_are_marked(players: Driver) -> None:
    assert players.update_together({1: {"gold": 90}, 2: {"gold": 110, "guild": "x"}}) == {
        1: 2,
        2: 2,
    }
    assert gold(players, 1, 2, 3) == [90, 110, 100]
    assert players.raw.smembers(players.keys.dirty) == {b"1", b"2"}
    assert players.raw.zcard(players.keys.since) == 2


def test_builder_gathers_what_is_said_of_one(players: Driver) -> None:
    trade = Together().update(1, gold=1).expect(1, gold=100).update(1, guild="y").update(2)
    assert players.update_together(trade) == {1: 2, 2: 2}
    assert players.get(1).fields == {"gold": "1", "guild": "y"}


@pytest.mark.parametrize(
    ("trade", "error"),
    [
        (lambda _: Together().update(1, gold=0).update(99, gold=1), CharacterNotLoaded),
        (lambda _: Together().update(1, gold=0).expect(2, gold=99), PreconditionFailed),
        (lambda _: Together().update(1, gold=0).expect(2, version=7), PreconditionFailed),
        (lambda _: Together().update(1, gold=0).expect(2, guild="x"), PreconditionFailed),
        (lambda _: Together().update(1, gold=0).expect(2, gold=None), PreconditionFailed),
        (lambda _: Together().update(1, gold=0).expect(99, guild=None), CharacterNotLoaded),
        (lambda _: Together().update(1, gold=0).update_session("combat", uuid4()), SessionNotFound),
        (
            lambda f: Together().update(1, gold=0).expect_session("combat", f, {"turn": "2"}),
            PreconditionFailed,
        ),
        (
            lambda f: Together().update(1, gold=0).expect_session("combat", f, version=5),
            PreconditionFailed,
        ),
        (
            lambda f: Together().update_session("combat", f, {"turn": "9"}, log=["x"]).update(99),
            CharacterNotLoaded,
        ),
    ],
)
def test_refused_is_nothing_changed(
    players: Driver, trade: Callable[[UUID], Together], error: type[Exception]
) -> None:
    fight = players.open_session("combat", [3, 4], {"turn": "1"})
    before = everything(players)
    with pytest.raises(error):
        players.update_together(trade(fight))
    assert everything(players) == before


def test_refusal_names_whose_what_and_how(players: Driver) -> None:
    with pytest.raises(PreconditionFailed) as failed:
        players.update_together(Together().expect(1, gold=500).update(1, gold=0).update(2))
    assert failed.value.args == ("character 1", "gold", "500", "100")
    assert str(failed.value) == "character 1, field 'gold': expected '500', found '100'"


def test_own_fields_may_have_any_name(players: Driver) -> None:
    own: dict[str, Any] = {"version": 3, "durable": "x", TIE_FIELD: "y"}
    trade = Together().update(1, own).update(2, {"version": "z"}).expect(1, {"version": None})
    assert players.update_together(trade.expect(1, version=1)) == {1: 2, 2: 2}
    assert players.get(1).fields == {"gold": "100", "version": "3", "durable": "x", TIE_FIELD: "y"}
    assert players.update_together({1: {"version": 4}}) == {1: 3}
    again = Together().expect(1, {"version": "4", "durable": "x"}, version=3).update(1, version=5)
    assert players.update_together(again) == {1: 4}
    assert players.get(1).fields["version"] == "5"


def test_none_deletes_and_expects_absence(players: Driver) -> None:
    players.update(1, guild="x")
    trade = Together().expect(1, guild="x", rank=None).update(1, guild=None).update(2, guild="x")
    players.update_together(trade)
    assert players.get(1).fields == {"gold": "100"}
    assert players.get(2).fields == {"gold": "100", "guild": "x"}
    with pytest.raises(PreconditionFailed):
        players.update_together(trade)
    players.update_together({1: {"guild": "y"}, 2: {"guild": None, "gold": 0}})
    assert players.get(1).fields == {"gold": "100", "guild": "y"}
    assert players.get(2).fields == {"gold": "0"}
    last = Together().expect(2, {"state": None, "stats": None, "guild": None}).update(2, gold=1)
    players.update_together(last.update(2, gold=None))
    assert players.get(2).fields == {}


def test_session_that_closed_meanwhile_refuses_the_trade(players: Driver) -> None:
    window = players.open_session("combat", [1, 2], {"turn": "1"})
    trade = Together().update(1, gold=0).update(2, gold=200).close_session("combat", window)
    players.update_together(trade)
    before = everything(players)
    with pytest.raises(SessionClosed):
        players.update_together(trade)
    assert everything(players) == before


def test_expected_values_are_compared_as_values(players: Driver) -> None:
    fight = players.open_session("combat", [3], {"monsters": [{"id": "orc", "hp": 3}]})
    players.raw.hset(players.keys.core(1), "stats", '{ "luck":1,  "wisdom": 2}')
    players.raw.hset(
        players.keys.session("combat", str(fight)), "monsters", '[ {"hp":3, "id":"orc"} ]'
    )
    trade = (
        Together()
        .expect(1, stats={"wisdom": 2, "luck": 1}, guild=None)
        .expect_session("combat", fight, {"monsters": [{"id": "orc", "hp": 3}], "loot": None})
        .update(2, gold=0)
    )
    assert players.update_together(trade) == {2: 2}
    with pytest.raises(PreconditionFailed, match="field 'stats'"):
        players.update_together(Together().expect(1, stats={"wisdom": 2, "luck": 2}).update(2))


def test_what_is_only_expected_is_not_changed(players: Driver) -> None:
    players.update_together(Together().expect(1, gold=100).update(2, gold=0))
    assert players.get(1).version == 1
    assert players.raw.smembers(players.keys.dirty) == {b"2"}
    assert ties(players.raw, players.keys) == []


def test_sent_twice_it_changes_once(players: Driver) -> None:
    fight = players.open_session("combat", [1, 2], {"turn": "1"})
    trade = (
        Together()
        .expect(1, gold=100)
        .update(1, gold=0)
        .update(2, gold=200)
        .update_session("combat", fight, {"turn": "2"}, log=[{"paid": 100}])
    )
    command = players.store.commands.update_together(trade)
    first = players.run(command)
    assert players.run(command) == first == {1: 3, 2: 3}
    assert players.read_log("combat", fight) == [{"paid": 100}]


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: {}, InvalidInput, "nothing is to be changed"),
        (lambda: Together().expect(1, gold=1), InvalidInput, "nothing is to be changed"),
        (lambda: {0: {"gold": 1}}, InvalidInput, "not a character id"),
        (lambda: {i: {} for i in range(1, 99)}, InvalidInput, "98 characters .* at most 64"),
        (lambda: Together().update(1, {"gold": 1}, gold=2), InvalidInput, "'gold' is given twice"),
        (lambda: Together().expect(1, {"gold": 1}, gold=2), InvalidInput, "'gold' is given twice"),
        (lambda: Together().expect(1, version=-1), InvalidInput, "expected version"),
        (lambda: Together().update_session("inventory", uuid4(), log=[1]), InvalidInput, "no log"),
        (lambda: Together().update_session("combat", "x"), InvalidInput, "must be a UUID"),
        (
            lambda: Together().update_session("combat", uuid4(), {"participants": [1]}),
            InvalidField,
            "join_session",
        ),
        (
            lambda: Together().update_session("combat", uuid4(), {"a\0": "x"}),
            InvalidField,
            "NUL",
        ),
        (
            lambda: Together().update_session("combat", uuid4(), {"\ud800": "x"}),
            InvalidField,
            "surrogate",
        ),
    ],
)
def test_bad_input_is_named(
    players: Driver, build: Callable[[], Any], error: type[Exception], match: str
) -> None:
    before = everything(players)
    with pytest.raises(error, match=match):
        players.update_together(build())
    assert everything(players) == before


@pytest.mark.parametrize("version", ["x", "-1", "007", "9007199254740991", ""])
def test_version_that_cannot_be_raised_is_refused_before_anything_is_written(
    players: Driver, version: str
) -> None:
    fight = players.open_session("combat", [3, 4], {"turn": "1"})
    players.raw.hset(players.keys.core(2), "version", version)
    before = everything(players)
    for call, *args in (
        (players.update_together, {1: {"gold": 0}, 2: {"gold": 1}}),
        (players.open_session, "combat", [1, 2], {}),
        (players.join_session, "combat", fight, 2),
    ):
        with pytest.raises(CorruptState, match=r"character 2, field 'version'"):
            call(*args)
    assert everything(players) == before


# Ties


def test_trades_tie_and_ties_that_meet_are_one(players: Driver) -> None:
    players.update_together({1: {}, 2: {}})
    players.update_together({3: {}, 4: {}})
    one, other = ties(players.raw, players.keys)
    assert (set(one), set(other)) == ({"1", "2"}, {"3", "4"})
    players.update_together({2: {}, 3: {}})
    (together,) = ties(players.raw, players.keys)
    assert set(together) == {"1", "2", "3", "4"}
    assert together["1"] == one["1"] != together["2"] == together["3"]
    named = {players.raw.hget(players.keys.core(i), TIE_FIELD) for i in (1, 2, 3, 4)}
    found = [*players.raw.scan_iter(players.keys.tie("*"))]
    assert [players.keys.tie(tie.decode()).encode() for tie in named] == found
    assert players.get(1).fields == {"gold": "100"}, "a tie is not shown"


def test_one_alone_is_not_tied(players: Driver) -> None:
    players.update_together({1: {"gold": 5}})
    assert ties(players.raw, players.keys) == []


def test_too_many_are_refused_and_nothing_changes(store: Driver) -> None:
    for char_id in range(1, MAX_TIED + 3):
        store.create(char_id)
    for char_id in range(1, MAX_TIED):
        store.update_together({char_id: {}, char_id + 1: {}})
    before = everything(store)
    with pytest.raises(GroupTooLarge) as full:
        store.update_together({MAX_TIED: {}, MAX_TIED + 1: {}})
    assert set(full.value.char_ids) >= {MAX_TIED, MAX_TIED + 1}
    assert everything(store) == before


def test_trade_within_a_large_tie_is_no_larger(store: Driver) -> None:
    crowd = range(1, MAX_TIED - 1)
    for char_id in crowd:
        store.create(char_id)
    store.update_together({char_id: {} for char_id in crowd})
    store.update_together({1: {"gold": 0}, 2: {"gold": 2}})
    assert store.get(2).fields["gold"] == "2"


# Saved as one


@pytest.fixture
def four(hot: HotStore, orchestrator: GameStateOrchestrator) -> HotStore:
    for char_id in (1, 2, 3, 4):
        hot.create(char_id, gold=100)
    orchestrator.backup_many([1, 2, 3, 4])
    return hot


def saved_gold(engine: Engine) -> dict[int, int]:
    with engine.connect() as connection:
        found = connection.execute(text("SELECT id, (extra->>'gold')::int FROM characters"))
        return {row[0]: row[1] for row in found}


def test_saving_one_saves_all_that_are_tied_to_it(
    four: HotStore, orchestrator: GameStateOrchestrator, engine: Engine, raw: Any, keys: Keys
) -> None:
    four.update_together({1: {"gold": 0}, 2: {"gold": 200}})
    four.update_together({2: {"gold": 0}, 3: {"gold": 300}})
    four.update(4, gold=1)
    assert orchestrator.backup_full_state(1).outcome == "saved"
    assert saved_gold(engine) == {1: 0, 2: 0, 3: 300, 4: 100}
    assert ties(raw, keys) == []
    assert not any(raw.hexists(keys.core(i), TIE_FIELD) for i in (1, 2, 3))
    assert raw.smembers(keys.dirty) == {b"4"}
    assert not raw.exists(keys.claimed)


def test_session_that_took_part_is_saved_with_them(
    four: HotStore, orchestrator: GameStateOrchestrator, engine: Engine, raw: Any, keys: Keys
) -> None:
    sword = {"item_id": "sword", "kind": "sword", "quantity": 1}
    chest = four.open_session("inventory", [2], {"items": [sword]})
    orchestrator.backup_full_state(2)
    loot = Together().update_session("inventory", chest, {"items": []}).update(1, gold=7)
    four.update_together(loot)
    (tie,) = ties(raw, keys)
    assert set(tie) == {"1", "2", f"inventory:{chest}"}
    orchestrator.backup_full_state(1)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM inventory_items")).scalar() == 0
    assert saved_gold(engine)[1] == 7
    assert ties(raw, keys) == []
    assert not raw.hexists(keys.session("inventory", str(chest)), TIE_FIELD)


def test_what_is_tied_anew_after_the_snapshot_stays_tied(
    four: HotStore, orchestrator: GameStateOrchestrator, raw: Any, keys: Keys, engine: Engine
) -> None:
    four.update_together({1: {"gold": 0}, 2: {"gold": 200}})
    claim, _ = four.claim(1, lease_us=120_000_000)
    snapshot = four.snapshot(claim)
    assert set(snapshot.cores) == {1, 2}
    four.update_together({2: {"gold": 150}, 3: {"gold": 150}})
    other = CoreAck(snapshot.claims[2], 3, 3)
    acknowledge_group(
        four,
        claim,
        snapshot_version=3,
        durable_version=3,
        at_ms=snapshot.at_ms,
        seal=snapshot.seal,
        others=[other],
        ties=snapshot.ties,
    )
    (left,) = ties(raw, keys)
    assert set(left) == {"2", "3"}
    assert not raw.hexists(keys.core(1), TIE_FIELD)
    orchestrator.backup_full_state(3)
    assert saved_gold(engine) == {1: 100, 2: 150, 3: 150, 4: 100}


def test_character_that_logged_out_leaves_its_tie_behind(
    four: HotStore, orchestrator: GameStateOrchestrator, raw: Any, keys: Keys
) -> None:
    four.update_together({1: {"gold": 0}, 2: {"gold": 200}})
    orchestrator.evict(1)
    four.update_together({2: {"gold": 150}, 3: {"gold": 150}})
    orchestrator.restore_full_state(1)
    orchestrator.backup_many([1, 2, 3])
    assert ties(raw, keys) == []
    assert four.get(1).fields["gold"] == "0"


def test_garbage_in_a_tie_is_named_and_blocks_no_other(
    four: HotStore, orchestrator: GameStateOrchestrator, raw: Any, keys: Keys
) -> None:
    raw.hset(keys.core(1), TIE_FIELD, "junk")
    tie = str(uuid4())
    raw.hset(keys.core(2), TIE_FIELD, tie)
    raw.hset(keys.tie(tie), "casino:junk", "1")
    third = str(uuid4())
    raw.hset(keys.core(3), TIE_FIELD, third)
    raw.set(keys.tie(third), "x")
    four.update(4, gold=1)
    reports = orchestrator.backup_many([1, 2, 3, 4])
    assert [r.outcome for r in reports] == ["quarantined"] * 3 + ["saved"]
    assert reports[0].field == TIE_FIELD


def test_trade_of_a_deleted_character_leaves_no_tie(
    four: HotStore, orchestrator: GameStateOrchestrator, engine: Engine, raw: Any, keys: Keys
) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE characters SET deleted_at = now() WHERE id = 1"))
    four.update_together({1: {"gold": 0}, 2: {"gold": 200}})
    assert [r.outcome for r in orchestrator.backup_many([1, 2])] == ["conflict", "conflict"]
    assert ties(raw, keys) == []
    assert gold(four, 2) == [100], "what is tied to it is as its row again"
    assert four.peek(1) is None


def test_durable_needs_a_game_store(four: HotStore, settings: Settings) -> None:
    with pytest.raises(InvalidInput, match="durable=True needs a GameStore"):
        four.update(1, gold=1, durable=True)
    assert gold(four, 1) == [100]


def test_large_session_can_trade_whatever_the_bound(hot: HotStore, raw: Any, keys: Keys) -> None:
    crowd = list(range(1, MAX_TIED + 10))
    for char_id in crowd:
        hot.create(char_id)
    raid = hot.open_session("combat", crowd, {"turn": "1"})
    hot.create(900)
    loot = Together().update_session("combat", raid, {"turn": "2"}).update(900, gold=1)
    hot.update_together(loot)
    (tie,) = ties(raw, keys)
    assert len(tie) == len(crowd) + 2
    with pytest.raises(GroupTooLarge) as full:
        hot.update_together(loot)
    assert 900 in full.value.char_ids
