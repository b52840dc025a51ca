"""Sessions leave Redis with the last of their participants, and come back with their logs."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from statesync.errors import CorruptState
from statesync.hot.commands.transfer import RestoreItem
from statesync.state.references import SessionRef
from statesync.state.sessions import Session
from tests.integration.hot.conftest import BIG
from tests.integration.hot.test_session_operations import LEASE, dirty, log

if TYPE_CHECKING:
    from tests.conftest import Driver


def saved(store: Driver, *ids: int) -> None:
    for i in ids:
        store.raw.hset(store.keys.core(i), "saved_version", store.get(i).version)


def test_evict_takes_a_session_with_the_last_of_its_participants(
    store: Driver, party: list[int], fight: UUID
) -> None:
    saved(store, *party)
    key = store.keys.session("combat", str(fight))
    assert store.evict(1)
    assert store.raw.exists(key)
    assert store.evict(2)
    store.raw.sadd(store.keys.dirty, 2)
    assert not store.evict(BIG), "a character that is not loaded has a change in it"
    store.raw.srem(store.keys.dirty, 2)
    assert store.evict(BIG)
    assert not store.raw.exists(key)
    assert store.raw.get(store.keys.tombstone(str(fight))) == b"1"


def restored(session: UUID, version: int, entries: int = 0) -> Session:
    return Session("combat", session, {"monsters": []}, version, log=tuple(range(entries)))


def test_restore_brings_a_session_with_its_log(store: Driver) -> None:
    session = uuid4()
    core = {"state": "combat", "combat_session_id": str(session)}
    sessions = {"t": restored(session, 7, 3)}
    assert store.restore_one(1, 5, core, sessions=sessions) == ("stale", []), (
        "its log is not staged"
    )
    assert not store.raw.exists(store.keys.core(1))
    for _ in range(2):
        store.stage("t", ["0", "1"], start=0)
    store.stage("t", ["2"], start=2)
    assert store.restore_one(1, 5, core, sessions=sessions, changed=True) == (
        "restored",
        ["restored"],
    )
    assert dirty(store) == {1}
    assert log(store, session) == [0, 1, 2]
    assert store.raw.ttl(store.keys.session_log("combat", str(session))) == -1, "it stays"
    assert store.restore_one(2, 5, core, sessions=sessions) == ("restored", ["live"])
    assert store.restore_one(1, 5, core, sessions=sessions) == ("live", ["live"])
    elsewhere = {"t": restored(uuid4(), 1)}
    assert store.restore_one(1, 5, core, sessions=elsewhere) == ("live", ["left"])


def test_log_that_a_restore_does_not_use_is_dropped(store: Driver) -> None:
    session = uuid4()
    store.raw.set(store.keys.tombstone(str(session)), 5)
    for _ in range(2):
        store.stage("t", ["0", "1"], start=0)
        core = {"combat_session_id": str(session)}
        result = store.restore_one(1, 3, core, {"t": restored(session, 4, 2)})
        assert result.core == "stale"
        assert not list(store.raw.scan_iter(f"{store.keys.prefix}statesync:staged:*"))


def test_log_that_is_staged_already_is_used(store: Driver) -> None:
    session = uuid4()
    for _ in range(2):
        store.stage("t", ["0", "1"], start=0)
        store.stage("t", ["2"], start=2)
    core = {"combat_session_id": str(session)}
    store.restore_one(1, 3, core, {"t": restored(session, 4, 3)})
    assert log(store, session) == [0, 1, 2]


def test_restore_refuses_a_session_older_than_its_tombstone(store: Driver) -> None:
    session = uuid4()
    store.raw.set(store.keys.tombstone(str(session)), 9)
    core = {"combat_session_id": str(session)}
    assert store.restore_one(1, 5, core, sessions={"t": restored(session, 8)}) == ("stale", [])
    assert store.restore_one(1, 5, core, sessions={"t": restored(session, 9)}) == (
        "restored",
        ["restored"],
    )


def test_refusal_of_one_leaves_the_others_alone(store: Driver) -> None:
    ids = [uuid4() for _ in range(7)]
    cores = [{"combat_session_id": str(session)} for session in ids]
    store.restore_one(3, 9, {"state": "later"})
    store.evict(3)
    store.restore_one(4, 5, {"state": "played"})
    store.raw.set(store.keys.session("combat", str(ids[5])), "no hash")
    store.raw.set(store.keys.core(6), "no hash")
    found = store.restore(
        [
            RestoreItem(1, 5, cores[1]),
            RestoreItem(2, 5, cores[2], {"t": restored(ids[2], 7)}, changed=True),
            RestoreItem(3, 5, {"state": "old"}),
            RestoreItem(4, 5, {"state": "old"}),
            RestoreItem(5, 5, cores[5], {"t": restored(ids[5], 7)}),
            RestoreItem(6, 5, cores[6], {"t": restored(ids[6], 7)}),
            RestoreItem(7, None, {}, {"t": restored(ids[6], 7)}),
            RestoreItem(8, 5, cores[2], {"t": restored(ids[2], 7)}),
        ]
    )
    bad_session, bad_core = found[4], found[5]
    assert isinstance(bad_session, CorruptState)
    assert (bad_session.char_id, bad_session.field) == (5, f"combat:session:{ids[5]}.(key)")
    assert isinstance(bad_core, CorruptState)
    assert (bad_core.char_id, bad_core.field) == (6, "(key)")
    assert [*found[:4], *found[6:]] == [
        ("restored", []),
        ("restored", ["restored"]),
        ("stale", []),
        ("live", []),
        ("stale", []),
        ("restored", ["live"]),
    ]
    loaded = [i for i in range(1, 9) if store.raw.exists(store.keys.core(i))]
    assert loaded == [1, 2, 4, 6, 8]
    assert store.get(4).state == "played"
    assert dirty(store) == {2}
    counted = {k: int(n) for k, n in store.raw.hgetall(store.keys.stats).items()}
    assert counted == {b"restored": 2 + 3, b"live": 1}


def test_peek_and_reconcile_of_a_session(store: Driver, fight: UUID) -> None:
    assert store.peek_session("combat", fight) == 1
    claim, _ = store.claim(1, lease_us=LEASE)
    seal = store.snapshot(claim, lease_us=LEASE).seal
    ref = SessionRef("combat", str(fight))
    assert store.reconcile_session(claim, ref, seal=seal, version=9)
    assert store.reconcile_session(claim, ref, seal=seal, version=3)
    assert store.peek_session("combat", fight) == 9
    assert store.peek_session("combat", uuid4()) == -1
    assert not store.reconcile_session(
        claim, SessionRef("combat", str(uuid4())), seal=seal, version=3
    )
    store.claim(1, lease_us=LEASE)
    assert not store.reconcile_session(claim, ref, seal=seal, version=12)
