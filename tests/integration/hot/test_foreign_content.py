"""What others put into our own keys: it is skipped, reset or named, and stops nobody."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from statesync.errors import CorruptState

if TYPE_CHECKING:
    from tests.conftest import Driver


@pytest.mark.parametrize(
    ("name", "value"),
    [("x", "bar"), (b"\xff", 1), ("y", "9" * 4000), ("z", "1.5"), ("w", ""), ("v", " 1")],
)
def test_status_skips_what_is_no_counter(store: Driver, name: str | bytes, value: str) -> None:
    store.count({"saved": 2})
    store.raw.hset(store.keys.stats, name, value)
    assert store.status().counters == {"saved": 2}


@pytest.mark.parametrize("field", ["number", "cursor", "began_ms", "paced_from", "entered_ms"])
@pytest.mark.parametrize("text", ["zz", "-1", "", "9" * 30, "9" * 17, "1.5"])
def test_pass_that_is_none_begins_anew(store: Driver, field: str, text: str) -> None:
    for char_id in (1, 2):
        store.create(char_id)
    store.raw.hset(store.keys.sweep, field, text)
    step = store.claim_dirty(
        lease_us=60_000_000, max_in_flight=9, count=100, round_ms=60_000, whole=True
    )
    assert {claim.char_id for claim in step.claims} == {1, 2}
    assert store.raw.hget(store.keys.sweep, "number") == b"1"


def test_pass_that_is_paced_from_never_ends_a_sweep(store: Driver) -> None:
    store.raw.hset(store.keys.sweep, "paced_from", 10**17)
    step = store.claim_dirty(lease_us=60_000_000, max_in_flight=9, count=100, round_ms=60_000)
    assert not step.goes_on


MARKS = ("dirty", "claimed", "since", "quarantine")


@pytest.mark.parametrize("name", MARKS)
def test_mark_of_another_type_is_named_by_what_reads_it(store: Driver, name: str) -> None:
    store.create(1)
    key = getattr(store.keys, name)
    store.raw.delete(key)
    store.raw.set(key, "x")
    own_name = f"'{key.removeprefix(store.keys.prefix)}'"
    reads: list[Callable[[], object]] = [
        store.status,
        lambda: store.sync_state(1),
        lambda: store.pending(limit=9),
    ]
    for read in reads:
        with pytest.raises(CorruptState, match=own_name):
            read()


def test_mark_of_another_type_is_named_by_a_retry(store: Driver) -> None:
    store.raw.hset(store.keys.quarantine, "1", json.dumps(GOOD))
    store.raw.set(store.keys.dirty, "x")
    with pytest.raises(CorruptState, match="'dirty_accounts'"):
        store.retry_quarantined(1)


def test_stats_of_another_type_are_named_by_status(store: Driver) -> None:
    store.raw.set(store.keys.stats, "x")
    with pytest.raises(CorruptState, match="'statesync:stats'"):
        store.status()


GOOD = {"error": "e", "field": None, "attempts": 1, "first_at": 1.5, "last_at": 2}


@pytest.mark.parametrize(
    "change",
    [
        {"field": {"a": 1}},
        {"error": 7},
        {"attempts": 1e300},
        {"attempts": "1"},
        {"first_at": 1e300},
        {"first_at": -1e15},
        {"last_at": 253402300800},
    ],
)
def test_quarantine_entry_of_others_is_said_to_be_such(
    store: Driver, change: dict[str, object]
) -> None:
    entry = json.dumps(GOOD | change)
    store.raw.hset(store.keys.quarantine, mapping={"7": entry, "8": json.dumps(GOOD)})
    entries = {entry.name: entry for entry in store.list_quarantine()[1]}
    assert entries["7"].error == "(this entry is not statesync's)"
    assert entries["7"].field is None
    assert entries["8"] == ("8", "e", None, 1, 1.5, 2.0)
