"""What game code does: the same suite over both stores, on the oldest and the newest server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from statesync.errors import (
    CharacterExists,
    CharacterNotLoaded,
    CorruptState,
    InvalidCharId,
    InvalidField,
    InvalidInput,
    RedisUnavailable,
)
from statesync.hot.store import HotStore
from statesync.state.characters import Character

if TYPE_CHECKING:
    from tests.conftest import Driver, FullCore

NO_IDS: list[Any] = [0, -1, 2**63, True, "42", "42; DROP", [1], None, 1.0]


def loaded(store: Driver, char_id: int = 1) -> bool:
    return bool(store.raw.exists(store.keys.core(char_id)))


def dirty(store: Driver) -> set[bytes]:
    return set(store.raw.smembers(store.keys.dirty))


def test_create_writes_and_marks(store: Driver, full_core: FullCore) -> None:
    assert store.create(1, **full_core()) == 1
    read = store.get(1)
    assert isinstance(read, Character)
    assert read.core() == full_core()
    assert (read.version, read.saved_version) == (1, None)
    sync_state = store.sync_state(1)
    assert sync_state.dirty
    assert sync_state.token is None
    assert sync_state.since_ms is not None


def test_create_refuses_one_that_exists(store: Driver) -> None:
    store.create(1, gold=1)
    with pytest.raises(CharacterExists, match="character 1 is in Redis already"):
        store.create(1, gold=2)
    assert store.get(1).fields == {"gold": "1"}


def test_create_twice_is_created_once(store: Driver, full_core: FullCore) -> None:
    assert store.create(1, **full_core()) == 1
    before = store.sync_state(1)
    assert store.create(1, **full_core()) == 1
    assert store.sync_state(1) == before
    store.update(1, gold=1)
    with pytest.raises(CharacterExists):
        store.create(1, **full_core())


def test_create_refuses_a_key_of_another_type(store: Driver) -> None:
    store.raw.set(store.keys.core(1), "x")
    with pytest.raises(CharacterExists):
        store.create(1, gold=2)


def test_update_writes_and_marks(store: Driver) -> None:
    store.create(1, gold=1, state="exploration")
    store.raw.delete(store.keys.dirty, store.keys.since)
    assert store.update(1, gold=2, stats={"luck": 3}) == 2
    read = store.get(1)
    assert (read.fields, read.stats, read.state) == ({"gold": "2"}, {"luck": 3}, "exploration")
    assert dirty(store) == {b"1"}
    assert store.sync_state(1).since_ms is not None


def test_update_keeps_since_of_the_first_unsaved_change(store: Driver) -> None:
    store.create(1, gold=1)
    store.raw.zadd(store.keys.since, {"1": 5})
    store.update(1, gold=2)
    assert store.sync_state(1).since_ms == 5


def test_fields_come_in_a_mapping_or_as_keywords(store: Driver) -> None:
    store.create(1, {"durable": "yes", "fields": 1}, gold=1, rank=None)
    assert store.get(1).fields == {"durable": "yes", "fields": "1", "gold": "1"}
    store.update(1, {"durable": 3, "char_id": 4, "keys": 5, "version": 6}, gold=2, durable=False)
    own = {"durable": "3", "fields": "1", "char_id": "4", "keys": "5", "version": "6", "gold": "2"}
    assert store.get(1).fields == own
    assert store.get(1).version == 2


def test_none_deletes_a_field(store: Driver) -> None:
    store.create(1, gold=1, guild="x", rank=2)
    assert store.update(1, {"guild": None, "absent": None}, rank=None, gold=2) == 2
    assert store.get(1).fields == {"gold": "2"}
    assert store.update(1, gold=None) == 3
    assert store.get(1).fields == {}
    assert store.raw.hgetall(store.keys.core(1)) == {b"version": b"3"}


@pytest.mark.parametrize(
    ("args", "fields", "match"),
    [
        (({"gold": 1},), {"gold": 2}, "the field 'gold' is given twice"),
        ((5,), {}, "the fields must be a mapping, not int"),
        ((), {"durable": 3}, "durable is an option, True or False, not 3; put a field of that"),
        ((), {"durable": None}, "put a field of that name in the mapping"),
    ],
)
@pytest.mark.parametrize("operation", ["update", "create"])
def test_fields_that_contradict_are_refused(
    store: Driver, operation: str, args: Any, fields: Any, match: str
) -> None:
    with pytest.raises(InvalidInput, match=match):
        getattr(store, operation)(1, *args, **fields)
    assert not loaded(store)


def test_update_refuses_one_that_is_not_loaded(store: Driver) -> None:
    with pytest.raises(CharacterNotLoaded, match="restore it first") as caught:
        store.update(1, gold=2)
    assert caught.value.char_id == 1
    assert not loaded(store)
    assert not dirty(store)


def test_update_refused_writes_nothing(store: Driver) -> None:
    store.create(1, gold=1)
    with pytest.raises(InvalidField) as caught:
        store.update(1, gold=2, stats={"luck": "x"})
    assert caught.value.field == "stats.luck"
    assert store.get(1).fields == {"gold": "1"}
    assert store.get(1).version == 1


def test_update_refuses_a_broken_version(store: Driver) -> None:
    store.raw.hset(store.keys.core(1), mapping={"version": "x", "gold": 1})
    with pytest.raises(CorruptState) as caught:
        store.update(1, gold=2)
    assert (caught.value.char_id, caught.value.field) == (1, "version")
    assert store.raw.hget(store.keys.core(1), "gold") == b"1"


def test_update_refuses_a_key_of_another_type(store: Driver) -> None:
    store.raw.set(store.keys.core(1), "x")
    with pytest.raises(CorruptState):
        store.update(1, gold=2)


def test_get_refuses_a_key_of_another_type(store: Driver) -> None:
    store.raw.set(store.keys.core(1), "x")
    with pytest.raises(CorruptState):
        store.get(1)


def test_mark_dirty_marks_and_writes_nothing(store: Driver) -> None:
    store.create(1, gold=1)
    store.raw.delete(store.keys.dirty)
    assert store.mark_dirty(1) == 2
    assert dirty(store) == {b"1"}
    assert store.get(1).fields == {"gold": "1"}
    with pytest.raises(CharacterNotLoaded):
        store.mark_dirty(2)


def test_get_refuses_what_is_absent_or_broken(store: Driver) -> None:
    with pytest.raises(CharacterNotLoaded):
        store.get(1)
    store.raw.hset(store.keys.core(1), "bio", "{")
    with pytest.raises(CorruptState) as caught:
        store.get(1)
    assert caught.value.field == "bio"


def test_evict_deletes_only_what_is_saved(store: Driver) -> None:
    store.create(1, gold=1)
    assert store.evict(1) is False
    claim, _ = store.claim(1, lease_us=60_000_000)
    snapshot = store.snapshot(claim)
    assert store.evict(1) is False
    assert store.acknowledge(
        claim, snapshot_version=2, durable_version=2, at_ms=snapshot.at_ms, seal=snapshot.seal
    )
    store.raw.sadd(store.keys.dirty, 1)
    assert store.evict(1) is False, "a bare writer marks without raising the version"
    store.raw.srem(store.keys.dirty, 1)
    claim, _ = store.claim(1, lease_us=60_000_000)
    assert store.evict(1) is False, "a claim is out"
    store.acknowledge(claim)
    assert store.evict(1) is True
    assert not loaded(store)
    assert store.evict(1) is True, "run twice, it is still gone"
    assert store.raw.pttl(store.keys.tombstone(1)) > 0


@pytest.mark.parametrize("bad", NO_IDS)
@pytest.mark.parametrize(
    "operation", ["update", "mark_dirty", "create", "get", "evict", "peek", "sync_state"]
)
def test_no_id_is_refused_before_anything_is_sent(
    store: Driver, operation: str, bad: object
) -> None:
    with pytest.raises(InvalidCharId):
        getattr(store, operation)(bad)


def test_run_many_gives_errors_in_their_place(store: Driver) -> None:
    store.create(1, gold=1)
    build = store.store.commands
    replies = store.run_many([build.update(1, gold=2), build.update(2, gold=2), build.get(1)])
    assert replies[0] == 2
    assert isinstance(replies[1], CharacterNotLoaded)
    assert replies[1].char_id == 2
    assert replies[2].fields == {"gold": "2"}
    assert store.run_many([]) == []


def test_run_many_is_one_round_trip(store: Driver) -> None:
    store.create(1, gold=1)
    build = store.store.commands
    store.run_many([build.mark_dirty(1)])
    before = int(store.raw.info("stats")["total_reads_processed"])
    store.run_many([build.mark_dirty(1) for _ in range(20)])
    after = int(store.raw.info("stats")["total_reads_processed"])
    # Our own INFO is one of the reads; a small pipeline arrives in one.
    assert after - before <= 3
    assert store.get(1).version == 22


def test_flushed_scripts_are_loaded_again(store: Driver) -> None:
    store.create(1, gold=1)
    store.raw.script_flush()
    build = store.store.commands
    replies = store.run_many([build.update(1, gold=2), build.get(1), build.update(2, gold=1)])
    assert replies[0] == 2
    assert replies[1].version == 2
    assert isinstance(replies[2], CharacterNotLoaded)


def test_order_of_many_is_kept_where_a_script_is_not_loaded(store: Driver) -> None:
    """As on a replica that has just become the master, and others have changed something there."""
    store.create(1, gold=1)
    store.raw.script_flush()
    store.update(1, gold=2)
    commands = store.store.commands
    created, updated, read = store.run_many(
        [commands.create(2, gold=1), commands.update(2, gold=2), commands.get(2)]
    )
    assert (created, updated, read.fields["gold"]) == (1, 2, "2")


def test_bare_writer_is_as_safe(store: Driver) -> None:
    store.raw.hset(store.keys.core(1), mapping={"state": "combat"})
    store.raw.sadd(store.keys.dirty, 1)
    claim, known = store.claim(1, lease_us=60_000_000)
    assert known
    snapshot = store.snapshot(claim)
    assert snapshot.cores[1] == {"state": "combat", "version": "1"}


def test_peek_and_restore(store: Driver, full_core: FullCore) -> None:
    core = {"state": "combat", "stats": '{"luck":1}'}
    assert store.peek(1) is None
    assert store.restore_one(1, 7, core) == ("restored", [])
    assert store.peek(1) == (7, {}, True)
    assert store.restore_one(1, 9, core | {"state": "other"}) == ("live", [])
    read = store.get(1)
    assert (read.state, read.version, read.saved_version) == ("combat", 7, 7)
    assert not dirty(store)
    store.raw.hdel(store.keys.core(1), "version")
    assert store.peek(1) == (0, {}, True)


def test_restore_refuses_a_row_older_than_the_tombstone(store: Driver) -> None:
    store.restore_one(1, 7, {"state": "a"})
    assert store.evict(1)
    assert store.restore_one(1, 6, {"state": "old"}) == ("stale", [])
    assert not loaded(store)
    assert store.restore_one(1, 7, {"state": "a"}) == ("restored", [])


def test_reconcile_raises_the_version_and_adds_what_lacks(store: Driver) -> None:
    old, _ = store.claim(1, lease_us=60_000_000)
    assert store.reconcile(old, seal=1, version=9, missing={"state": "a"}) is False
    assert not loaded(store)
    store.create(1, gold=1)
    claim, _ = store.claim(1, lease_us=60_000_000)
    seal = store.snapshot(claim).seal
    assert store.reconcile(claim, seal=1, version=9) is False, "it knows no such snapshot"
    assert store.reconcile(old, seal=1, version=9, missing={"state": "a"}) is False, (
        "the claim is lost"
    )
    for _ in range(2):
        assert (
            store.reconcile(claim, seal=seal, version=9, missing={"gold": "5", "state": "a"})
            is True
        )
    read = store.get(1)
    assert (read.version, read.state, read.fields) == (9, "a", {"gold": "1"})
    store.reconcile(claim, seal=seal, version=3)
    assert store.get(1).version == 9, "a version never falls"


def test_status_and_counters(store: Driver) -> None:
    empty = store.status()
    assert (empty.dirty, empty.claimed, empty.expired, empty.quarantined) == (0, 0, 0, 0)
    assert empty.oldest_ms is None
    store.create(1)
    store.create(2)
    store.claim(2, lease_us=0)
    store.count({"saved": 2})
    store.count({"saved": 3, "sweeps": 1})
    status = store.status()
    assert (status.dirty, status.claimed, status.expired) == (1, 1, 1)
    assert status.counters == {"saved": 5, "sweeps": 1}
    assert status.oldest_ms is not None
    assert status.oldest_ms >= 0


def test_what_is_in_quarantine_is_not_the_oldest(store: Driver) -> None:
    now_ms = store.examine([]).now_us // 1000

    def mark(names: list[int], *, hours: int, quarantined: bool = False) -> None:
        since_ms = now_ms - hours * 3_600_000
        store.raw.zadd(store.keys.since, dict.fromkeys(map(str, names), since_ms))
        if quarantined:
            store.raw.hset(store.keys.quarantine, mapping=dict.fromkeys(map(str, names), "{}"))
        else:
            store.raw.sadd(store.keys.dirty, *names)

    def oldest_hours() -> int | None:
        oldest_ms = store.status().oldest_ms
        return None if oldest_ms is None else oldest_ms // 3_600_000

    mark([1], hours=9, quarantined=True)
    assert oldest_hours() is None
    mark([2], hours=2)
    assert oldest_hours() == 2
    mark(list(range(100, 300)), hours=8, quarantined=True)
    assert oldest_hours() == 2, "behind some pages"
    mark(list(range(300, 1500)), hours=7, quarantined=True)
    assert oldest_hours() == 2, "behind more than are looked at: found by its mark"
    store.raw.srem(store.keys.dirty, 2)
    store.raw.zadd(store.keys.claimed, {"2": 1})
    assert oldest_hours() == 2, "or by its claim"
    store.raw.zrem(store.keys.claimed, 2)
    assert oldest_hours() is None, "nothing waits"


@pytest.mark.parametrize("value", ["-1e400", "inf", "nonsense", None])
def test_a_heartbeat_that_is_none(store: Driver, value: str | None) -> None:
    if value is None:
        store.raw.hset(store.keys.heartbeat, "of another", "type")
    else:
        store.raw.set(store.keys.heartbeat, value)
    assert store.figures().sweep_ms is None


def test_quarantine_pages_retry_and_discard(store: Driver) -> None:
    for char_id in (1, 2, 3):
        store.create(char_id)
        claim, _ = store.claim(char_id, lease_us=60_000_000)
        assert store.quarantine(claim, error="broken", field="bio" if char_id == 1 else "")
        assert store.quarantine(claim, error="broken", field="") is False, (
            "run twice, it is not ours"
        )
    store.raw.hset(store.keys.quarantine, "odd", "not JSON")
    cursor, entries = store.list_quarantine()
    assert cursor == 0
    found = {entry.name: entry for entry in entries}
    assert found.keys() == {"1", "2", "3", "odd"}
    assert (found["1"].field, found["2"].field, found["1"].error) == ("bio", None, "broken")
    assert "not statesync's" in found["odd"].error
    for _ in range(2):
        assert store.retry_quarantined(1) is True
    assert store.retry_quarantined(9) is False
    store.raw.delete(store.keys.core(2))
    with pytest.raises(CharacterNotLoaded):
        store.retry_quarantined(2)
    assert dirty(store) == {b"1"}
    assert store.sync_state(1).quarantine.attempts == 1
    claim, _ = store.claim(1, lease_us=60_000_000)
    store.quarantine(claim, error="broken again", field="bio")
    entry = store.sync_state(1).quarantine
    assert (entry.attempts, entry.error) == (2, "broken again")
    assert entry.first_at <= entry.last_at
    assert store.discard_quarantined("odd") is True
    assert store.discard_quarantined("odd") is False
    assert loaded(store)


def test_redis_away_is_our_error_without_the_password() -> None:
    with (
        HotStore("redis://bob:hunter2@127.0.0.1:1/0") as store,
        pytest.raises(RedisUnavailable, match=r"bob:\*\*\*@127") as caught,
    ):
        store.get(1)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
