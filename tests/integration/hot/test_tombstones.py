"""Tombstones: a restore that read it before does not bring back what has ended or is deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from statesync.hot.commands.acknowledge import SessionAck
from statesync.state.references import SessionRef
from statesync.state.sessions import Session
from tests.integration.hot.acks import acknowledge_group

if TYPE_CHECKING:
    from tests.conftest import Driver


@pytest.fixture
def quest(store: Driver) -> UUID:
    """A quest of character 1, at version 1."""
    store.create(1)
    made = store.open_session("scenario", [1], {"quest_id": "q"})
    assert isinstance(made, UUID)
    return made


def restore_late(store: Driver, quest: UUID, char_id: int = 2) -> str:
    """Restore a character with a quest that a worker read long ago; returns what became of it."""
    core = {"scenario_session_id": str(quest)}
    session = Session("scenario", quest, {"quest_id": "q"}, version=1)
    outcome, _ = store.restore_one(char_id, 1, core, sessions={"token": session})
    return str(outcome)


def test_session_that_has_ended(store: Driver, quest: UUID) -> None:
    store.close_session("scenario", quest)
    claim, _ = store.claim(1, lease_us=60_000_000)
    snapshot = store.snapshot(claim)
    ended = SessionAck("scenario", str(quest), 3, 3, closed=True)
    acknowledge_group(
        store, claim, snapshot_version=3, durable_version=3, seal=snapshot.seal, sessions=[ended]
    )
    assert restore_late(store, quest) == "stale"
    assert not store.raw.exists(store.keys.session("scenario", str(quest)))


def test_session_of_a_deleted_character(store: Driver, quest: UUID) -> None:
    assert store.forget(1, [SessionRef("scenario", str(quest))])
    assert restore_late(store, quest) == "stale"
    assert not store.raw.exists(store.keys.session("scenario", str(quest)))


def test_deleted_character(store: Driver, quest: UUID) -> None:
    assert store.forget(1, [])
    assert restore_late(store, quest, char_id=1) == "stale"
    assert not store.raw.exists(store.keys.core(1))


def test_deleted_character_leaves_nothing_but_tombstones(store: Driver) -> None:
    store.create(1)
    fight = store.open_session("combat", [1], {})
    store.update_session("combat", fight, log=["a hit"])
    store.claim(1, lease_us=60_000_000)
    store.update(1, gold=1)
    assert store.forget(1, [SessionRef("combat", str(fight))])
    left = {store.keys.tombstone(1).encode(), store.keys.tombstone(str(fight)).encode()}
    assert left == {
        key
        for key in store.raw.scan_iter(f"{store.keys.prefix}*")
        if not key.startswith(store.keys.idempotency("").encode())
    }
