"""How many claims may be in flight, and what an eviction, a discard or a restore leaves behind."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from statesync.state.sessions import Session

if TYPE_CHECKING:
    from tests.conftest import Driver

LEASE = 60_000_000


# How many may be claimed


def test_no_more_are_claimed_if_too_many_are_in_flight_already(store: Driver) -> None:
    store.raw.zadd(store.keys.claimed, {str(i): 1 for i in range(100, 110)})
    store.raw.sadd(store.keys.dirty, *range(1, 6))
    step = store.claim_dirty(lease_us=LEASE, max_in_flight=3, count=100)
    assert (step.claims, step.passes) == ([], None)
    assert store.status().dirty == 5


def test_page_that_did_not_fit_comes_again(store: Driver) -> None:
    store.raw.sadd(store.keys.dirty, *range(1, 2001))
    step = store.claim_dirty(lease_us=LEASE, max_in_flight=10, count=100)
    assert (len(step.claims), step.passes) == (10, None)
    again = store.claim_dirty(lease_us=LEASE, max_in_flight=10_000, count=100)
    assert again.fresh, "the pass has not gone on without them"


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
