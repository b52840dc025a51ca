"""Seals in Redis: which histories a core knows, after each step of a snapshot's life."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from statesync.errors import LeaseLost
from statesync.hot.commands.acknowledge import SessionAck
from statesync.hot.commands.backup import (
    RawSnapshot,
    SealsFull,
)
from statesync.hot.commands.claims import Claim
from statesync.hot.commands.seals import Withdrawn
from statesync.state.seals import FULL_BYTES, LAID
from statesync.state.sessions import Session
from tests.integration.hot.acks import CoreAck, group_ack

if TYPE_CHECKING:
    from tests.conftest import Driver

LEASE = 60_000_000


def words(store: Driver, member: object = 1) -> str | None:
    """Return the entry of a core or session."""
    raw = store.raw.hget(store.keys.seals, str(member))
    return None if raw is None else raw.decode()


def write_words(store: Driver, *entry: object, member: object = 1) -> None:
    store.raw.hset(store.keys.seals, str(member), " ".join(map(str, entry)))


@pytest.fixture
def claim(store: Driver) -> Claim:
    """A claim on character 1, whose core is saved under the seal 5."""
    store.create(1, gold=1)
    store.raw.hset(store.keys.core(1), "saved_version", 1)
    write_words(store, 5)
    claim, _ = store.claim(1, lease_us=LEASE)
    assert isinstance(claim, Claim)
    return claim


def take(store: Driver, claim: Claim) -> RawSnapshot:
    snapshot = store.snapshot(claim, lease_us=LEASE)
    assert isinstance(snapshot, RawSnapshot)
    return snapshot


def acknowledge(store: Driver, claim: Claim, snapshot: RawSnapshot, row_seal: int) -> Any:
    """Acknowledge character 1, whose row has a seal now; that of 5 is at version 1."""
    version = int(snapshot.cores[1]["version"])
    core = CoreAck(claim, version, 1 if row_seal == 5 else version, row_seal)
    return not store.acknowledge_many([group_ack(snapshot.at_ms, [core], seal=snapshot.seal)])


# The snapshot


def test_snapshot_adds_its_seal_and_says_what_was_known_before(store: Driver, claim: Claim) -> None:
    first, second = take(store, claim), take(store, claim)
    assert first.seals[1].words == ("5",)
    assert second.seals[1].words == ("5", str(first.seal))
    assert words(store) == f"5 {first.seal} {second.seal}"
    assert first.seals[1].own == first.seal != second.seal


@pytest.mark.parametrize("note", ["created", "bare"])
def test_first_snapshot_says_how_the_core_was_made(store: Driver, note: str) -> None:
    if note == "created":
        store.create(1, gold=1)
    else:
        store.raw.hset(store.keys.core(1), "gold", 1)
    claim, _ = store.claim(1, lease_us=LEASE)
    first, second = take(store, claim), take(store, claim)
    assert first.seals[1].words == (None if note == "bare" else ("created",))
    assert second.seals[1].words == (note, str(first.seal))


def test_refused_snapshot_adds_no_seal(store: Driver, claim: Claim) -> None:
    newer, _ = store.claim(1, lease_us=LEASE)
    with pytest.raises(LeaseLost):
        store.snapshot(claim, lease_us=LEASE)
    assert words(store) == "5"
    take(store, newer)
    assert words(store) != "5"


def test_sessions_have_seals_of_their_own(store: Driver) -> None:
    store.create(1, gold=1)
    fight = store.open_session("combat", [1], {"round": 1})
    claim, _ = store.claim(1, lease_us=LEASE)
    snapshot = take(store, claim)
    assert words(store, fight) == f"bare {snapshot.seal}"
    assert snapshot.seals[fight].words is None
    assert words(store) == f"created {snapshot.seal}"


@pytest.mark.parametrize("of_session", [False, True])
def test_full_entry_lets_no_snapshot_be_taken(store: Driver, *, of_session: bool) -> None:
    store.create(1, gold=1)
    fight = store.open_session("combat", [1], {"round": 1})
    claim, _ = store.claim(1, lease_us=LEASE)
    take(store, claim)
    full = " ".join(["9" * 19] * 33)
    assert len(full) > FULL_BYTES
    write_words(store, full, member=fight if of_session else 1)
    version = store.get(1).version
    known = {"1", f"combat:{fight}"}
    assert store.try_snapshots([(claim, known)], lease_us=LEASE) == [SealsFull()]
    assert (store.get(1).version, words(store, fight if of_session else 1)) == (version, full)


# Acknowledge


def test_seals_before_the_durable_one_go(store: Driver, claim: Claim) -> None:
    first = take(store, claim)
    again, _ = store.claim(1, lease_us=LEASE)
    second = take(store, again)
    assert acknowledge(store, again, second, second.seal) is True
    assert words(store) == str(second.seal)
    acknowledge(store, claim, first, first.seal)
    assert words(store) == str(second.seal), "an earlier one comes too late"


def test_seals_after_the_durable_one_stay(store: Driver, claim: Claim) -> None:
    first = take(store, claim)
    again, _ = store.claim(1, lease_us=LEASE)
    second = take(store, again)
    assert acknowledge(store, claim, first, first.seal) is False
    assert words(store) == f"{first.seal} {second.seal}", "its commit may be on its way"


def test_note_of_a_deletion_outlives_an_acknowledgement(store: Driver, claim: Claim) -> None:
    write_words(store, 5, "deleted")
    snapshot = take(store, claim)
    acknowledge(store, claim, snapshot, snapshot.seal)
    assert words(store) == f"deleted {snapshot.seal}"


def test_unchanged_one_withdraws_its_own_seal(store: Driver, claim: Claim) -> None:
    snapshot = take(store, claim)
    assert acknowledge(store, claim, snapshot, 5) is True
    assert words(store) == "5"


def test_unchanged_one_that_lost_its_claim_withdraws_nothing(store: Driver, claim: Claim) -> None:
    snapshot = take(store, claim)
    store.claim(1, lease_us=LEASE)
    acknowledge(store, claim, snapshot, 5)
    assert words(store) == f"5 {snapshot.seal}"


def test_unknown_seal_of_an_equal_row_is_adopted_under_the_claim(
    store: Driver, claim: Claim
) -> None:
    snapshot = take(store, claim)
    assert acknowledge(store, claim, snapshot, 77) is True
    assert words(store) == "77"
    assert store.get(1).saved_version == 2
    assert not store.sync_state(1).dirty


def test_unknown_seal_without_the_claim_marks(store: Driver, claim: Claim) -> None:
    snapshot = take(store, claim)
    store.claim(1, lease_us=LEASE)
    assert acknowledge(store, claim, snapshot, 77) is False
    assert words(store) == f"5 {snapshot.seal}"
    assert store.get(1).saved_version == 1
    assert store.sync_state(1).dirty


@pytest.mark.parametrize("row_seal", [77, None])
def test_snapshot_that_redis_forgot_acknowledges_nothing(
    store: Driver, claim: Claim, row_seal: int | None
) -> None:
    """Redis went back between: the claim is as it was, the seal is not there, nor the change."""
    snapshot = take(store, claim)
    write_words(store, 5)
    store.raw.hset(store.keys.core(1), mapping={"version": 1, "saved_version": 1})
    acknowledge(store, claim, snapshot, row_seal or snapshot.seal)
    assert words(store) == "5"
    assert store.get(1).saved_version == 1
    assert store.sync_state(1).dirty


# Withdraw and cut


def test_withdrawn_seal_goes_and_the_others_stay(store: Driver, claim: Claim) -> None:
    first, second = take(store, claim), take(store, claim)
    store.withdraw([Withdrawn(first.seal, [claim])])
    assert words(store) == f"5 {second.seal}"


def test_seal_is_not_withdrawn_without_the_claim(store: Driver, claim: Claim) -> None:
    snapshot = take(store, claim)
    store.claim(1, lease_us=LEASE)
    store.withdraw([Withdrawn(snapshot.seal, [claim])])
    assert words(store) == f"5 {snapshot.seal}"


@pytest.mark.parametrize("lost", [False, True])
def test_seal_of_a_session_is_withdrawn_under_all_claims(store: Driver, *, lost: bool) -> None:
    for char_id in (1, 2):
        store.create(char_id, gold=1)
    fight = store.open_session("combat", [1, 2], {"round": 1})
    claim, _ = store.claim(1, lease_us=LEASE)
    snapshot = take(store, claim)
    if lost:
        store.claim(2, lease_us=LEASE)
    store.withdraw([Withdrawn(snapshot.seal, [*snapshot.claims.values()], [str(fight)])])
    assert words(store, 1) == "created"
    assert words(store, 2) == (f"created {snapshot.seal}" if lost else "created")
    assert words(store, fight) == (f"bare {snapshot.seal}" if lost else "bare")


def test_entry_is_cut_to_the_seal_that_the_row_has(store: Driver, claim: Claim) -> None:
    write_words(store, "deleted", 5, 6, 7)
    assert store.cut_seals(claim, {"1": 7}) is True
    assert words(store) == "deleted 7"
    store.claim(1, lease_us=LEASE)
    write_words(store, 5, 6, 7)
    assert store.cut_seals(claim, {"1": 7}) is False
    assert words(store) == "5 6 7"


# What else begins or ends an entry


def test_created_core_knows_nothing_of_an_entry_that_was_left(store: Driver) -> None:
    write_words(store, 5, 6)
    store.create(1, gold=1)
    assert words(store) == "created"


@pytest.mark.parametrize(
    ("before", "seal", "after"),
    [
        (None, 7, "7"),
        ("5 6", 7, "7"),
        ("5 6", None, None),
        ("5 deleted", 7, "deleted 7"),
        ("5 deleted", None, "deleted"),
    ],
)
def test_restored_core_knows_its_row(
    store: Driver, before: str | None, seal: int | None, after: str | None
) -> None:
    if before:
        write_words(store, before)
    seals = {} if seal is None else {1: seal}
    store.restore_one(1, 4, {"gold": "1"}, seals=seals)
    assert words(store) == after


def test_restored_session_knows_its_row(store: Driver) -> None:
    fight = uuid4()
    write_words(store, 5, member=fight)
    session = Session("combat", fight, {"participants": [1]}, 3)
    core = {"combat_session_id": str(fight)}
    store.restore_one(1, 4, core, {"log": session}, seals={1: 7, fight: 8})
    assert (words(store), words(store, fight)) == ("7", "v3 8")


def test_entry_of_a_session_says_at_which_version_it_was_saved(store: Driver) -> None:
    store.create(1, gold=1)
    fight = store.open_session("combat", [1], {"round": 1})
    seals = []
    for _ in range(2):
        store.update_session("combat", fight, {"round": 2})
        claim, _ = store.claim(1, lease_us=LEASE)
        snapshot = take(store, claim)
        version = store.get_session("combat", fight).version
        core = CoreAck(claim, int(snapshot.cores[1]["version"]), 9, snapshot.seal)
        session = SessionAck("combat", str(fight), version, version, seal=snapshot.seal)
        ack = group_ack(snapshot.at_ms, [core], [session], seal=snapshot.seal)
        for _ in range(2):  # a lost reply
            store.acknowledge_many([ack])
        assert words(store, fight) == f"v{version} {snapshot.seal}"
        seals.append(snapshot.seals[fight])
    first, second = seals
    assert first.saved_version is None
    assert second.saved_version == 3


def test_core_that_is_laid_over_its_row_counts_as_a_sweep(store: Driver) -> None:
    store.raw.hset(store.keys.core(1), "gold", 1)
    claim, _ = store.claim(1, lease_us=LEASE)
    seal = take(store, claim).seal
    laid: dict[str, Any] = {"seal": seal, "version": 9, "row_seal": 7, "stump_sweeps": 4}
    for sweeps in ("3", "junk"):
        store.raw.hset(store.keys.servers, "sweeps", sweeps)
        assert store.reconcile(claim, **laid) is False, "Redis has gone back since"
    store.raw.hset(store.keys.servers, "sweeps", 4)
    assert store.reconcile(claim, **laid) is True
    assert store.raw.hget(store.keys.servers, "sweeps") == b"5"
    assert words(store) == "laid 7"
    snapshot = take(store, claim)
    assert (snapshot.head.sweeps, snapshot.seals[1].has(LAID)) == (5, True)
    store.cut_seals(claim, {"1": snapshot.seal})
    assert words(store) == f"laid {snapshot.seal}", "nothing is saved by that"
    later = take(store, claim)
    acknowledge(store, claim, snapshot, snapshot.seal)
    assert words(store) == f"{snapshot.seal} {later.seal}"
    write_words(store, "laid", later.seal)
    claim, _ = store.claim(1, lease_us=LEASE)
    later = take(store, claim)
    acknowledge(store, claim, later, later.seal)
    assert words(store) == str(later.seal)


def test_session_of_another_history_is_not_acknowledged(store: Driver) -> None:
    """It has ended meanwhile, and its id is used again: the claim is ours, the session is not."""
    store.create(1, gold=1)
    fight = store.open_session("combat", [1], {"round": 1})
    claim, _ = store.claim(1, lease_us=LEASE)
    snapshot = take(store, claim)
    store.raw.hset(store.keys.seals, str(fight), "created")
    core = CoreAck(claim, int(snapshot.cores[1]["version"]), 9, snapshot.seal)
    session = SessionAck("combat", str(fight), 1, 1, seal=snapshot.seal)
    store.acknowledge_many([group_ack(snapshot.at_ms, [core], [session], seal=snapshot.seal)])
    assert words(store, fight) == "created"


def test_live_core_keeps_its_entry(store: Driver, claim: Claim) -> None:
    store.restore_one(1, 9, {"gold": "2"}, seals={1: 7})
    assert words(store) == "5"


def test_evicted_ones_leave_no_entry(store: Driver, claim: Claim) -> None:
    fight = store.open_session("combat", [1], {"round": 1})
    again, _ = store.claim(1, lease_us=LEASE)
    snapshot = take(store, again)
    acknowledge(store, again, snapshot, snapshot.seal)
    assert words(store, fight) is not None
    assert store.evict(1)
    assert (words(store), words(store, fight)) == (None, None)


def test_deletion_is_noted_once_and_ends_the_claim(store: Driver, claim: Claim) -> None:
    take(store, claim)
    for _ in range(2):
        store.note_deletion(1)
        assert (words(store) or "").split()[-1] == "deleted"
    assert (words(store) or "").count("deleted") == 1
    assert store.sync_state(1).token is None
    assert store.sync_state(1).dirty, "its older snapshot does not know of the deletion"
    store.forget(1, [])
    assert words(store) is None


def test_deletion_of_one_that_is_not_loaded_marks_nobody(store: Driver) -> None:
    store.note_deletion(1)
    assert words(store) == "deleted"
    assert not store.sync_state(1).dirty


def test_no_entry_is_no_seal(store: Driver) -> None:
    fight = UUID(int=7)
    write_words(store, 5, member=fight)
    found = store.read_seals(["1", str(fight)])
    assert (found["1"].words, found[str(fight)].words) == (None, ("5",))
    assert found[str(fight)].last == 5
