"""Joining and leaving: refused whole, or done whole, at versions that no backup has saved."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from statesync.errors import (
    CharacterExists,
    CharacterNotLoaded,
    CorruptState,
    GroupTooLarge,
    InSession,
)
from statesync.hot.members import MAX_TIED
from statesync.state.fields import TIE_FIELD
from statesync.state.sessions import Session

if TYPE_CHECKING:
    from tests.conftest import Driver


@pytest.fixture
def fight(store: Driver) -> UUID:
    """A fight of 1 and 2; characters 3 and 4 are in none."""
    for char_id in (1, 2, 3, 4):
        store.create(char_id)
    made = store.open_session("combat", [1, 2], {})
    store.raw.delete(store.keys.dirty)
    assert isinstance(made, UUID)
    return made


def everything(store: Driver) -> dict[bytes, bytes]:
    return {key: store.raw.dump(key) for key in store.raw.scan_iter(f"{store.keys.prefix}*")}


def test_character_of_another_session_does_not_join(store: Driver, fight: UUID) -> None:
    other = store.open_session("combat", [3], {})
    before = everything(store)
    with pytest.raises(InSession) as refused:
        store.join_session("combat", fight, 3)
    assert refused.value.char_id == 3
    assert everything(store) == before
    assert store.get(3).sessions == {"combat": other}


def test_character_that_is_not_loaded_does_not_join(store: Driver, fight: UUID) -> None:
    before = everything(store)
    with pytest.raises(CharacterNotLoaded):
        store.join_session("combat", fight, 99)
    assert everything(store) == before


def test_whatever_changes_rises(store: Driver, fight: UUID) -> None:
    core, session = store.get(3).version, store.get_session("combat", fight).version
    assert store.join_session("combat", fight, 3) == session + 1
    assert store.get(3).version == core + 1
    assert store.leave_session("combat", fight, 3) == session + 2
    assert store.get(3).version == core + 2
    assert store.get_session("combat", fight).version == session + 2


def test_all_that_it_concerns_are_marked(store: Driver, fight: UUID) -> None:
    for change in (store.join_session, store.leave_session):
        store.raw.delete(store.keys.dirty)
        change("combat", fight, 3)
        assert store.raw.smembers(store.keys.dirty) == {b"1", b"2", b"3"}


def test_character_with_a_full_tie_stays(store: Driver, fight: UUID) -> None:
    crowd = range(10, 10 + MAX_TIED - 1)
    for char_id in crowd:
        store.create(char_id)
    store.update_together({char_id: {"gold": 1} for char_id in (1, *crowd)})
    before = everything(store)
    with pytest.raises(GroupTooLarge):
        store.leave_session("combat", fight, 1)
    assert everything(store) == before


def test_ties_that_meet_leave_out_those_that_were_saved(store: Driver, fight: UUID) -> None:
    store.update_together({1: {}, 2: {}})
    store.update_together({3: {}, 4: {}})
    store.raw.hdel(store.keys.core(4), TIE_FIELD)  # it was saved and evicted, and is back
    store.update_together({1: {}, 3: {}})
    assert not store.raw.hexists(store.keys.core(4), TIE_FIELD)
    tie = store.raw.hget(store.keys.core(1), TIE_FIELD).decode()
    assert store.raw.hkeys(store.keys.tie(tie)) == [b"1", b"2", b"3"]


def test_core_that_was_played_is_not_taken_for_a_new_one(store: Driver) -> None:
    store.create(9, gold=1)
    store.raw.hset(store.keys.core(9), "guild", "x")  # a bare writer raises no version
    with pytest.raises(CharacterExists):
        store.create(9, gold=1)


def test_core_that_is_being_saved_is_not_taken_for_a_new_one(store: Driver) -> None:
    store.create(9, gold=1)
    claim, _ = store.claim(9, lease_us=60_000_000)
    snapshot = store.snapshot(claim)
    with pytest.raises(CharacterExists):
        store.create(9, gold=1)
    assert store.get(9).version == int(snapshot.cores[9]["version"]), "it never goes back"


def test_old_log_under_the_key_does_not_come_back(store: Driver) -> None:
    session = uuid4()
    store.raw.rpush(store.keys.session_log("combat", str(session)), '"of before"')
    core = {"combat_session_id": str(session)}
    store.restore_one(9, 1, core, sessions={"token": Session("combat", session, {}, 1)})
    assert store.read_log("combat", session) == []


def test_one_that_has_left_leaves_again_without_a_change(store: Driver, fight: UUID) -> None:
    version = store.leave_session("combat", fight, 2)
    store.raw.delete(store.keys.core(1))  # nobody is loaded that would save a change
    before = everything(store)
    assert store.leave_session("combat", fight, 2) == version
    assert everything(store) == before


def test_session_with_a_bad_version_is_named(store: Driver, fight: UUID) -> None:
    store.raw.hset(store.keys.session("combat", str(fight)), "version", "x")
    for change, char_id in ((store.join_session, 3), (store.leave_session, 1)):
        with pytest.raises(CorruptState, match=f"combat:session:{fight}.version"):
            change("combat", fight, char_id)
