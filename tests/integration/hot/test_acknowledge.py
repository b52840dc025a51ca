"""acknowledge: a claim ends, and a change made since the snapshot does not get lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from statesync.hot.commands.backup import RawSnapshot
from statesync.hot.commands.claims import Claim

if TYPE_CHECKING:
    from tests.conftest import Driver

LEASE = 60_000_000


@pytest.fixture
def claim(store: Driver) -> Claim:
    """A claim on character 1, which is at version 1."""
    store.create(1, gold=1)
    claim, _ = store.claim(1, lease_us=LEASE)
    assert isinstance(claim, Claim)
    return claim


@pytest.fixture
def snapshot(store: Driver, claim: Claim) -> RawSnapshot:
    """Its snapshot, of version 2."""
    snapshot = store.snapshot(claim)
    assert isinstance(snapshot, RawSnapshot)
    return snapshot


def test_saved_one_is_clean(store: Driver, claim: Claim, snapshot: RawSnapshot) -> None:
    assert (
        store.acknowledge(
            claim, snapshot_version=2, durable_version=2, at_ms=snapshot.at_ms, seal=snapshot.seal
        )
        is True
    )
    sync_state = store.sync_state(1)
    assert (sync_state.dirty, sync_state.token, sync_state.since_ms) == (False, None, None)
    assert (store.get(1).version, store.get(1).saved_version) == (2, 2)


def test_mark_set_after_the_snapshot_stays(
    store: Driver, claim: Claim, snapshot: RawSnapshot
) -> None:
    store.raw.hset(store.keys.core(1), "gold", 2)
    store.raw.sadd(store.keys.dirty, 1)
    assert (
        store.acknowledge(
            claim, snapshot_version=2, durable_version=2, at_ms=snapshot.at_ms, seal=snapshot.seal
        )
        is True
    )
    sync_state = store.sync_state(1)
    assert (sync_state.dirty, sync_state.token, sync_state.since_ms) == (True, None, snapshot.at_ms)


def test_run_twice_does_no_harm(store: Driver, claim: Claim, snapshot: RawSnapshot) -> None:
    assert (
        store.acknowledge(
            claim, snapshot_version=2, durable_version=2, at_ms=snapshot.at_ms, seal=snapshot.seal
        )
        is True
    )
    store.update(1, gold=2)
    before = (store.sync_state(1), store.get(1))
    assert (
        store.acknowledge(
            claim, snapshot_version=2, durable_version=2, at_ms=snapshot.at_ms, seal=snapshot.seal
        )
        is False
    )
    assert (store.sync_state(1), store.get(1)) == before


def test_token_not_ours_ends_no_claim(store: Driver, claim: Claim, snapshot: RawSnapshot) -> None:
    new, _ = store.claim(1, lease_us=LEASE)
    assert (
        store.acknowledge(
            claim, snapshot_version=2, durable_version=2, at_ms=snapshot.at_ms, seal=snapshot.seal
        )
        is False
    )
    assert store.sync_state(1).token == new.token
    assert store.get(1).saved_version == 2, "what is durable is durable, whoever saved it"


def test_saved_version_never_falls(store: Driver, claim: Claim, snapshot: RawSnapshot) -> None:
    store.acknowledge(
        claim, snapshot_version=2, durable_version=2, at_ms=snapshot.at_ms, seal=snapshot.seal
    )
    again, _ = store.claim(1, lease_us=LEASE)
    assert again != claim
    store.acknowledge(
        claim, snapshot_version=1, durable_version=1, at_ms=snapshot.at_ms, seal=snapshot.seal
    )
    assert store.get(1).saved_version == 2


def test_unchanged_one_goes_back_to_its_version(
    store: Driver, claim: Claim, snapshot: RawSnapshot
) -> None:
    store.acknowledge(
        claim, snapshot_version=2, durable_version=2, at_ms=snapshot.at_ms, seal=snapshot.seal
    )
    again, _ = store.claim(1, lease_us=LEASE)
    seal = store.snapshot(again).seal
    assert store.get(1).version == 3
    store.acknowledge(again, snapshot_version=3, durable_version=2, at_ms=snapshot.at_ms, seal=seal)
    assert (store.get(1).version, store.get(1).saved_version) == (2, 2)


def test_version_raised_since_does_not_go_back(
    store: Driver, claim: Claim, snapshot: RawSnapshot
) -> None:
    store.acknowledge(
        claim, snapshot_version=2, durable_version=2, at_ms=snapshot.at_ms, seal=snapshot.seal
    )
    again, _ = store.claim(1, lease_us=LEASE)
    seal = store.snapshot(again).seal
    store.update(1, gold=5)
    store.acknowledge(again, snapshot_version=3, durable_version=2, at_ms=snapshot.at_ms, seal=seal)
    assert store.get(1).version == 4
    assert store.sync_state(1).dirty


def test_saved_one_leaves_the_quarantine(
    store: Driver, claim: Claim, snapshot: RawSnapshot
) -> None:
    store.raw.hset(store.keys.quarantine, "1", "{}")
    store.acknowledge(
        claim, snapshot_version=0, durable_version=0, at_ms=snapshot.at_ms, seal=snapshot.seal
    )
    assert store.sync_state(1).quarantine is not None
    again, _ = store.claim(1, lease_us=LEASE)
    store.acknowledge(
        again, snapshot_version=2, durable_version=2, at_ms=snapshot.at_ms, seal=snapshot.seal
    )
    assert store.sync_state(1).quarantine is None


@pytest.mark.parametrize("durable_version", [2, 1])
def test_core_that_is_gone_is_not_made_again(
    store: Driver, claim: Claim, snapshot: RawSnapshot, durable_version: int
) -> None:
    store.raw.delete(store.keys.core(1))
    is_ours = store.acknowledge(
        claim,
        snapshot_version=2,
        durable_version=durable_version,
        at_ms=snapshot.at_ms,
        seal=snapshot.seal,
    )
    assert is_ours is True
    assert not store.raw.exists(store.keys.core(1))
    assert not store.sync_state(1).dirty


def test_row_of_a_history_that_redis_forgot_marks_the_character(
    store: Driver, claim: Claim, snapshot: RawSnapshot
) -> None:
    keys = store.keys
    store.raw.delete(keys.core(1), keys.dirty, keys.claimed, keys.since, keys.seals)
    store.restore_one(1, 1, {"gold": "1"})  # from its row as it was before that save
    assert not store.acknowledge(
        claim, snapshot_version=9, durable_version=9, at_ms=snapshot.at_ms, seal=snapshot.seal
    )
    assert store.sync_state(1).dirty, "its next backup sees that they are two histories"
