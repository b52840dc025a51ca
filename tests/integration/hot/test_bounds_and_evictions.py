"""How many claims may be in flight, and what an eviction, a discard or a restore leaves behind."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from statesync.state.sessions import Session

if TYPE_CHECKING:
    from tests.conftest import Driver

LEASE = 60_000_000


# How many may be claimed


def test_no_more_are_claimed_if_too_many_are_in_flight_already(store: Driver) -> None:
    store.raw.zadd(store.keys.claimed, {str(i): 1 for i in range(100, 110)})
    store.raw.sadd(store.keys.dirty, *range(1, 6))
    step = store.claim_dirty(
        lease_us=LEASE, max_in_flight=3, count=100, round_ms=60_000, whole=True
    )
    assert step == ([], False)
    assert store.status().dirty == 5


def test_page_that_did_not_fit_comes_again(store: Driver) -> None:
    store.raw.sadd(store.keys.dirty, *range(1, 2001))
    _, page = store.raw.sscan(store.keys.dirty, 0, count=100)
    step = store.claim_dirty(
        lease_us=LEASE, max_in_flight=10, count=100, round_ms=60_000, whole=True
    )
    assert len(step.claims) == 10
    again = store.claim_dirty(
        lease_us=LEASE, max_in_flight=10_000, count=200, round_ms=60_000, whole=True
    )
    claimed = {claim.char_id for claim in (*step.claims, *again.claims)}
    assert claimed >= {*map(int, page)}, "the pass has not gone on without them"


# Out of Redis


def test_unsaved_core_stays(store: Driver) -> None:
    store.create(1)
    store.raw.hset(store.keys.core(1), "saved_version", 1)
    store.update(1, gold=1)
    store.raw.delete(store.keys.dirty)
    assert not store.evict(1), "its mark is lost; its version says that it has changed"


def test_quarantined_core_stays(store: Driver) -> None:
    store.create(1)
    store.raw.hset(store.keys.core(1), "saved_version", 1)
    store.raw.delete(store.keys.dirty)
    store.raw.hset(store.keys.quarantine, "1", "{}")
    assert not store.evict(1)


@pytest.fixture
def fight(store: Driver) -> UUID:
    """A fight of 1 and 2; both are saved, and 2 is dirty."""
    for char_id in (1, 2):
        store.create(char_id)
    made = store.open_session("combat", [1, 2], {})
    for char_id in (1, 2):
        store.raw.hset(store.keys.core(char_id), "saved_version", 2)
    store.raw.srem(store.keys.dirty, 1)
    assert isinstance(made, UUID)
    return made


def test_one_that_has_left_the_session_holds_up_no_eviction(store: Driver, fight: UUID) -> None:
    assert store.sync_state(2).dirty
    store.raw.hdel(store.keys.core(2), "combat_session_id")  # it is saved without the session
    assert store.evict(1)
    assert not store.raw.exists(store.keys.session("combat", str(fight)))


def test_one_that_is_not_loaded_holds_up_no_eviction_beside_a_session_that_stays(
    store: Driver, fight: UUID
) -> None:
    session = store.keys.session("combat", str(fight))
    store.raw.hset(session, "participants", "[1,2,3]")
    store.raw.sadd(store.keys.dirty, 3)
    assert store.evict(1)
    assert store.raw.exists(session), "2 is in it"


def test_eviction_keeps_the_tombstone_of_a_session_that_has_ended(
    store: Driver, fight: UUID
) -> None:
    store.raw.delete(store.keys.session("combat", str(fight)))
    store.raw.set(store.keys.tombstone(str(fight)), 9)
    assert store.evict(1)
    assert store.raw.get(store.keys.tombstone(str(fight))) == b"9"


def test_evicted_core_leaves_no_age(store: Driver) -> None:
    store.create(1)
    store.raw.hset(store.keys.core(1), "saved_version", 1)
    store.raw.delete(store.keys.dirty)
    assert store.evict(1)
    assert not store.raw.exists(store.keys.since)


def test_discarded_entry_of_a_change_that_waits_keeps_its_age(store: Driver) -> None:
    store.create(1)
    since_ms = store.sync_state(1).since_ms
    store.raw.hset(store.keys.quarantine, "1", "{}")
    assert store.discard_quarantined("1")
    assert store.sync_state(1).since_ms == since_ms


def test_staged_log_goes_with_the_restore_that_needs_it_no_more(store: Driver) -> None:
    session = uuid4()
    core = {"combat_session_id": str(session)}
    store.restore_one(1, 1, core, sessions={"a": Session("combat", session, {}, 1)})
    store.stage("b", ['"x"'], start=0)
    late = Session("combat", session, {}, 1, log=("x",))
    assert store.restore_one(2, 1, core, sessions={"b": late}) == ("restored", ["live"])
    assert not store.raw.exists(store.keys.staged("b"))


def test_live_core_stays_in_a_session_that_does_not_name_it(store: Driver) -> None:
    fight = uuid4()
    core = {"combat_session_id": str(fight)}
    session = Session("combat", fight, {"participants": [2]}, 1)
    for char_id in (1, 2):
        store.restore_one(char_id, 1, core)
    store.restore_one(2, 1, core, sessions={"a": session})
    assert store.restore_one(1, 1, core, sessions={"b": session}) == ("live", ["live"])
    assert store.get(1).sessions == {"combat": fight}


def test_lost_session_of_a_live_core_counts_no_core(store: Driver) -> None:
    fight = uuid4()
    store.restore_one(1, 1, {"combat_session_id": str(fight)})
    before = store.status().counters
    sessions = {"a": Session("combat", fight, {}, 1)}
    assert store.restore_one(1, None, {}, sessions=sessions) == ("live", ["restored"])
    assert store.status().counters == before


def test_staged_log_expires(store: Driver) -> None:
    store.stage("a", ['"x"'], start=0)
    assert store.raw.pttl(store.keys.staged("a")) > 0


# Set aside


def test_what_is_no_id_leaves_no_age(store: Driver) -> None:
    store.raw.sadd(store.keys.dirty, "x")
    store.raw.zadd(store.keys.since, {"x": 1})
    store.claim_dirty(lease_us=LEASE, max_in_flight=9, count=9, round_ms=60_000, whole=True)
    assert not store.raw.exists(store.keys.dirty, store.keys.since)
    assert store.raw.hkeys(store.keys.quarantine) == [b"x"]
