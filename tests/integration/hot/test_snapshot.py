"""snapshot: one instant of a character, in an order that no writer can disturb."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from statesync.errors import CorruptState, LeaseLost
from statesync.hot.commands.backup import Later, RawSnapshot
from statesync.state.fields import MAX_CORE_BYTES

if TYPE_CHECKING:
    from tests.conftest import Driver

LEASE = 60_000_000


def test_snapshot_raises_the_version(store: Driver) -> None:
    store.create(1, gold=1)
    claim, _ = store.claim(1, lease_us=LEASE)
    versions = [store.snapshot(claim).cores[1]["version"] for _ in range(3)]
    assert versions == ["2", "3", "4"]
    assert store.get(1).version == 4
    assert store.snapshot(claim).cores[1]["gold"] == "1"


def test_bare_change_between_two_snapshots_is_ordered(store: Driver) -> None:
    store.create(1, gold=1)
    claim, _ = store.claim(1, lease_us=LEASE)
    before = store.snapshot(claim).cores[1]
    store.raw.hset(store.keys.core(1), "gold", 2)
    after = store.snapshot(claim).cores[1]
    assert int(after["version"]) > int(before["version"])
    assert (before["gold"], after["gold"]) == ("1", "2")


def test_snapshot_takes_the_mark_that_it_covers(store: Driver) -> None:
    store.create(1, gold=1)
    claim, _ = store.claim(1, lease_us=LEASE)
    store.update(1, gold=2)
    assert store.snapshot(claim).cores[1]["gold"] == "2"
    assert not store.sync_state(1).dirty
    store.update(1, gold=3)
    assert store.sync_state(1).dirty


def test_superseded_claim_reads_nothing(store: Driver) -> None:
    store.create(1, gold=1)
    old, _ = store.claim(1, lease_us=LEASE)
    new, _ = store.claim(1, lease_us=LEASE)
    store.mark_dirty(1)
    with pytest.raises(LeaseLost) as caught:
        store.snapshot(old)
    assert caught.value.char_id == 1
    assert store.get(1).version == 2, "a refused snapshot changes nothing"
    assert store.sync_state(1).dirty
    assert store.snapshot(new).cores[1]["version"] == "3"


def test_requeued_claim_reads_nothing(store: Driver) -> None:
    store.create(1)
    claim, _ = store.claim(1, lease_us=LEASE)
    store.raw.zadd(store.keys.claimed, {"1": 1})
    store.requeue(10)
    with pytest.raises(LeaseLost):
        store.snapshot(claim)


def test_core_that_is_gone_is_empty(store: Driver) -> None:
    claim, _ = store.claim(1, lease_us=LEASE)
    snapshot = store.snapshot(claim)
    assert snapshot.cores == {1: {}}
    assert snapshot.claims == {}
    assert snapshot.at_ms > 0
    assert not store.raw.exists(store.keys.core(1))


@pytest.mark.parametrize("version", ["x", "1.5", "", str(2**63 - 1)])
def test_version_that_is_no_integer(store: Driver, version: str) -> None:
    store.raw.hset(store.keys.core(1), "version", version)
    claim, _ = store.claim(1, lease_us=LEASE)
    with pytest.raises(CorruptState) as caught:
        store.snapshot(claim)
    assert caught.value.field == "version"
    assert store.raw.hget(store.keys.core(1), "version") == version.encode()


def test_key_that_is_no_hash(store: Driver) -> None:
    store.raw.set(store.keys.core(1), "x")
    claim, _ = store.claim(1, lease_us=LEASE)
    with pytest.raises(CorruptState, match="not of the type"):
        store.snapshot(claim)


def test_core_that_is_too_large_names_its_largest_field(store: Driver) -> None:
    large = b"x" * MAX_CORE_BYTES
    store.raw.hset(store.keys.core(1), mapping={"gold": 1, "my notes": large, "version": 4})
    claim, _ = store.claim(1, lease_us=LEASE)
    with pytest.raises(CorruptState) as caught:
        store.snapshot(claim)
    assert caught.value.field == "my notes"
    assert str(MAX_CORE_BYTES) in caught.value.reason
    assert store.raw.hget(store.keys.core(1), "version") == b"4"


def test_groups_beyond_the_budget_of_a_script_come_later(store: Driver) -> None:
    large = "x" * (MAX_CORE_BYTES // 2)
    claims = []
    for char_id in range(1, 6):
        store.create(char_id, note=large if char_id < 5 else "small")
        claims.append(store.claim(char_id, lease_us=LEASE).claim)
        store.mark_dirty(char_id)
    results = store.try_snapshots([(claim, ()) for claim in claims], lease_us=LEASE)
    assert [type(result) for result in results] == [RawSnapshot, RawSnapshot, Later, Later, Later]
    versions = [store.get(claim.char_id).version for claim in claims]
    assert versions == [3, 3, 2, 2, 2], "nothing is done for those that come later"
    assert [store.sync_state(claim.char_id).dirty for claim in claims] == [False] * 2 + [True] * 3
    again = store.try_snapshots([(claim, ()) for claim in claims[2:]], lease_us=LEASE)
    assert [type(result) for result in again] == [RawSnapshot, RawSnapshot, Later]
