"""The operations on sessions: atomic, safe to run twice, on both faces and on every server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from statesync.errors import (
    CharacterNotLoaded,
    CorruptState,
    InSession,
    InvalidField,
    InvalidInput,
    InvalidSessionType,
    SessionClosed,
    SessionExists,
    SessionNotFound,
    SessionNotLoaded,
)
from statesync.hot.command import Command
from statesync.hot.commands import sessions as session_commands
from statesync.hot.commands.together import Together
from statesync.state.sessions import Session
from tests.integration.hot.conftest import BIG

if TYPE_CHECKING:
    from tests.conftest import Driver

LEASE = 60_000_000


def dirty(store: Driver) -> set[int]:
    return {int(i) for i in store.raw.smembers(store.keys.dirty)}


def log(store: Driver, session: UUID) -> list[Any]:
    return [
        json.loads(e)
        for e in store.raw.lrange(store.keys.session_log("combat", str(session)), 0, -1)
    ]


def test_open_writes_all_in_one_step(store: Driver, party: list[int]) -> None:
    session = store.open_session(
        "combat", party, {"monsters": [1], "mood": "grim"}, state="combat", gold=5
    )
    raw_session = store.raw.hgetall(store.keys.session("combat", str(session)))
    assert raw_session == {
        b"version": b"1",
        b"monsters": b"[1]",
        b"mood": b"grim",
        b"participants": f"[1,2,{BIG}]".encode(),
    }
    assert dirty(store) == set(party)
    for i in party:
        core = store.get(i)
        assert (core.state, core.fields["gold"], core.sessions) == (
            "combat",
            "5",
            {"combat": session},
        )
        assert core.version == 2


def test_open_writes_and_deletes_fields_of_the_cores(store: Driver, party: list[int]) -> None:
    store.update(1, guild="x", session_id="old")
    core = {"session_id": "new", "durable": 1, "guild": None}
    session = store.open_session("combat", party, {}, core, state="combat", gold=None)
    for i in party:
        read = store.get(i)
        own = {"session_id": "new", "durable": "1", "combat_session_id": str(session)}
        assert (read.state, read.fields) == ("combat", own)
    with pytest.raises(InvalidInput, match="'state' is given twice"):
        store.open_session("combat", party, {}, {"state": "a"}, state="b")


def test_open_twice_is_open_once(store: Driver, party: list[int]) -> None:
    session = uuid4()
    for _ in range(2):
        assert store.open_session("combat", party, {}, session_id=session) == session
    assert store.get(1).version == 2


@pytest.mark.parametrize(
    ("ids", "error"), [([2, 99], CharacterNotLoaded), ([2, 1], InSession), ([], InvalidInput)]
)
def test_refused_open_changes_nothing(
    store: Driver, party: list[int], ids: list[int], error: type[Exception]
) -> None:
    store.open_session("combat", [1], {})
    before = [store.get(i) for i in party]
    session = uuid4()
    with pytest.raises(error):
        store.open_session("combat", ids, {}, session_id=session)
    assert [store.get(i) for i in party] == before
    assert not store.raw.exists(store.keys.session("combat", str(session)))


def test_open_over_another_session_is_refused(store: Driver, fight: UUID) -> None:
    store.create(7)
    with pytest.raises(SessionExists, match=str(fight)):
        store.open_session("combat", [7], {}, session_id=fight)


@pytest.mark.parametrize(
    ("session_type", "fields", "field"),
    [
        (
            "inventory",
            {"items": [{"item_id": "a", "kind": "k", "quantity": -1}]},
            "items[0].quantity",
        ),
        (
            "inventory",
            {"items": [{"item_id": "a", "kind": "k", "quantity": True}]},
            "items[0].quantity",
        ),
        ("inventory", {"items": [{"item_id": "a", "quantity": 1}]}, "items[0].kind"),
        (
            "inventory",
            {"items": [{"item_id": "a", "kind": "k", "quantity": 1}] * 2},
            "items[1].item_id",
        ),
        ("inventory", {"items": {}}, "items"),
        ("scenario", {"graph": 5}, "graph"),
        ("scenario", {"quest_id": ""}, "quest_id"),
        ("combat", {"version": 5}, "version"),
        ("combat", {"closed_at": "1"}, "closed_at"),
        ("combat", {"mood": "\0"}, "mood"),
        ("combat", {"mood": "\ud800"}, "mood"),
        ("combat", {"monsters": ["\0"]}, "monsters[0]"),
        ("combat", {"monsters": object()}, "monsters"),
    ],
)
def test_field_that_cannot_be_saved_is_refused_by_name(
    store: Driver, session_type: str, fields: Any, field: str
) -> None:
    store.create(1)
    with pytest.raises(InvalidField) as caught:
        store.open_session(session_type, [1], fields)
    assert caught.value.field == field
    assert store.get(1).sessions == {}


def test_unknown_type_is_refused_by_name(store: Driver, fight: UUID) -> None:
    for name, *args in (
        ("open_session", "combta", [1], {}),
        ("update_session", "combta", fight, {}),
        ("get_session", "combta", fight),
        ("leave_session", "combta", fight, 1),
    ):
        with pytest.raises(InvalidSessionType, match="'combta'; there are combat, inventory"):
            getattr(store, name)(*args)
    with pytest.raises(InvalidInput, match="must be a UUID"):
        store.get_session("combat", "x:y")


def test_change_marks_every_loaded_participant(
    store: Driver, party: list[int], fight: UUID
) -> None:
    store.raw.delete(store.keys.core(2))
    assert store.update_session("combat", fight, {"round": "2"}, log=[{"hit": 1}, None]) == 2
    assert dirty(store) == {1, BIG}
    read = store.get_session("combat", fight)
    assert (read.fields["round"], read.version, read.log_length) == ("2", 2, 2)
    assert read.participants == tuple(party)
    assert store.read_log("combat", fight) == [{"hit": 1}, None]
    assert store.read_log("combat", fight, start=-1) == [None]


def test_participants_may_not_be_written(store: Driver, fight: UUID) -> None:
    with pytest.raises(InvalidField, match="join_session"):
        store.update_session("combat", fight, {"participants": [1]})


def send_twice(store: Driver, command: Command[Any]) -> None:
    """Run a Command, and once more what was sent last: the reply was lost on the way."""
    while True:
        reply = store.raw.eval(
            command.script.source, len(command.keys), *command.keys, *command.args
        )
        result = command.parse(reply)
        if not isinstance(result, Command):
            break
        command = result
    store.raw.eval(command.script.source, len(command.keys), *command.keys, *command.args)


def test_sent_twice_the_log_has_it_once(store: Driver, fight: UUID) -> None:
    send_twice(store, session_commands.update_session(store.keys, "combat", fight, log=[1, 2]))
    send_twice(store, session_commands.update_session(store.keys, "combat", fight, log=[3]))
    assert log(store, fight) == [1, 2, 3]


def test_sent_twice_one_joins_and_leaves_once(store: Driver, fight: UUID) -> None:
    store.create(9)
    send_twice(store, session_commands.join_session(store.keys, "combat", fight, 9))
    assert store.get_session("combat", fight).participants == (1, 2, BIG, 9)
    send_twice(store, session_commands.leave_session(store.keys, "combat", fight, 2))
    assert store.get_session("combat", fight).participants == (1, BIG, 9)
    send_twice(store, session_commands.close_session(store.keys, "combat", fight))
    assert store.get_session("combat", fight).closed


def test_leaving_marks_all_and_clears_one_reference(store: Driver, fight: UUID) -> None:
    store.leave_session("combat", fight, BIG)
    assert dirty(store) == {1, 2, BIG}
    assert store.get(BIG).sessions == {}
    assert store.get(1).sessions == {"combat": fight}
    assert not store.get_session("combat", fight).closed
    store.leave_session("combat", fight, 1)
    store.leave_session("combat", fight, 2)
    assert store.get_session("combat", fight).closed
    assert store.get(2).sessions == {"combat": fight}, "until its end is saved"


def test_closed_one_does_not_change(store: Driver, fight: UUID) -> None:
    store.close_session("combat", fight, {"result": "won"})
    assert dirty(store) == {1, 2, BIG}
    before = store.get_session("combat", fight)
    store.create(9)
    for name, *args in (
        ("update_session", "combat", fight, {"round": "9"}),
        ("join_session", "combat", fight, 9),
    ):
        with pytest.raises(SessionClosed, match=str(fight)):
            getattr(store, name)(*args)
    assert store.leave_session("combat", fight, 1) == before.version
    assert store.get_session("combat", fight) == before


def test_absent_session_is_not_made(store: Driver) -> None:
    session = uuid4()
    for name, *args in (
        ("update_session", "combat", session, {"round": "9"}),
        ("close_session", "combat", session),
        ("leave_session", "combat", session, 1),
        ("get_session", "combat", session),
    ):
        with pytest.raises(SessionNotFound, match=f"combat:session:{session} is not in Redis"):
            getattr(store, name)(*args)
    assert not store.raw.exists(store.keys.session("combat", str(session)))


def test_many_in_one_call(store: Driver, fight: UUID) -> None:
    results = store.run_many(
        [
            store.store.commands.update_session("combat", fight, {"round": "2"}),
            store.store.commands.update(1, gold=1),
            store.store.commands.update_session("combat", uuid4(), {}),
            store.store.commands.get_session("combat", fight),
        ]
    )
    assert isinstance(results[2], SessionNotFound)
    assert isinstance(results[3], Session)
    assert results[:2] == [2, 3]


def test_large_log_in_one_call(store: Driver, fight: UUID) -> None:
    store.update_session("combat", fight, log=list(range(20_000)))
    assert log(store, fight) == list(range(20_000))


def delete_cores(store: Driver, fight: UUID) -> None:
    for char_id in (1, 2, BIG):
        store.raw.delete(store.keys.core(char_id))


def clear_references(store: Driver, fight: UUID) -> None:
    for char_id in (1, 2, BIG):
        store.raw.hset(store.keys.core(char_id), "combat_session_id", "")


def point_elsewhere(store: Driver, fight: UUID) -> None:
    for char_id in (1, 2, BIG):
        store.raw.hset(store.keys.core(char_id), "combat_session_id", str(uuid4()))


def empty_participants(store: Driver, fight: UUID) -> None:
    clear_references(store, fight)
    store.raw.hset(store.keys.session("combat", str(fight)), "participants", "[]")


def everything(store: Driver) -> dict[bytes, Any]:
    """All hashes and the marks."""
    found = store.raw.scan_iter(f"{store.keys.prefix}*", _type="hash")
    return {key: store.raw.hgetall(key) for key in found} | {b"dirty": dirty(store)}


@pytest.mark.parametrize(
    "strand", [delete_cores, clear_references, point_elsewhere, empty_participants]
)
def test_session_that_nobody_would_save_does_not_change(
    store: Driver, fight: UUID, strand: Callable[[Driver, UUID], None]
) -> None:
    strand(store, fight)
    before = everything(store)
    changes: list[Callable[[], Any]] = [
        lambda: store.update_session("combat", fight, {"round": "2"}, log=["hit"]),
        lambda: store.close_session("combat", fight),
        lambda: store.update_together(Together().close_session("combat", fight)),
    ]
    if strand is not empty_participants:
        changes.append(lambda: store.leave_session("combat", fight, 1))
    for change in changes:
        with pytest.raises(SessionNotLoaded, match=f"combat:session:{fight}") as caught:
            change()
        assert caught.value.session == f"combat:session:{fight}"
        assert everything(store) == before
        assert log(store, fight) == []


def test_session_changes_with_one_loaded_participant_that_points_at_it(
    store: Driver, fight: UUID
) -> None:
    clear_references(store, fight)
    store.raw.hset(store.keys.core(2), "combat_session_id", str(fight))
    store.update_session("combat", fight, {"round": "2"})
    store.leave_session("combat", fight, 1)
    assert store.close_session("combat", fight) == 4
    assert 2 in dirty(store)


def test_two_sessions_that_nobody_would_save_do_not_change(store: Driver, fight: UUID) -> None:
    bag = store.open_session("inventory", [1], {"items": []})
    delete_cores(store, fight)
    before = everything(store)
    both = (
        Together().close_session("combat", fight).update_session("inventory", bag, {"filters": "x"})
    )
    with pytest.raises(SessionNotLoaded):
        store.update_together(both)
    assert everything(store) == before


def test_change_of_a_loaded_character_saves_the_session_with_it(store: Driver, fight: UUID) -> None:
    delete_cores(store, fight)
    store.create(9)
    claim, _ = store.claim(9, lease_us=LEASE)
    store.update_together(Together().close_session("combat", fight).update(9, gold=1))
    snapshot = store.snapshot(claim)
    assert [ref.id for ref in snapshot.sessions] == [str(fight)]


@pytest.mark.parametrize("participants", [b"[1,1]", b"{", b"[0]", b'["1"]', b"[1.5]"])
def test_odd_participants(store: Driver, fight: UUID, participants: bytes) -> None:
    key = store.keys.session("combat", str(fight))
    store.raw.hset(key, "participants", participants)
    before = store.raw.hgetall(key)
    with pytest.raises(CorruptState, match=r"^field 'combat:session:.*\.participants'"):
        store.update_session("combat", fight, {"round": "2"})
    assert store.raw.hgetall(key) == before


def test_full_state_is_the_core_and_its_sessions(store: Driver, fight: UUID) -> None:
    bag = store.open_session("inventory", [1], {"items": []})
    gone = store.open_session("scenario", [1], {"quest_id": "q"})
    store.raw.delete(store.keys.session("scenario", str(gone)))
    character, sessions = store.get_full_state(1)
    assert character == store.get(1)
    assert {session_type: session.id for session_type, session in sessions.items()} == {
        "combat": fight,
        "inventory": bag,
    }
    with pytest.raises(CharacterNotLoaded):
        store.get_full_state(99)
    store.raw.hset(store.keys.session("combat", str(fight)), "monsters", "{")
    with pytest.raises(CorruptState, match=r"combat:session:.*\.monsters"):
        store.get_full_state(1)
