"""claim, claim_dirty, requeue, release: the right to save a character, and until when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from statesync.hot.commands.claims import Claim, ClaimStep, Requeued
from statesync.hot.commands.operators import SyncState

if TYPE_CHECKING:
    from tests.conftest import Driver

LEASE = 60_000_000


def claim_step(store: Driver, *, most: int = 10_000, whole: bool = True) -> ClaimStep:
    """Look at a page; one that is not the first of a whole sweep, if it is due."""
    step: ClaimStep = store.claim_dirty(
        lease_us=LEASE, max_in_flight=most, count=100, round_ms=3_600_000, whole=whole
    )
    return step


def sweep_all(store: Driver, most: int = 1000) -> list[Claim]:
    """Claim page by page what is dirty now."""
    step = claim_step(store, most=most)
    claims = [*step.claims]
    while step.goes_on:
        step = claim_step(store, most=most, whole=False)
        claims += step.claims
    return claims


def mark(store: Driver, *char_ids: int | str | bytes) -> None:
    store.raw.sadd(store.keys.dirty, *char_ids)


def test_claim_moves_the_mark(store: Driver) -> None:
    mark(store, 1)
    claim, was_dirty = store.claim(1, lease_us=LEASE)
    assert was_dirty
    sync_state = store.sync_state(1)
    assert (sync_state.dirty, sync_state.token) == (False, claim.token)


def test_claim_of_a_clean_one_tells_so(store: Driver) -> None:
    _, was_dirty = store.claim(1, lease_us=LEASE)
    assert not was_dirty
    _, was_dirty = store.claim(1, lease_us=LEASE)
    assert not was_dirty, "the claim that was out was on a clean one too"
    store.create(2)
    assert store.claim(2, lease_us=LEASE).was_dirty
    assert store.claim(2, lease_us=LEASE).was_dirty, "a claim on a dirty one is out"


def test_token_always_rises(store: Driver) -> None:
    tokens = [
        store.claim(1, lease_us=lease).claim.token for lease in (LEASE, LEASE, 0, 0, 10 * LEASE)
    ]
    assert tokens == sorted(set(tokens))
    assert tokens[2] == tokens[1] + 1


def test_newest_token_is_exact_beyond_53_bits_of_nothing(store: Driver) -> None:
    claim, _ = store.claim(1, lease_us=86_400_000_000)
    assert store.sync_state(1).token == claim.token
    assert store.release(claim) is True


def test_claim_dirty_claims_each_once(store: Driver) -> None:
    mark(store, *range(1, 1001))
    claims = sweep_all(store)
    assert sorted(claim.char_id for claim in claims) == list(range(1, 1001))
    assert store.status().dirty == 0
    assert store.status().claimed == 1000
    assert sweep_all(store) == []


def test_in_flight_is_bounded(store: Driver) -> None:
    mark(store, *range(1, 101))
    assert len(sweep_all(store, 30)) == 30
    assert sweep_all(store, 30) == []
    status = store.status()
    assert (status.dirty, status.claimed) == (70, 30)


def test_sweeps_share_one_pass(store: Driver) -> None:
    """A large backlog is passed once, however many sweeps it takes; the next pass meets what is
    marked behind it."""
    mark(store, *range(1, 2001))
    step = claim_step(store)
    met = len(step.claims)
    while step.goes_on:
        assert step.claims, "no sweep looks again at what others have emptied"
        step = claim_step(store, whole=False)
        met += len(step.claims)
    assert met == 2000
    mark(store, *range(3001, 5001))
    claim_step(store)
    claims = sweep_all(store, 10_000)  # goes on in the pass, and through the next
    assert len(claims) >= 1500
    assert store.status().dirty == 0


def test_pass_stays_where_it_is_while_no_more_may_be_in_flight(store: Driver) -> None:
    mark(store, *range(1, 1001))
    for most in range(100, 1001, 100):
        assert len(sweep_all(store, most)) == 100
    assert store.status().dirty == 0


def test_claimed_one_stays_dirty_until_it_is_acknowledged(store: Driver) -> None:
    mark(store, 1)
    (claim,) = sweep_all(store)
    mark(store, 1)
    assert sweep_all(store) == []
    assert store.sync_state(1) == store.sync_state(1)._replace(dirty=True, token=claim.token)
    store.acknowledge(claim)
    assert [again.char_id for again in sweep_all(store)] == [1]


def test_since_is_kept_and_made_for_bare_writers(store: Driver) -> None:
    mark(store, 1, 2)
    store.raw.zadd(store.keys.since, {"1": 5})
    sweep_all(store)
    assert store.sync_state(1).since_ms == 5
    assert store.sync_state(2).since_ms > 5


ODD: list[bytes | str] = [
    *("abc", "0", "-1", "01", "1.0", " 1", str(2**63), "9" * 30, ""),
    b"\xff\xfe",
    "42; DROP",
]


def test_what_is_no_id_goes_to_quarantine_and_blocks_nothing(store: Driver) -> None:
    mark(store, *ODD, 1, 2**63 - 1)
    assert {claim.char_id for claim in sweep_all(store)} == {1, 2**63 - 1}
    assert store.status().dirty == 0
    _, entries = store.list_quarantine()
    assert len(entries) == len(ODD)
    assert {entry.name for entry in entries} >= {"abc", "0", "-1", str(2**63), "\\xff\\xfe"}
    assert all("not a character id" in entry.error for entry in entries)


def test_ended_lease_is_put_back(store: Driver) -> None:
    mark(store, 1, 2)
    lost, kept = sorted(sweep_all(store))
    store.raw.zadd(store.keys.claimed, {"1": 1})
    assert store.status().expired == 1
    assert store.requeue(100) == Requeued(1, [])
    assert store.requeue(100) == Requeued(0, [])
    assert store.sync_state(1).dirty
    assert store.sync_state(2).token == kept.token
    (again,) = sweep_all(store)
    assert again.token > lost.token or again.token > 1


def test_requeue_takes_no_more_than_it_may(store: Driver) -> None:
    store.raw.zadd(store.keys.claimed, {str(i): i for i in range(1, 11)})
    store.raw.zadd(store.keys.since, {str(i): i for i in range(1, 11)})
    assert [store.requeue(4).dirty for _ in range(4)] == [4, 4, 2, 0]
    assert store.status().dirty == 10


@pytest.mark.parametrize("char_id", [1, 10**18, 2**63 - 1])
def test_ended_lease_on_a_clean_one_leaves_it_clean(store: Driver, char_id: int) -> None:
    store.create(char_id)
    store.raw.delete(store.keys.dirty, store.keys.since)
    store.claim(char_id, lease_us=LEASE)
    assert store.requeue(100, include_unexpired=True) == Requeued(0, [char_id])
    assert store.sync_state(char_id) == SyncState(False, None, None, None)


def test_released_clean_one_stays_clean(store: Driver) -> None:
    store.create(1)
    store.raw.delete(store.keys.dirty, store.keys.since)
    assert store.release(store.claim(1, lease_us=LEASE).claim) is True
    assert store.sync_state(1) == SyncState(False, None, None, None)


@pytest.mark.parametrize("end", ["requeue", "release"])
@pytest.mark.parametrize("when", ["before the claim", "after the claim", "after the snapshot"])
def test_bare_change_under_a_claim_keeps_its_mark(store: Driver, when: str, end: str) -> None:
    store.create(1)
    store.raw.delete(store.keys.dirty, store.keys.since)
    if when == "before the claim":
        mark(store, 1)
    claim = store.claim(1, lease_us=LEASE).claim
    if when == "after the claim":
        mark(store, 1)
    store.snapshot(claim)
    if when == "after the snapshot":
        mark(store, 1)
    if end == "release":
        store.release(claim)
    else:
        assert store.requeue(100, include_unexpired=True).clean in ([], [1])
    assert store.sync_state(1).dirty
    assert store.sync_state(1).token is None


def test_name_that_is_no_id_is_put_back_to_be_named(store: Driver) -> None:
    store.raw.zadd(store.keys.claimed, {"x": 1, "9" * 20: 1, str(2**63): 1})
    assert store.requeue(100) == Requeued(3, [])


@pytest.mark.parametrize("operation", ["release", "acknowledge"])
def test_old_token_can_do_nothing(store: Driver, operation: str) -> None:
    mark(store, 1)
    old, _ = store.claim(1, lease_us=LEASE)
    new, _ = store.claim(1, lease_us=LEASE)
    assert getattr(store, operation)(old) is False
    assert store.sync_state(1).token == new.token
    assert store.quarantine(old, error="x", field="") is False
    assert store.sync_state(1).quarantine is None


def test_release_gives_the_mark_back_once(store: Driver) -> None:
    mark(store, 1)
    (claim,) = sweep_all(store)
    assert store.release(claim) is True
    assert store.release(claim) is False
    assert store.sync_state(1).dirty
    assert store.sync_state(1).token is None
