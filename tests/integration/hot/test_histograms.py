"""The wait of a change until it is durable is counted once, when its claim ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from statesync.hot.commands.acknowledge import GroupAck
from statesync.hot.commands.claims import Claim
from statesync.hot.histograms import BATCH, CHANGE_TO_DURABLE

if TYPE_CHECKING:
    from tests.conftest import Driver

LEASE = 60_000_000
FAR_MS = 3_600_000
"""A wait of an hour falls into the last bucket with a bound, whatever a test takes."""


def save(store: Driver, *char_ids: int, waits: dict[int, float] | None = None) -> None:
    """Save characters one by one, as a worker does; ``waits`` says how many ms each has waited."""
    for char_id in char_ids:
        claim, _ = store.claim(char_id, lease_us=LEASE)
        snapshot = store.snapshot(claim)
        if waits:
            seconds, micros = store.raw.time()
            now_ms = 1000 * seconds + micros // 1000
            store.raw.zadd(store.keys.since, {str(char_id): now_ms - waits[char_id]})
        version = store.get(char_id).version
        assert store.acknowledge(
            claim,
            snapshot_version=version,
            durable_version=version,
            at_ms=snapshot.at_ms,
            seal=snapshot.seal,
        )


def counts(store: Driver) -> dict[float, int]:
    """Return how many waits fell into each bucket that has any, by its bound in seconds."""
    found, before = {}, 0
    for bound, count in CHANGE_TO_DURABLE.read(store.figures().histograms).buckets:
        if count > before:
            found[bound] = count - before
        before = count
    return found


def total(store: Driver) -> float:
    return CHANGE_TO_DURABLE.read(store.figures().histograms).total


def test_a_wait_falls_into_its_bucket(store: Driver) -> None:
    waits = {1: -5_000.0, 2: 610_000.0, 3: 700_000.0, 4: 1_801_000.0, 5: 2 * FAR_MS}
    for char_id in waits:
        store.create(char_id, gold=1)
    save(store, *waits, waits=waits)
    found = counts(store)
    assert found.pop(0.1) == 1, "the clock may have gone back"
    assert found == {1800: 2, 3600: 1, float("inf"): 1}
    assert 610 + 700 + 1801 + 7200 <= total(store) < 10_311 + 600


def test_a_save_of_many_counts_each(store: Driver) -> None:
    char_ids = range(1, 41)
    for char_id in char_ids:
        store.create(char_id, gold=1)
    claims = [store.claim(char_id, lease_us=LEASE)[0] for char_id in char_ids]
    seconds, _ = store.raw.time()
    since = {
        str(char_id): 1000 * seconds - (700_000 if char_id % 2 else 7 * FAR_MS)
        for char_id in char_ids
    }
    store.raw.zadd(store.keys.since, since)
    snapshots = [store.snapshot(claim) for claim in claims]
    groups = [
        GroupAck(snapshot.at_ms, snapshot.seal, [claim], [2], [2])
        for claim, snapshot in zip(claims, snapshots, strict=True)
    ]
    assert store.acknowledge_many(groups) == frozenset()
    assert counts(store) == {1800: 20, float("inf"): 20}


def test_it_begins_with_the_first_change_that_is_not_saved(store: Driver) -> None:
    store.create(1, gold=1)
    seconds, _ = store.raw.time()
    store.raw.zadd(store.keys.since, {"1": 1000 * seconds - FAR_MS // 2 - 1000})
    store.update(1, gold=2)  # a second change is not the first
    save(store, 1)
    assert counts(store) == {3600: 1}


def test_a_bare_writers_mark_counts_from_its_claim(store: Driver) -> None:
    store.create(1, gold=1)
    store.raw.zrem(store.keys.since, 1)
    save(store, 1)
    assert sum(counts(store).values()) == 1


def test_a_change_since_the_snapshot_counts_by_itself(store: Driver) -> None:
    store.create(1, gold=1)
    claim, _ = store.claim(1, lease_us=LEASE)
    snapshot = store.snapshot(claim)
    store.update(1, gold=2)
    store.acknowledge(
        claim, snapshot_version=2, durable_version=2, at_ms=snapshot.at_ms, seal=snapshot.seal
    )
    assert sum(counts(store).values()) == 1
    save(store, 1)
    assert sum(counts(store).values()) == 2


def test_who_had_no_unsaved_change_has_not_waited(store: Driver) -> None:
    store.create(1, gold=1)
    save(store, 1)
    save(store, 1)  # a direct backup of a clean one
    assert sum(counts(store).values()) == 1


@pytest.mark.parametrize("is_lost", [False, True])
def test_what_is_not_saved_or_not_ours_is_not_counted(store: Driver, is_lost: bool) -> None:
    store.create(1, gold=1)
    claim, _ = store.claim(1, lease_us=LEASE)
    snapshot = store.snapshot(claim)
    version = 2 * is_lost  # 0: nothing of it was saved
    if is_lost:
        claim = Claim(1, claim.token + 1)
    store.acknowledge(
        claim,
        snapshot_version=version,
        durable_version=version,
        at_ms=snapshot.at_ms,
        seal=snapshot.seal,
    )
    assert counts(store) == {}


@pytest.mark.parametrize("since", ["inf", "-inf", 1e300, -1e300, -9.2e18, 0])
def test_a_time_that_is_none_is_not_counted_and_harms_no_save(store: Driver, since: float) -> None:
    for char_id in (1, 2):
        store.create(char_id, gold=1)
    claim, _ = store.claim(1, lease_us=LEASE)
    store.raw.zadd(store.keys.since, {"1": since})
    snapshot = store.snapshot(claim)
    assert store.acknowledge(
        claim, snapshot_version=2, durable_version=2, at_ms=snapshot.at_ms, seal=snapshot.seal
    )
    assert store.sync_state(1).token is None
    assert counts(store) == {}
    save(store, 2)
    assert sum(counts(store).values()) == 1


def test_a_histogram_that_is_none_harms_no_save_and_no_count(store: Driver) -> None:
    store.raw.set(store.keys.histograms, "a string")
    store.create(1, gold=1)
    save(store, 1)
    store.count({"saved": 1}, BATCH.observe(1))
    assert store.status().counters == {"saved": 1}
    assert store.raw.get(store.keys.histograms) == b"a string"


def test_counters_and_histograms_are_added_in_one_step(store: Driver) -> None:
    for characters in (3, 500, 501, 9999):
        store.count({"saved": characters, "unchanged": 1}, BATCH.observe(characters))
    store.count({}, BATCH.observe(1))
    store.count({"sweeps": 1})
    assert store.status().counters == {"saved": 11_003, "unchanged": 4, "sweeps": 1}
    batches = BATCH.read(store.figures().histograms)
    at_most = dict(batches.buckets)
    assert (at_most[1], at_most[5], at_most[250], at_most[500]) == (1, 2, 2, 3)
    assert (at_most[1000], at_most[5000], at_most[float("inf")]) == (4, 4, 5)
    assert batches.total == 11_004
