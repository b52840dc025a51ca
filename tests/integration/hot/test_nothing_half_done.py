"""A script that is refused has changed nothing, whatever key is not of its type."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from statesync.errors import CorruptState, StatesyncError
from statesync.hot.commands.acknowledge import GroupAck, SessionAck
from statesync.hot.commands.claims import Claim
from statesync.hot.commands.together import Together
from statesync.hot.commands.transfer import RestoreItem
from statesync.state.references import SessionRef
from statesync.state.sessions import Session
from tests.integration.hot.acks import CoreAck, group_ack

if TYPE_CHECKING:
    from tests.conftest import Driver

SEAL = 5
LEASE = 60_000_000
FIGHT, BAG, LATE = uuid4(), uuid4(), uuid4()
CROWD = 9_000


@pytest.fixture
def scene(store: Driver) -> tuple[Driver, Claim]:
    """A fight of 1 and 2, where 3 and 4 have traded; 5 is in quarantine, 7 saved; a claim on 1."""
    for char_id in range(1, 8):
        store.create(char_id, gold=1)
    store.raw.hset(store.keys.core(7), "saved_version", 1)
    store.raw.srem(store.keys.dirty, 7)
    store.open_session("combat", [1, 2], {"monsters": []}, session_id=FIGHT)
    store.open_session("inventory", [1], {"items": []}, session_id=BAG)
    store.update_session("combat", FIGHT, log=["hit"])
    store.update_together({3: {"gold": 0}, 4: {"gold": 2}})
    store.quarantine(store.claim(5, lease_us=LEASE).claim, error="broken", field="bio")
    store.count({"saved": 1})
    claim = store.claim(1, lease_us=LEASE).claim
    store.raw.hset(store.keys.seals, mapping={"1": SEAL, str(FIGHT): SEAL})
    store.mark_dirty(1)
    return store, claim


def everything(store: Driver) -> dict[bytes, bytes]:
    return {key: store.raw.dump(key) for key in store.raw.scan_iter(f"{store.keys.prefix}*")}


def closed_group(claim: Claim) -> GroupAck:
    cores = [CoreAck(claim, 4, 4, SEAL), CoreAck(Claim(2, 0))]
    session = SessionAck("combat", str(FIGHT), 2, 2, True, SEAL)
    return group_ack(1, cores, [session], seal=SEAL)


Call = Callable[["Driver", Claim], Any]

WRITES: dict[str, Call] = {
    "create": lambda store, _: store.create(9),
    "update": lambda store, _: store.update(6, gold=2),
    "trade": lambda store, _: store.update_together(
        Together().update(1, gold=0).update(4, gold=3).update_session("combat", FIGHT, log=["x"])
    ),
    "open_session": lambda store, _: store.open_session("scenario", [1, 2], {"quest_id": "q"}),
    "update_session": lambda store, _: store.update_session("combat", FIGHT, {"turn_order": []}),
    "log": lambda store, _: store.update_session("combat", FIGHT, {"turn_order": []}, log=["x"]),
    "close_session": lambda store, _: store.close_session("combat", FIGHT),
    "join_session": lambda store, _: store.join_session("combat", FIGHT, 3),
    "leave_session": lambda store, _: store.leave_session("combat", FIGHT, 1),
    "claim": lambda store, _: store.claim(6, lease_us=LEASE),
    "claim_dirty": lambda store, _: store.claim_dirty(
        lease_us=LEASE, max_in_flight=9, count=9, round_ms=60_000, whole=True
    ),
    "release": lambda store, claim: store.release(claim),
    "requeue": lambda store, _: store.requeue(9, include_unexpired=True),
    "quarantine": lambda store, claim: store.quarantine(claim, error="broken", field=""),
    "snapshot": lambda store, claim: store.snapshot(claim),
    "acknowledge": lambda store, claim: store.acknowledge_many([closed_group(claim)]),
    "restore": lambda store, _: store.restore(
        [
            RestoreItem(8, 1, {"state": "x"}, changed=True),
            RestoreItem(9, 1, {}, {"x": Session("combat", LATE)}),
        ]
    ),
    "evict": lambda store, _: store.evict(7),
    "mark_unsaved": lambda store, _: store.mark_unsaved(2, SessionRef("combat", str(FIGHT))),
    "forget": lambda store, _: store.forget(1, [SessionRef("combat", str(FIGHT))]),
    "discard_quarantined": lambda store, _: store.discard_quarantined("5"),
    "retry_quarantined": lambda store, _: store.retry_quarantined(5),
    "count": lambda store, _: store.count({"saved": 1, "failed": 1}),
}
BROKEN: dict[str, Callable[[Driver], str]] = {
    "dirty": lambda store: store.keys.dirty,
    "claimed": lambda store: store.keys.claimed,
    "since": lambda store: store.keys.since,
    "quarantine": lambda store: store.keys.quarantine,
    "sweep": lambda store: store.keys.sweep,
    "stats": lambda store: store.keys.stats,
    "log": lambda store: store.keys.session_log("combat", str(FIGHT)),
    "session": lambda store: store.keys.session("combat", str(FIGHT)),
    "core 2": lambda store: store.keys.core(2),
    "core 3": lambda store: store.keys.core(3),
    "tie": lambda store: next(
        key.decode() for key in store.raw.scan_iter(f"{store.keys.prefix}statesync:tie:*")
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_refused_write_changes_nothing(scene: tuple[Driver, Claim], broken: str) -> None:
    store, claim = scene
    key = BROKEN[broken](store)
    store.raw.delete(key)
    store.raw.set(key, "of another type")
    for name, write in WRITES.items():
        before = everything(store)
        try:
            write(store, claim)
        except StatesyncError as error:
            assert everything(store) == before, f"{name} was refused in its middle: {error}"
        else:
            restore_all(store, before)


def restore_all(store: Driver, before: dict[bytes, bytes]) -> None:
    for key in store.raw.scan_iter(f"{store.keys.prefix}*"):
        store.raw.delete(key)
    for key, value in before.items():
        store.raw.restore(key, 0, value)


def test_log_of_another_type_leaves_both_of_a_trade_as_they_were(
    scene: tuple[Driver, Claim],
) -> None:
    store, _ = scene
    log = BROKEN["log"](store)
    store.raw.delete(log)
    store.raw.set(log, "x")
    before = everything(store)
    trade = Together().update(1, gold=0).update(2, gold=2)
    with pytest.raises(CorruptState, match=f"combat:session:{FIGHT}:log"):
        store.update_together(trade.update_session("combat", FIGHT, log=["traded"]))
    assert everything(store) == before


def test_member_of_another_type_leaves_ties_that_meet_as_they_were(
    scene: tuple[Driver, Claim],
) -> None:
    store, _ = scene
    store.update_together({1: {"gold": 1}, 2: {"gold": 1}, 6: {"gold": 1}})
    store.raw.delete(store.keys.core(3))
    store.raw.set(store.keys.core(3), "x")
    before = everything(store)
    with pytest.raises(CorruptState, match="character 3"):
        store.update_together({1: {"gold": 0}, 4: {"gold": 2}})
    assert everything(store) == before


def test_dirty_set_of_another_type_is_no_fault_of_a_character(scene: tuple[Driver, Claim]) -> None:
    store, claim = scene
    store.raw.delete(store.keys.dirty)
    store.raw.set(store.keys.dirty, "x")
    for name in ("create", "update", "trade", "open_session", "leave_session", "claim"):
        with pytest.raises(CorruptState) as caught:
            WRITES[name](store, claim)
        assert (caught.value.char_id, caught.value.field) == (0, "dirty_accounts")


@pytest.fixture
def crowd(store: Driver) -> UUID:
    """An open session of thousands, of which three are loaded."""
    for char_id in (1, 2, 3):
        store.create(char_id)
    session = store.open_session("combat", [1, 2], {"monsters": []})
    participants = ",".join(map(str, range(1, CROWD)))
    key = store.keys.session("combat", str(session))
    store.raw.hset(key, "participants", f"[{participants}]")
    assert isinstance(session, UUID)
    return session


def test_session_of_thousands_changes_and_is_saved(store: Driver, crowd: UUID) -> None:
    store.join_session("combat", crowd, 3)
    store.leave_session("combat", crowd, 2)
    store.update_session("combat", crowd, {"turn_order": []}, log=["hit"])
    store.update_together(Together().update(1, gold=1).close_session("combat", crowd))
    claim = store.claim(1, lease_us=LEASE).claim
    snapshot = store.snapshot(claim)
    assert len(snapshot.cores) == CROWD - 1


def test_session_of_thousands_goes_with_the_last_loaded_one(store: Driver, crowd: UUID) -> None:
    store.raw.delete(store.keys.dirty)
    for char_id in (1, 2):  # 3 is named and loaded, but does not point at it
        version = store.get(char_id).version
        store.raw.hset(store.keys.core(char_id), "saved_version", version)
        assert store.evict(char_id)
    assert not store.raw.exists(store.keys.session("combat", str(crowd)))
