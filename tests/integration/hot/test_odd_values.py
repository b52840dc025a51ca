"""Values and keys that another program wrote: taken if they can be, and refused by their name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from statesync.errors import CorruptState
from statesync.hot.commands.together import Together
from statesync.state.fields import TIE_FIELD
from statesync.state.references import SessionRef

if TYPE_CHECKING:
    from tests.conftest import Driver

LEASE = 60_000_000


@pytest.fixture
def traders(store: Driver) -> Driver:
    """Characters 1 and 2 have traded, and 3 and 4; 5 is alone."""
    for char_id in range(1, 6):
        store.create(char_id, gold=1)
    store.update_together({1: {"gold": 0}, 2: {"gold": 2}})
    store.update_together({3: {"gold": 0}, 4: {"gold": 2}})
    return store


def everything(store: Driver) -> dict[bytes, bytes]:
    return {key: store.raw.dump(key) for key in store.raw.scan_iter(f"{store.keys.prefix}*")}


def spoil(store: Driver, key: str) -> dict[bytes, bytes]:
    """Make a key one of another type; returns all that Redis holds."""
    store.raw.delete(key)
    store.raw.set(key, "of another type")
    return everything(store)


def test_tie_that_is_no_hash_is_named(traders: Driver) -> None:
    tie = traders.raw.hget(traders.keys.core(1), TIE_FIELD).decode()
    before = spoil(traders, traders.keys.tie(tie))
    with pytest.raises(CorruptState) as refused:
        traders.update_together({1: {"gold": 5}, 3: {"gold": 5}})
    assert refused.value.field == "(key)", "it is not the dirty set that is wrong"
    assert everything(traders) == before


def test_session_that_is_no_hash_leaves_ties_that_meet_as_they_were(traders: Driver) -> None:
    traders.update_together({1: {}, 3: {}})  # the larger tie, into which the other one is merged
    fight = traders.open_session("combat", [5], {})
    traders.update_together(Together().update(5, gold=9).update_session("combat", fight, {}))
    before = spoil(traders, traders.keys.session("combat", str(fight)))
    with pytest.raises(CorruptState, match=f"combat:session:{fight}"):
        traders.update_together({1: {"gold": 5}, 5: {"gold": 5}})
    assert everything(traders) == before


def test_core_that_is_no_hash_is_named_by_an_open(traders: Driver) -> None:
    before = spoil(traders, traders.keys.core(2))
    with pytest.raises(CorruptState, match="character 2"):
        traders.open_session("combat", [1, 2], {})
    assert everything(traders) == before


def test_session_that_is_no_hash_is_named_by_an_eviction(traders: Driver) -> None:
    fight = traders.open_session("combat", [5], {})
    traders.raw.hset(traders.keys.core(5), "saved_version", 2)
    traders.raw.srem(traders.keys.dirty, 5)
    before = spoil(traders, traders.keys.session("combat", str(fight)))
    with pytest.raises(CorruptState, match=f"combat:session:{fight}"):
        traders.evict(5)
    assert everything(traders) == before


def test_session_that_is_no_hash_keeps_no_character_from_being_deleted(traders: Driver) -> None:
    fight = traders.open_session("combat", [5], {})
    spoil(traders, traders.keys.session("combat", str(fight)))
    assert traders.forget(5, [SessionRef("combat", str(fight))])
    assert not traders.raw.exists(traders.keys.core(5))


def test_core_that_is_no_hash_gets_no_mark(traders: Driver) -> None:
    traders.raw.srem(traders.keys.dirty, 5)
    before = spoil(traders, traders.keys.core(5))
    assert not traders.mark_unsaved(5)
    assert everything(traders) == before
    assert traders.peek(5).version == 0, "it is there, and a restore leaves it alone"


@pytest.mark.parametrize("char_id", [1, 5])
def test_version_zero_is_one(traders: Driver, char_id: int) -> None:
    traders.raw.hset(traders.keys.core(char_id), "version", "0")
    assert traders.update_together({char_id: {"gold": 5}, 4: {"gold": 5}})[char_id] == 1
    traders.raw.hset(traders.keys.core(char_id), "version", "0")
    claim, _ = traders.claim(char_id, lease_us=LEASE)
    assert traders.snapshot(claim, lease_us=LEASE).cores[char_id]["version"] == "1"


@pytest.mark.parametrize("entry", ["5", "null", '"text"', "[1]", "{", '{"attempts": "x"}'])
def test_quarantine_entry_of_another_program_is_written_over(traders: Driver, entry: Any) -> None:
    traders.raw.hset(traders.keys.quarantine, "5", entry)
    claim, _ = traders.claim(5, lease_us=LEASE)
    assert traders.quarantine(claim, error="broken", field="bio")
    found = traders.sync_state(5).quarantine
    assert (found.attempts, found.error) == (1, "broken")


def test_quarantine_entry_counts_on_from_the_first_time(traders: Driver) -> None:
    before = {"error": "x", "field": None, "attempts": 3, "first_at": 1000.5, "last_at": 2000.5}
    traders.raw.hset(traders.keys.quarantine, "5", json.dumps(before))
    claim, _ = traders.claim(5, lease_us=LEASE)
    traders.quarantine(claim, error="broken", field="bio")
    found = json.loads(traders.raw.hget(traders.keys.quarantine, "5"))
    assert (found["attempts"], found["first_at"]) == (4, 1000.5)
    assert found["last_at"] > 2000.5
