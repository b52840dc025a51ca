"""pending: all that have unsaved changes, the oldest first, within the bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from statesync.hot.commands.operators import Pending

if TYPE_CHECKING:
    from tests.conftest import Driver


def test_none(store: Driver) -> None:
    assert store.pending(limit=10) == (0, 0, 0, [])
    assert store.pending(1, limit=10).characters == []


def test_oldest_comes_first_with_its_marks_and_without_age_last(store: Driver) -> None:
    raw, keys = store.raw, store.keys
    for char_id in (1, 2, 3):
        store.create(char_id, gold=1)
    raw.zadd(keys.since, {"1": 3000, "2": 2000, "3": 1000})
    claim, _ = store.claim(2, lease_us=60_000_000)
    store.update(2, gold=2)
    lost, _ = store.claim(3, lease_us=60_000_000)
    store.quarantine(lost, error="no good", field="gold")
    raw.sadd(keys.dirty, 4)
    raw.hset(keys.quarantine, "Bob", "{}")
    raw.zadd(keys.since, {"77": 5})  # no mark: nothing is unsaved
    dirty, claimed, quarantined, found = store.pending(limit=10)
    assert (dirty, claimed, quarantined) == (3, 1, 2)
    assert [(item.name, item.marks) for item in found] == [
        ("3", ("quarantined",)),
        ("2", ("dirty", "claimed")),
        ("1", ("dirty",)),
        ("4", ("dirty",)),
        ("Bob", ("quarantined",)),
    ]
    assert [item.age_ms is None for item in found] == [False, False, False, True, True]
    assert store.pending(2, limit=10).characters[0].marks == ("dirty", "claimed")
    assert store.pending(4, limit=10).characters == [Pending("4", None, ("dirty",))]
    assert claim.char_id == 2


def test_no_more_than_asked_for(store: Driver) -> None:
    store.raw.sadd(store.keys.dirty, *range(1, 1001))
    found = store.pending(limit=7)
    assert found.dirty == 1000
    assert len({item.name for item in found.characters}) == 7
    store.raw.zadd(store.keys.since, {str(i): i for i in range(1, 6)})
    assert [item.name for item in store.pending(limit=7).characters[:5]] == [
        "1",
        "2",
        "3",
        "4",
        "5",
    ]
    assert len(store.pending(limit=7).characters) == 7
    assert [item.name for item in store.pending(limit=3).characters] == ["1", "2", "3"]


@pytest.mark.parametrize("score", ["-inf", "+inf"])
def test_a_time_that_is_infinite_is_none(store: Driver, score: str) -> None:
    store.create(1)
    store.create(2)
    store.raw.zadd(store.keys.since, {"1": score})
    store.raw.zadd(store.keys.claimed, {"1": score})
    assert store.pending(1, limit=10).characters[0].age_ms is None
    assert {item.name for item in store.pending(limit=10).characters} == {"1", "2"}
    oldest_ms = store.status().oldest_ms
    assert oldest_ms is not None
    assert oldest_ms < 1_000_000, "that of the other one"
    state = store.sync_state(1)
    assert (state.dirty, state.token, state.since_ms) == (True, None, None)
