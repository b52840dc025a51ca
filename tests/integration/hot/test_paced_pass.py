"""claim_dirty: the pass over the dirty set goes around like a clock's hand, once in a round."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Driver

ROUND_MS = 3_600_000
"""An hour, so that the time that a test takes is nothing."""
MANY = range(1, 6001)
FEW = range(1, 301)


def mark(store: Driver, char_ids: Iterable[int] = MANY) -> None:
    store.raw.sadd(store.keys.dirty, *char_ids)


def let_pass(store: Driver, rounds: float) -> None:
    """Let time pass for the hand: put back all times that are noted of it."""
    for name, value in store.raw.hgetall(store.keys.sweep).items():
        if name in (b"began_ms", b"entered_ms") or name.startswith(b"met "):
            store.raw.hset(store.keys.sweep, name, int(value) - round(rounds * ROUND_MS))


def claim_due(
    store: Driver, *, late: float = 0, whole: bool = False, most: int = 100_000
) -> list[int]:
    """Claim step by step what is due; end the claims if more may be in flight."""
    char_ids: list[int] = []
    goes_on = True
    while goes_on:
        claims, goes_on = store.claim_dirty(
            lease_us=60_000_000,
            max_in_flight=most,
            count=50,
            round_ms=ROUND_MS,
            late_ms=round(late * ROUND_MS),
            whole=whole,
        )
        whole = False
        assert len(claims) <= 50
        char_ids += [claim.char_id for claim in claims]
    if len(char_ids) < most:
        store.raw.delete(store.keys.claimed)
    return char_ids


def go_around(store: Driver, slices: int) -> list[int]:
    """Let time pass in twentieths of a round; return all that is claimed."""
    char_ids = []
    for _ in range(slices):
        let_pass(store, 0.05)
        char_ids += claim_due(store)
    return char_ids


@pytest.fixture
def begun(store: Driver) -> Driver:
    """Begin the first round."""
    assert claim_due(store) == []
    return store


def test_each_slice_takes_its_share_and_a_round_takes_each_once(begun: Driver) -> None:
    mark(begun)
    slices = []
    for _ in range(10):
        let_pass(begun, 0.1)
        slices.append(claim_due(begun))
        assert claim_due(begun) == [], "a second message finds nothing that is due"
    assert sorted(char_id for one in slices for char_id in one) == [*MANY]
    assert all(400 < len(one) < 800 for one in slices), [*map(len, slices)]


def test_slice_after_a_lost_one_takes_the_share_of_both(begun: Driver) -> None:
    mark(begun)
    let_pass(begun, 0.1)
    claim_due(begun)
    let_pass(begun, 0.2)
    assert 1000 < len(claim_due(begun)) < 1400


def test_what_has_waited_longest_comes_first(begun: Driver) -> None:
    mark(begun)
    first = go_around(begun, 10)
    mark(begun, first)
    second = {*go_around(begun, 10)}
    assert second >= {*MANY} - {*first}, "they have waited from the beginning"
    assert len(second & {*first}) < 2000, "a server that shrinks the set may show some twice"
    assert second | {*go_around(begun, 11)} == {*MANY}


def test_few_marks_come_once_in_a_round(begun: Driver) -> None:
    """However often one that changes all the time is marked, it is saved once in a round."""
    for passes in (1, 2, 3):
        mark(begun, FEW)
        let_pass(begun, 0.9)
        assert claim_due(begun) == []
        let_pass(begun, 0.15)
        assert sorted(claim_due(begun)) == [*FEW]
        assert int(begun.raw.hget(begun.keys.sweep, "number")) == passes


def test_many_marks_after_few_wait_no_longer_than_a_round(begun: Driver) -> None:
    mark(begun, FEW)
    let_pass(begun, 1)
    assert sorted(claim_due(begun)) == [*FEW]
    mark(begun)
    let_pass(begun, 0.5)
    assert 2500 < len(claim_due(begun)) < 3500, "and are spread evenly over it"
    let_pass(begun, 0.5)
    assert begun.status().dirty and claim_due(begun)
    assert begun.status().dirty == 0


def test_few_marks_after_many_wait_no_longer_than_a_round(begun: Driver) -> None:
    """A page of what is left is met when its first place is due, and not when its last one is."""
    mark(begun)
    assert sorted(go_around(begun, 20)) == [*MANY]
    mark(begun, FEW)
    assert sorted(go_around(begun, 8)) == [*FEW]


def test_hand_that_is_late_goes_on_at_once(begun: Driver) -> None:
    mark(begun)
    behind = go_around(begun, 10)
    mark(begun, behind)
    let_pass(begun, 0.75)
    late = claim_due(begun)
    assert {*late} >= {*MANY} - {*behind}, "the rest of its round"
    assert len({*late} & {*behind}) > 500, "and those that it met more than a round ago"


def test_after_an_outage_one_whole_round_is_late(begun: Driver) -> None:
    mark(begun)
    mark(begun, go_around(begun, 10))
    let_pass(begun, 100)
    assert sorted(claim_due(begun)) == [*MANY]
    mark(begun)
    assert claim_due(begun) == []
    let_pass(begun, 0.1)
    assert len(claim_due(begun)) < 800, "then it is on time"


def test_only_what_is_late_enough(begun: Driver) -> None:
    mark(begun)
    let_pass(begun, 0.5)
    assert 1300 < len(claim_due(begun, late=0.25)) < 1700
    assert claim_due(begun, late=0.25) == []


def test_whole_sweep_that_did_not_fit_is_due_for_all_others(begun: Driver) -> None:
    mark(begun)
    let_pass(begun, 0.5)
    claim_due(begun)
    mark(begun)
    assert len(claim_due(begun, whole=True, most=10)) == 10
    begun.raw.delete(begun.keys.claimed)
    assert len(claim_due(begun, late=0.25)) == len(MANY) - 10
    mark(begun)
    assert claim_due(begun) == [], "what is marked afterwards waits for its turn"
    let_pass(begun, 1.05)
    assert sorted(claim_due(begun)) == [*MANY]


def test_whole_sweep_that_finds_no_room_is_due_for_all_others(begun: Driver) -> None:
    mark(begun)
    begun.raw.zadd(begun.keys.claimed, {"7000": 1})
    assert claim_due(begun, whole=True, most=1) == []
    assert sorted(claim_due(begun)) == [*MANY]


def test_clock_of_the_server_that_went_back_stops_nothing(begun: Driver) -> None:
    mark(begun)
    let_pass(begun, 0.5)
    claim_due(begun)
    let_pass(begun, -10)
    assert claim_due(begun) == []
    let_pass(begun, 0.9)  # a page of a set that has shrunk is a large part of the round
    claim_due(begun)
    assert begun.status().dirty == 0
