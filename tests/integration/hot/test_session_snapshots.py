"""All that share a session are snapshotted and acknowledged together."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from statesync.errors import CorruptState
from statesync.hot.commands.acknowledge import SessionAck
from tests.integration.hot.acks import CoreAck, acknowledge_group
from tests.integration.hot.conftest import BIG
from tests.integration.hot.test_session_operations import LEASE, dirty

if TYPE_CHECKING:
    from tests.conftest import Driver


def test_snapshot_includes_all_that_share_a_session(
    store: Driver, party: list[int], fight: UUID
) -> None:
    store.create(8)
    quest = store.open_session("scenario", [BIG, 8], {"quest_id": "q"})
    store.update_session("combat", fight, log=[1, 2])
    mine, _ = store.claim(1, lease_us=LEASE)
    theirs, _ = store.claim(2, lease_us=LEASE)
    snapshot = store.snapshot(mine, lease_us=LEASE)
    assert snapshot.cores.keys() == snapshot.claims.keys() == {1, 2, BIG, 8}
    assert snapshot.claims[1] == mine
    assert snapshot.claims[2].token > theirs.token
    assert snapshot.sessions.keys() == {("combat", str(fight)), ("scenario", str(quest))}
    assert snapshot.sessions["combat", str(fight)][0] == 2
    assert dirty(store) == set()
    for i, claim in snapshot.claims.items():
        assert store.sync_state(i).token == claim.token
        assert int(snapshot.cores[i]["version"]) == store.get(i).version


def test_snapshot_leaves_out_characters_that_are_not_loaded(store: Driver, fight: UUID) -> None:
    store.raw.delete(store.keys.core(2))
    claim, _ = store.claim(1, lease_us=LEASE)
    snapshot = store.snapshot(claim, lease_us=LEASE)
    assert snapshot.claims.keys() == {1, BIG}
    assert snapshot.cores[2] == {}
    assert store.sync_state(2).token is None


def test_refused_snapshot_changes_nothing(store: Driver, fight: UUID) -> None:
    store.raw.hset(store.keys.session("combat", str(fight)), "version", "x")
    store.raw.sadd(store.keys.dirty, 2)
    claim, _ = store.claim(1, lease_us=LEASE)
    with pytest.raises(CorruptState, match=r"combat:session:.*\.version"):
        store.snapshot(claim, lease_us=LEASE)
    assert store.sync_state(2).dirty
    assert store.sync_state(2).token is None


@pytest.mark.parametrize("reference", ["x", "123E4567-E89B-12D3-A456-426614174000", "a" * 36])
def test_reference_that_is_no_uuid(store: Driver, reference: str) -> None:
    store.raw.hset(store.keys.core(1), mapping={"state": "a", "combat_session_id": reference})
    claim, _ = store.claim(1, lease_us=LEASE)
    with pytest.raises(CorruptState) as caught:
        store.snapshot(claim, lease_us=LEASE)
    assert (caught.value.char_id, caught.value.field) == (1, "combat_session_id")


def test_acknowledge_ends_all_claims_and_gives_versions_back(
    store: Driver, party: list[int], fight: UUID
) -> None:
    claim, _ = store.claim(1, lease_us=LEASE)
    snapshot = store.snapshot(claim, lease_us=LEASE)
    others = [CoreAck(snapshot.claims[i], 3, 3) for i in (2, BIG)]
    sessions = [SessionAck("combat", str(fight), 2, 2)]
    assert acknowledge_group(
        store,
        claim,
        snapshot_version=3,
        durable_version=3,
        at_ms=snapshot.at_ms,
        seal=snapshot.seal,
        others=others,
        sessions=sessions,
    )
    assert store.status().claimed == 0
    claim, _ = store.claim(1, lease_us=LEASE)
    snapshot = store.snapshot(claim, lease_us=LEASE)
    others = [CoreAck(snapshot.claims[i], 4, 3) for i in (2, BIG)]
    sessions = [SessionAck("combat", str(fight), 3, 2)]
    for ours in (True, False):
        was_ours = acknowledge_group(
            store,
            claim,
            snapshot_version=4,
            durable_version=3,
            at_ms=snapshot.at_ms,
            seal=snapshot.seal,
            others=others,
            sessions=sessions,
        )
        assert was_ours is ours
    assert [store.get(i).version for i in party] == [3, 3, 3]
    assert store.get_session("combat", fight).version == 2


def test_acknowledge_clears_a_closed_session_away(
    store: Driver, party: list[int], fight: UUID
) -> None:
    store.update_session("combat", fight, log=[1])
    store.close_session("combat", fight)
    claim, _ = store.claim(1, lease_us=LEASE)
    snapshot = store.snapshot(claim, lease_us=LEASE)
    others = [CoreAck(snapshot.claims[i], 3, 3) for i in (2, BIG)]
    sessions = [SessionAck("combat", str(fight), 4, 4, closed=True)]
    newer = {i: store.claim(i, lease_us=LEASE).claim for i in party}
    assert not acknowledge_group(
        store,
        claim,
        snapshot_version=3,
        durable_version=3,
        at_ms=snapshot.at_ms,
        seal=snapshot.seal,
        others=others,
        sessions=sessions,
    )
    assert store.get(1).sessions == {"combat": fight}, "not under a claim that is lost"
    assert acknowledge_group(
        store,
        newer[1],
        snapshot_version=3,
        durable_version=3,
        at_ms=snapshot.at_ms,
        seal=snapshot.seal,
        others=[CoreAck(newer[i], 3, 3) for i in (2, BIG)],
        sessions=sessions,
    )
    assert store.get(1).sessions == {}
    assert 1 in dirty(store), "the cleared reference is to be saved"
    assert not store.raw.exists(store.keys.session("combat", str(fight)))
    assert not store.raw.exists(store.keys.session_log("combat", str(fight)))
