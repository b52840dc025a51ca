"""Snapshots and acknowledgements of groups: claims, marks and versions of every member."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from statesync.errors import CorruptState
from statesync.hot.commands.acknowledge import SessionAck
from statesync.hot.commands.backup import NeedsKeys, RawSnapshot
from statesync.hot.commands.claims import Claim
from statesync.state.fields import TIE_FIELD
from statesync.state.references import SessionRef
from tests.integration.hot.acks import CoreAck, acknowledge_group, group_ack

if TYPE_CHECKING:
    from tests.conftest import Driver

LEASE = 60_000_000


@pytest.fixture
def traders(store: Driver) -> Driver:
    """Characters 1 and 2 have traded; 3 is alone."""
    for char_id in (1, 2, 3):
        store.create(char_id)
    store.update_together({1: {"gold": 0}, 2: {"gold": 2}})
    return store


def both(store: Driver) -> tuple[list[Claim], list[RawSnapshot]]:
    """Take the snapshots of the traders and of 3 in one script."""
    claims = [store.claim(char_id, lease_us=LEASE).claim for char_id in (1, 3)]
    known: frozenset[str] = frozenset()
    while True:
        todo = [(claims[0], known), (claims[1], ())]
        group, alone = store.try_snapshots(todo, lease_us=LEASE)
        if isinstance(group, RawSnapshot):
            return claims, [group, alone]
        assert isinstance(group, NeedsKeys)
        known = group.members


def test_snapshots_of_several_groups_in_one_script(traders: Driver) -> None:
    _, (group, alone) = both(traders)
    assert group.cores.keys() == {1, 2}
    assert len(group.ties) == 1
    assert alone.cores.keys() == alone.claims.keys() == {3}


def test_member_of_another_group_in_the_script_is_not_known_to_this_one(traders: Driver) -> None:
    fight = traders.open_session("combat", [3], {})
    session = SessionRef("combat", str(fight))
    # It names 2, which does not point at it: so 2 is in its group, and it is not in that of 2.
    traders.raw.hset(traders.keys.session(*session), "participants", "[3,2]")
    claims = [traders.claim(char_id, lease_us=LEASE).claim for char_id in (1, 3)]
    tie = traders.raw.hget(traders.keys.core(1), TIE_FIELD).decode()
    known = (frozenset({"1", "2", tie}), frozenset({"3", session.member}))
    group, other = traders.try_snapshots(list(zip(claims, known, strict=True)), lease_us=LEASE)
    assert group.cores.keys() == {1, 2}
    assert isinstance(other, NeedsKeys)
    assert "2" in other.members


def test_broken_member_is_refused_when_its_group_is_known(traders: Driver) -> None:
    traders.raw.hset(traders.keys.core(1), "version", "x")
    claim, _ = traders.claim(1, lease_us=LEASE)
    known: frozenset[str] = frozenset()
    while isinstance(
        result := traders.try_snapshots([(claim, known)], lease_us=LEASE)[0], NeedsKeys
    ):
        known = result.members
    assert isinstance(result, CorruptState)
    assert known > {"1", "2"}, "who else is set aside with it"


def test_acknowledgement_of_several_groups_in_one_script(traders: Driver) -> None:
    claims, (group, alone) = both(traders)
    first = group_ack(
        1,
        [CoreAck(claims[0], 3, 3), CoreAck(group.claims[2], 3, 3)],
        (),
        group.ties,
        seal=group.seal,
    )
    version = int(alone.cores[3]["version"])
    then = group_ack(1, [CoreAck(claims[1], version, version)], seal=alone.seal)
    assert not traders.acknowledge_many([first, then])
    assert traders.get(3).saved_version == version
    assert traders.status().claimed == 0


def test_claim_on_another_member_rises_above_any_that_is_out(traders: Driver) -> None:
    theirs, _ = traders.claim(2, lease_us=10 * LEASE)
    mine, _ = traders.claim(1, lease_us=LEASE)
    assert traders.snapshot(mine, lease_us=LEASE).claims[2].token > theirs.token


def test_changes_of_bare_writers_have_an_age(traders: Driver) -> None:
    traders.raw.delete(traders.keys.since, traders.keys.dirty)
    traders.raw.sadd(traders.keys.dirty, 1, 2)
    mine, _ = traders.claim(1, lease_us=LEASE)
    assert traders.sync_state(1).since_ms
    assert traders.claim(1, lease_us=LEASE).was_dirty, "the claim that is out is on a dirty one"
    mine, _ = traders.claim(1, lease_us=LEASE)
    traders.snapshot(mine, lease_us=LEASE)
    assert traders.sync_state(2).since_ms


@pytest.mark.parametrize("durable_version", [2, 1])
def test_core_that_is_no_hash_any_more_is_marked(traders: Driver, durable_version: int) -> None:
    claim, _ = traders.claim(3, lease_us=LEASE)
    seal = traders.snapshot(claim).seal
    traders.raw.delete(traders.keys.core(3))
    traders.raw.set(traders.keys.core(3), "x")
    assert traders.acknowledge(
        claim, snapshot_version=2, durable_version=durable_version, at_ms=1, seal=seal
    )
    assert traders.sync_state(3).dirty, "its next backup says so"


def close(store: Driver, fight: UUID) -> tuple[Claim, SessionAck, int]:
    """Close a fight of character 3 and take its snapshot; returns its seal, too."""
    store.close_session("combat", fight)
    claim, _ = store.claim(3, lease_us=LEASE)
    seal = store.snapshot(claim, lease_us=LEASE).seal
    return claim, SessionAck("combat", str(fight), 3, 3, closed=True), seal


def test_cleared_reference_is_at_a_version_of_its_own(traders: Driver) -> None:
    claim, closed, seal = close(traders, traders.open_session("combat", [3], {}))
    version = traders.get(3).version
    assert acknowledge_group(
        traders,
        claim,
        snapshot_version=version,
        durable_version=version,
        at_ms=1,
        sessions=[closed],
        seal=seal,
    )
    core = traders.get(3)
    assert (core.sessions, core.version, core.saved_version) == ({}, version + 1, version)


def test_end_of_a_session_leaves_the_next_one_alone(traders: Driver) -> None:
    claim, closed, seal = close(traders, traders.open_session("combat", [3], {}))
    following = uuid4()
    traders.raw.hset(traders.keys.core(3), "combat_session_id", str(following))
    assert acknowledge_group(
        traders, claim, snapshot_version=3, durable_version=3, sessions=[closed], seal=seal
    )
    assert traders.get(3).sessions == {"combat": following}


def test_cleared_reference_leaves_an_older_change_its_age(traders: Driver) -> None:
    fight = traders.open_session("combat", [3], {})
    claim, closed, seal = close(traders, fight)
    late = traders.keys.core(4)  # it logs in while the session closes, and is played
    traders.raw.hset(late, mapping={"combat_session_id": str(fight), "version": 1})
    traders.raw.sadd(traders.keys.dirty, 4)
    traders.raw.zadd(traders.keys.since, {"4": 5})
    cores = [CoreAck(claim, 3, 3), CoreAck(Claim(4, 0))]
    assert traders.acknowledge_many([group_ack(1_000_000, cores, [closed], seal=seal)]) == {1}
    assert not traders.raw.hexists(late, "combat_session_id")
    assert traders.sync_state(4).since_ms == 5


def test_one_that_is_tied_elsewhere_stays_so(traders: Driver) -> None:
    traders.raw.hdel(traders.keys.core(1), TIE_FIELD)  # it was lost, and came back from its row
    traders.update_together({1: {"gold": 0}, 3: {"gold": 2}})
    tie = traders.raw.hget(traders.keys.core(1), TIE_FIELD)
    claim, _ = traders.claim(2, lease_us=LEASE)
    snapshot = traders.snapshot(claim, lease_us=LEASE)
    assert snapshot.cores.keys() == {1, 2, 3}
    traders.update_together({1: {"gold": 1}, 3: {"gold": 1}})
    cores = [CoreAck(snapshot.claims[i], 9, 9) for i in (2, 1, 3)]
    traders.acknowledge_many([group_ack(1, cores, (), snapshot.ties)])
    assert traders.raw.hget(traders.keys.core(1), TIE_FIELD) == tie
    assert not traders.raw.hexists(traders.keys.core(2), TIE_FIELD)
