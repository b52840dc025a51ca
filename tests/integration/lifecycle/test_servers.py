"""A server that went back in time is known at the next sweep, and put on record."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine

from statesync import durable
from statesync.durable import database
from statesync.durable.fence import RowHead
from statesync.durable.losses import Loss
from statesync.errors import DatabaseUnavailable
from statesync.hot.commands.servers import CoreHead, LossFlag, SessionHead
from statesync.hot.store import HotStore
from statesync.lifecycle import servers
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.observe.losses import check_loss
from statesync.state.references import SessionRef
from tests.conftest import Driver, FullCore


def count(hot: HotStore, engine: Engine, times: int = 1) -> None:
    for _ in range(times):
        servers.count_sweep(hot, engine)


def loss(hot: HotStore, engine: Engine) -> Loss | None:
    return next(iter(servers.losses(hot, engine)), None)


def side_of(hot: HotStore, engine: Engine) -> str | None:
    found = loss(hot, engine)
    return found.side if found else None


def flags(hot: HotStore) -> tuple[bool, bool, bool]:
    """Whether what is live is compared, Redis' loss settled, PostgreSQL recovered."""
    return hot.status()[6:]


def set_counters(engine: Engine, values: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE server_counters SET {values}")


def test_sweeps_that_count_on_find_nothing(hot: HotStore, engine: Engine, raw: Any) -> None:
    count(hot, engine, 3)
    assert (loss(hot, engine), flags(hot)) == (None, (False, False, False))
    assert raw.hget(hot.keys.servers, "sweeps") == b"3"
    assert raw.hget(hot.keys.servers, "postgresql_sweeps") == b"3"


@pytest.mark.parametrize("found", [4, 2, None])
def test_redis_below_what_postgresql_remembers_went_back(
    hot: HotStore, engine: Engine, raw: Any, found: int | None
) -> None:
    count(hot, engine, 5)
    if found is None:
        raw.delete(hot.keys.servers)  # emptied
    else:
        raw.hset(hot.keys.servers, "sweeps", found)
    count(hot, engine)
    on_record = loss(hot, engine)
    assert on_record
    assert (on_record.side, on_record.redis_sweeps) == ("redis", (5, found or 0))
    assert flags(hot) == (True, True, False)
    count(hot, engine, 2)
    assert loss(hot, engine) == on_record, "once"
    assert hot.status().counters == {"redis_went_back": 1}


def test_memory_is_noted_twice_a_day(hot: HotStore, engine: Engine, raw: Any) -> None:
    assert hot.examine([]).before is None
    count(hot, engine, 3)
    first = raw.hget(hot.keys.servers, "memory")
    before = hot.examine([]).before
    assert before
    assert first.split()[1] == b"%d" % before.used_bytes
    half_a_day_ago = before.age_ms + 12 * 3_600_000
    at_ms = int(first.split()[0]) - half_a_day_ago
    raw.hset(hot.keys.servers, "memory", f"{at_ms} 7000")
    count(hot, engine, 3)
    assert raw.hget(hot.keys.servers, "memory") != b"%d 7000" % at_ms
    before = hot.examine([]).before
    assert before
    assert before.used_bytes == 7000
    assert before.age_ms >= half_a_day_ago


@pytest.mark.parametrize("note", ["x", "9" * 400, "-1 5", "5"])
def test_a_note_that_is_not_ours_is_made_anew(
    hot: HotStore, engine: Engine, raw: Any, note: str
) -> None:
    raw.hset(hot.keys.servers, "memory", note)
    assert hot.examine([]).before is None
    count(hot, engine)
    assert raw.hget(hot.keys.servers, "memory") != note.encode()
    raw.hdel(hot.keys.servers, "memory_before")
    assert hot.examine([]).before is not None


def test_an_empty_redis_is_told_how_it_is_filled(
    hot: HotStore, engine: Engine, raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    count(hot, engine, 5)
    raw.delete(hot.keys.servers)
    count(hot, engine)
    on_record = loss(hot, engine)
    assert on_record
    assert "restore --all-active" in check_loss(on_record).do
    assert "restore --all-active" in caplog.text
    raw.hset(hot.keys.servers, "sweeps", 2)
    set_counters(engine, "redis_sweeps = 9")
    count(hot, engine)
    latest = loss(hot, engine)
    assert latest
    assert latest.redis_sweeps == (9, 2)
    assert "restore --all-active" not in check_loss(latest).do


@pytest.mark.parametrize("found", ["sweeps = 2", "sweeps = 4", None])
def test_postgresql_below_what_redis_remembers_went_back(
    hot: HotStore, engine: Engine, found: str | None
) -> None:
    count(hot, engine, 5)
    if found:
        set_counters(engine, found)
    else:
        with engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM server_counters")  # an empty backup
    count(hot, engine)
    on_record = loss(hot, engine)
    assert on_record
    assert on_record.side == "postgresql"
    assert on_record.postgresql_sweeps == (5, int(found[-1]) if found else 0)
    assert flags(hot) == (True, False, True)
    count(hot, engine, 2)
    assert loss(hot, engine) == on_record, "once"
    assert hot.status().counters == {"postgresql_went_back": 1}


def test_both_went_back(hot: HotStore, engine: Engine, raw: Any) -> None:
    count(hot, engine, 5)
    raw.hset(hot.keys.servers, "sweeps", 3)
    set_counters(engine, "sweeps = 3")
    count(hot, engine)
    assert side_of(hot, engine) == "both"
    assert hot.status().counters == {"redis_went_back": 1, "postgresql_went_back": 1}


@pytest.mark.parametrize("side", ["redis", "postgresql"])
def test_a_sweep_that_ends_before_its_commit_leaves_it_to_the_next(
    hot: HotStore, engine: Engine, raw: Any, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatabaseUnavailable("gone")

    count(hot, engine, 5)
    if side == "redis":
        raw.hset(hot.keys.servers, "sweeps", 4)
    else:
        set_counters(engine, "sweeps = 4")
    with monkeypatch.context() as patched:
        patched.setattr(durable.servers, "count", fail)
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                count(hot, engine)
    assert loss(hot, engine) is None
    count(hot, engine)
    assert side_of(hot, engine) == side


def test_a_memory_of_what_was_not_committed_is_no_loss(
    hot: HotStore, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatabaseUnavailable("gone")

    count(hot, engine)
    with monkeypatch.context() as patched:
        patched.setattr(durable.servers, "count", fail)
        with pytest.raises(DatabaseUnavailable):
            count(hot, engine)
    count(hot, engine)
    assert (loss(hot, engine), flags(hot)) == (None, (False, False, False))


@pytest.mark.parametrize("server", ["redis", "postgresql"])
def test_a_server_that_has_started_is_compared_and_is_no_loss(
    hot: HotStore, engine: Engine, raw: Any, server: str
) -> None:
    count(hot, engine)
    if server == "redis":
        set_counters(engine, "redis_run_id = 'another'")
    else:
        raw.hset(hot.keys.servers, "postgresql_run_id", "another")
    count(hot, engine)
    assert (loss(hot, engine), flags(hot)) == (None, (True, False, False))
    raw.hdel(hot.keys.servers, "comparing", "settling")
    count(hot, engine)
    assert flags(hot) == (False, False, False), "once"


def test_a_loss_that_a_backup_finds_is_on_record_once(hot: HotStore, engine: Engine) -> None:
    servers.note_redis_went_back(hot, engine)
    first = loss(hot, engine)
    assert first
    assert (first.side, first.found_by) == ("redis", "backup")
    assert flags(hot) == (True, True, False)
    servers.note_redis_went_back(hot, engine)
    assert loss(hot, engine) == first
    servers.note_postgresql_went_back(hot, engine, [1])
    assert side_of(hot, engine) == "postgresql"
    assert flags(hot) == (True, True, True)
    servers.note_postgresql_went_back(hot, engine, [1])
    assert hot.status().counters == {"redis_went_back": 1, "postgresql_went_back": 1}


def test_a_sweep_leaves_counting_to_one_that_is_at_it(hot: HotStore, engine: Engine) -> None:
    count(hot, engine)
    with database.transaction(engine) as connection:
        assert durable.servers.lock(connection, hot.keys.prefix)
        count(hot, engine)
    count(hot, engine)
    assert loss(hot, engine) is None


def test_each_key_prefix_has_its_own(hot: HotStore, engine: Engine, embedded: Any) -> None:
    count(hot, engine, 3)
    with HotStore(embedded.redis_url(), prefix=f"{hot.keys.prefix}other:") as other:
        count(other, engine)
        assert (loss(other, engine), flags(other)) == (None, (False, False, False))


def test_counting_on_every_server(store: Driver) -> None:
    first = {"postgresql_run_id": "a", "redis_run_id": None}
    counted = store.count_sweep(postgresql_sweeps=0, redis_sweeps=0, **first)
    assert counted[2:] == ("", *[False] * 5)
    assert (counted.redis_sweeps, len(counted.redis_run_id)) == (1, 40)
    store.note_postgresql("", sweeps=1, run_id="a")
    store.note_postgresql("", sweeps=7, run_id="a")  # another sweep was faster
    same = {"postgresql_run_id": "a", "redis_run_id": counted.redis_run_id}
    counted = store.count_sweep(postgresql_sweeps=1, redis_sweeps=1, **same)
    assert (counted.redis_sweeps, *counted[2:]) == (2, "1", *[False] * 5)
    counted = store.count_sweep(postgresql_sweeps=0, redis_sweeps=9, **same)
    assert (counted.redis_sweeps, *counted[2:]) == (2, "1", *[True] * 4, False)
    assert store.status()[6:] == (True, True, True)
    counted = store.count_sweep(postgresql_sweeps=0, redis_sweeps=9, **same)
    assert counted[2:] == ("1", True, False, True, False, False)


def test_whether_to_count_on_every_server(store: Driver) -> None:
    count = {"postgresql_sweeps": 0, "postgresql_run_id": "a", "redis_sweeps": 0}
    counted = store.count_sweep(**count, redis_run_id=None)
    store.note_postgresql("", sweeps=1, run_id="a")
    now = {"postgresql_sweeps": 1, "postgresql_run_id": "a", "redis_sweeps": 1}
    now |= {"redis_run_id": counted.redis_run_id}
    assert store.is_count_due(**now, round_ms=86_400_000) is False
    assert store.is_count_due(**now, round_ms=0) is True
    others = {"postgresql_sweeps": 2, "postgresql_run_id": "b", "redis_sweeps": 2}
    for name, other in (others | {"redis_run_id": "b"}).items():
        assert store.is_count_due(**now | {name: other}, round_ms=86_400_000) is True, name


def test_the_comparison_belongs_to_one_at_a_time(store: Driver) -> None:
    lease = {"lease_us": 60_000_000}
    assert store.take_comparison("a", **lease) == (False, "", False, False)
    assert store.note_loss(LossFlag.RECOVERING)
    assert not store.note_loss(LossFlag.RECOVERING)
    is_ours, stands_at, _, is_recovering = store.take_comparison("a", **lease)
    assert (is_ours, stands_at[:2], is_recovering) == (True, "0 ", True)
    assert store.take_comparison("b", **lease) == (False, stands_at, False, True)
    assert not store.advance_comparison("b", **lease, before=stands_at, after="7 1 0 1")
    assert store.advance_comparison("a", **lease, before=stands_at, after="7 1 0 1")
    assert not store.advance_comparison("a", **lease, before=stands_at, after="8 1 0 1")
    store.release_comparison("b")
    assert not store.take_comparison("b", **lease).is_ours
    store.release_comparison("a")
    assert store.take_comparison("b", lease_us=0) == (True, "7 1 0 1", False, True)
    assert store.take_comparison("a", **lease).is_ours, "the lease of b has ended"
    assert store.advance_comparison("a", **lease, before="7 1 0 1", after="")
    assert store.take_comparison("a", **lease) == (False, "", False, False)
    assert store.take_comparison("a", **lease, begins=True).is_ours
    assert store.status()[6:] == (True, False, False)


def test_heads_on_every_server(store: Driver, full_core: FullCore) -> None:
    store.create(1, **full_core())
    store.raw.hset(store.keys.core(2), mapping={"version": "x"})
    store.raw.set(store.keys.core(3), "no hash")
    fight = SessionRef("combat", str(store.open_session("combat", [1], {})))
    gone = SessionRef("combat", fight.id[:-1] + "0")
    store.raw.delete(store.keys.seals)
    store.raw.hset(store.keys.seals, mapping={"1": "created 5", fight.id: "7"})
    store.raw.set(store.keys.tombstone(9), 4)
    heads = store.heads([1, 2, 3, 4], [fight, gone], evicted=[8, 9])
    assert heads.cores == {1: CoreHead(b"2", None, b"created 5"), 2: CoreHead(b"x", None, None)}
    assert heads.sessions == {fight: SessionHead(b"1", b"[1]", b"7")}
    assert heads.evicted == {9: b"4"}


def test_the_seals_of_many_heads(store: Driver) -> None:
    char_ids = [*range(1, 2101)]
    for char_id in char_ids[::700]:
        store.raw.hset(store.keys.core(char_id), "version", 1)
        store.raw.hset(store.keys.seals, str(char_id), f"{char_id}")
    heads = store.heads(char_ids)
    assert {char_id: head.seals for char_id, head in heads.cores.items()} == {
        char_id: b"%d" % char_id for char_id in (1, 701, 1401)
    }


def test_what_a_row_says(orchestrator: GameStateOrchestrator, full_core: FullCore) -> None:
    hot = orchestrator.hot
    for char_id in (1, 2):
        hot.create(char_id, **full_core(char_id))
    fight = str(hot.open_session("combat", [1], {}))
    orchestrator.backup_many([1, 2])
    with database.transaction(orchestrator.engine) as connection:
        connection.exec_driver_sql(
            "UPDATE characters SET version = 5, seal = 7, seal_version = id + 4,"
            " deleted_at = CASE id WHEN 2 THEN now() END"
        )
        connection.exec_driver_sql("UPDATE sessions SET version = 6, seal = 8, seal_version = 6")
        rows = durable.heads.of_characters(connection, [1, 2, 3])
        assert rows == {1: RowHead(5, 7, 5), 2: RowHead(5, 7, 6, is_ended=True)}
        assert (rows[1].valid_seal, rows[2].valid_seal) == (7, None)
        assert durable.heads.of_sessions(connection, [fight]) == {fight: RowHead(6, 8, 6)}


def test_what_others_put_into_the_key_stops_nobody(hot: HotStore, engine: Engine, raw: Any) -> None:
    count(hot, engine)
    junk = {"sweeps": "x", "postgresql_sweeps": b"\xff", "comparing": "x y", "comparer_until": "z"}
    raw.hset(hot.keys.servers, mapping=junk | {"comparer": "somebody"})
    count(hot, engine)
    assert side_of(hot, engine) == "redis"
    raw.hset(hot.keys.servers, "comparing", "x y")
    is_ours, stands_at, *_ = hot.take_comparison("a", lease_us=60_000_000)
    assert is_ours
    assert stands_at.startswith("0 ")
    count(hot, engine, 2)
    assert raw.hget(hot.keys.servers, "sweeps") == b"2"


def test_a_core_that_knows_no_row_is_noted_lost(store: Driver) -> None:
    for char_id, words in enumerate(["", "bare 5", "created 5", "lost bare 5", "5"], start=1):
        store.raw.hset(store.keys.core(char_id), "gold", "1")
        if words:
            store.raw.hset(store.keys.seals, str(char_id), words)
    store.raw.hset(store.keys.core(5), "saved_version", "1")
    store.raw.set(store.keys.core(6), "no hash")
    store.note_lost([1, 2, 3, 4, 5, 6, 7])
    assert store.raw.hgetall(store.keys.seals) == {
        b"1": b"lost",
        b"2": b"lost bare 5",
        b"3": b"created 5",
        b"4": b"lost bare 5",
        b"5": b"5",
    }


@pytest.mark.parametrize("found_first_by", ["sweep", "backup"])
def test_one_loss_that_both_a_sweep_and_backups_find_is_one(
    hot: HotStore, engine: Engine, raw: Any, found_first_by: str
) -> None:
    count(hot, engine, 5)
    raw.hset(hot.keys.servers, "sweeps", 3)
    if found_first_by == "backup":
        servers.note_redis_went_back(hot, engine)
    count(hot, engine)
    on_record = loss(hot, engine)
    assert on_record
    assert on_record.redis_sweeps == (5, 3)
    raw.hdel(hot.keys.servers, "comparing", "settling")  # all is compared
    servers.note_redis_went_back(hot, engine)  # the backup of what was marked
    assert loss(hot, engine) == on_record
    assert flags(hot) == (False, False, False)
    assert hot.status().counters == {"redis_went_back": 1}
    raw.hset(hot.keys.servers, "noted", "another-run 3")  # as a restart leaves it
    servers.note_redis_went_back(hot, engine)
    assert hot.status().counters == {"redis_went_back": 2}


def test_a_tombstone_is_dropped_if_it_is_the_one_that_was_read(store: Driver) -> None:
    for item, version in ((1, 5), ("8f1f6f1c-0000-4000-8000-000000000001", 6), (2, 7)):
        store.raw.set(store.keys.tombstone(item), version)
    store.drop_tombstones({1: b"5", "8f1f6f1c-0000-4000-8000-000000000001": b"6", 2: b"6"})
    assert [store.raw.exists(store.keys.tombstone(i)) for i in (1, 2)] == [0, 1]
    assert not store.raw.exists(store.keys.tombstone("8f1f6f1c-0000-4000-8000-000000000001"))
