"""The contract from outside: bare Redis writers, tasks by name, plain SQL."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from statesync import Settings
from statesync.hot.store import HotStore
from statesync.worker.names import of_realm
from tests.acceptance.conftest import Game, on_every_topology, wait_until

pytestmark = [pytest.mark.usefixtures("celery_setup"), on_every_topology]

BAD_IDS = [0, -1, 2**63, True, "42; DROP", [1], None, 1.5]
HOSTILE = {
    "broken": ("stats", b'{"strength": '),
    "nan": ("vitals", b'{"hp": {"cur": NaN, "max": 1}}'),
    "nul": ("bio", b'{"name": "a\\u0000b"}'),
    "nul in text": ("guild", b"a\0b"),
    "surrogate": ("bio", b'{"name": "\\ud800"}'),
    "deep": ("vitals", b'{"hp":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "50 MB": ("diary", b"x" * 50_000_000),
    "wrong type": ("stats", b'{"strength": "strong"}'),
    "not utf-8": ("guild", b"\xff\xfe"),
}


def rows(engine: Engine, query: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]


def bare_write(raw: Any, settings: Settings, char_id: int, **fields: Any) -> None:
    """Write as a game without statesync's client does."""
    raw.hset(f"{settings.prefix}ac:{char_id}", mapping=fields)
    raw.sadd(f"{settings.prefix}dirty_accounts", char_id)


def waiting_for_a_lock(engine: Engine) -> bool:
    """Whether a worker is in the middle of its write."""
    query = (
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        "AND datname = current_database()"
    )
    return bool(rows(engine, query))


def hold_row(connection: Connection, char_id: int) -> None:
    connection.exec_driver_sql(f"SELECT 1 FROM characters WHERE id = {char_id} FOR UPDATE")


def test_a_bare_writer_is_saved_by_the_sweep_and_restored_by_name(
    game: Game, raw: Any, settings: Settings, engine: Engine
) -> None:
    core = {
        "state": "exploration",
        "location": json.dumps({"current": "town", "prev": "inn"}),
        "bio": json.dumps({"name": "Ann", "gender": "f", "created_at": "2026-01-02T03:04:05Z"}),
        "stats": json.dumps({"strength": 7, "mana": 3}),
        "vitals": json.dumps({"hp": {"cur": 5, "max": 9}}),
        "guild": "knights",
    }
    bare_write(raw, settings, 42, **core)
    game.call("sync_dirty")
    wait_until(lambda: rows(engine, "SELECT 1 FROM characters"))
    columns = "name, gender, game_stage, location_id, prev_location_id, vitals->'hp'->>'cur'"
    assert rows(engine, f"SELECT {columns} FROM characters WHERE id = 42") == [
        ("Ann", "f", "exploration", "town", "inn", "5")
    ]
    assert rows(engine, "SELECT strength, luck, extra FROM character_stats") == [
        (7, None, {"mana": 3})
    ]
    wait_until(lambda: not raw.zcard(f"{settings.prefix}dirty_accounts:claimed"))
    raw.delete(f"{settings.prefix}ac:42")
    assert game.call("restore_full_state", 42)["outcome"] == "restored"
    found = raw.hgetall(f"{settings.prefix}ac:42")
    for name, value in core.items():
        restored = found[name.encode()].decode()
        assert restored == value or json.loads(restored) == json.loads(value)
    assert game.call("restore_full_state", 42)["outcome"] == "live"
    assert game.call("restore_full_state", 43) == {
        "char_id": 43, "outcome": "not_found", "version": None,
        "sessions": {}, "fallback_from": None, "error": None,
    }  # fmt: skip
    assert game.call("restore_batch", [42, 43]) == {"live": 1, "not_found": 1}


@pytest.mark.parametrize("task", ["backup_full_state", "restore_full_state"])
def test_what_is_no_id_is_a_clear_error(game: Game, task: str) -> None:
    results = [game.send(task, bad) for bad in BAD_IDS]
    for bad, result in zip(BAD_IDS, results, strict=True):
        with pytest.raises(Exception, match="is not a character id: it must be an integer") as info:
            result.get(timeout=60)
        assert type(info.value).__name__ == "InvalidCharId"
        assert repr(bad) in str(info.value)


def test_one_broken_character_does_not_hold_up_29(
    game: Game, raw: Any, settings: Settings, engine: Engine, hot: HotStore
) -> None:
    for i in range(1, 31):
        bare_write(raw, settings, i, state="exploration", stats='{"luck": 1}')
    raw.hset(f"{settings.prefix}ac:17", "stats", "{broken")
    game.sync_until_clean(hot)
    assert len(rows(engine, "SELECT 1 FROM characters WHERE id <> 17")) == 29
    entry = hot.sync_state(17).quarantine
    assert entry
    assert entry.field == "stats"
    assert raw.hget(f"{settings.prefix}ac:17", "stats") == b"{broken"
    raw.hset(f"{settings.prefix}ac:17", "stats", '{"luck": 2}')
    assert game.call("backup_full_state", 17)["outcome"] == "saved"
    assert hot.sync_state(17).quarantine is None


def test_hostile_values_are_quarantined_by_name_and_hold_up_no_other(
    game: Game, raw: Any, settings: Settings, engine: Engine, hot: HotStore
) -> None:
    for i, (field, value) in enumerate(HOSTILE.values(), start=1):
        bare_write(raw, settings, i, state="exploration", **{field: value})
        bare_write(raw, settings, 1000 + i, state="exploration")
    raw.sadd(f"{settings.prefix}dirty_accounts", "42; DROP", "0", "-1", str(2**63), b"\xff")
    game.sync_until_clean(hot)
    assert len(rows(engine, "SELECT 1 FROM characters WHERE id > 1000")) == len(HOSTILE)
    assert not rows(engine, "SELECT 1 FROM characters WHERE id < 1000")
    for i, (field, value) in enumerate(HOSTILE.values(), start=1):
        entry = hot.sync_state(i).quarantine
        assert entry
        assert (entry.field or "").split(".")[0] == field
        assert raw.hget(f"{settings.prefix}ac:{i}", field) == value
    _, entries = hot.list_quarantine()
    assert {"42; DROP", "0", "-1", str(2**63), "\\xff"} <= {entry.name for entry in entries}


def test_a_change_during_the_write_is_still_dirty_and_saved_next(
    game: Game, raw: Any, settings: Settings, engine: Engine, hot: HotStore
) -> None:
    bare_write(raw, settings, 1, state="exploration")
    assert game.call("backup_full_state", 1)["outcome"] == "saved"
    bare_write(raw, settings, 1, state="combat")
    with engine.begin() as connection:
        hold_row(connection, 1)
        result = game.send("backup_full_state", 1)
        wait_until(lambda: waiting_for_a_lock(engine))
        bare_write(raw, settings, 1, state="scenario")
    assert result.get(timeout=60)["outcome"] == "saved"
    assert rows(engine, "SELECT game_stage FROM characters") == [("combat",)]
    assert hot.sync_state(1).dirty
    game.sync_until_clean(hot)
    assert rows(engine, "SELECT game_stage FROM characters") == [("scenario",)]


def test_the_same_message_delivered_twice_does_no_harm(
    game: Game, raw: Any, settings: Settings, engine: Engine, hot: HotStore
) -> None:
    ids = list(range(1, 21))
    for i in ids:
        bare_write(raw, settings, i, state="exploration")
    claims = [list(hot.claim(i, lease_us=settings.lease_us)[0]) for i in ids]
    results = [game.send("backup_batch", claims) for _ in range(3)]
    counts = [result.get(timeout=60) for result in results]
    assert sum(count.get("saved", 0) for count in counts) == len(ids)
    assert {o for count in counts for o in count} <= {"saved", "unchanged", "stale", "superseded"}
    single = [game.send("backup_full_state", 1, task_id="the-same") for _ in range(2)]
    assert {r.get(timeout=60)["outcome"] for r in single} <= {"saved", "unchanged", "superseded"}
    assert rows(engine, "SELECT count(*) FROM characters WHERE game_stage = 'exploration'") == [
        (20,)
    ]
    # Both single messages have one task id: the second may still be at work.
    wait_until(lambda: (hot.status().dirty, hot.status().claimed) == (0, 0))


def test_a_constantly_changing_character_keeps_advancing(
    game: Game, raw: Any, settings: Settings, engine: Engine
) -> None:
    stop = threading.Event()

    def play() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            bare_write(raw, settings, 1, state="exploration", turn=turn)

    player = threading.Thread(target=play)
    player.start()
    try:
        seen: set[Any] = set()
        while len(seen) < 10:
            game.send("sync_dirty")
            game.send("sync_dirty")
            seen.update(rows(engine, "SELECT extra->>'turn' FROM characters"))
    finally:
        stop.set()
        player.join()
    turns = [int(turn) for (turn,) in seen]
    assert len(turns) == len(set(turns))


def test_a_login_does_not_wait_behind_a_flood_of_backups(
    game: Game, raw: Any, settings: Settings
) -> None:
    bare_write(raw, settings, 1, state="exploration")
    for _ in range(300):
        game.send("backup_full_state", 1, ignore_result=True)
    assert game.call("restore_full_state", 1)["outcome"] == "live"
    assert game.queued("backup") > 0


def test_a_message_that_names_no_queue_is_served(game: Game) -> None:
    realm = of_realm(game.settings)
    result = game.app.send_task("statesync.restore_full_state", args=[1], kwargs=realm)
    assert result.get(timeout=60)["outcome"] == "not_found"


def test_results_are_kept_for_minutes_and_the_sweep_keeps_none(
    game: Game, raw: Any, settings: Settings, hot: HotStore, engine: Engine
) -> None:
    bare_write(raw, settings, 1, state="exploration")
    game.call("sync_dirty")
    # No further sweep may be on its way: its result would be kept.
    wait_until(lambda: (hot.status().dirty, hot.status().claimed) == (0, 0))
    backend: Any = game.app.backend
    results = backend.client
    results.flushdb()
    bare_write(raw, settings, 1, state="combat")
    game.send("sync_dirty", ignore_result=True)
    wait_until(lambda: rows(engine, "SELECT 1 FROM characters WHERE game_stage = 'combat'"))
    assert results.keys("celery-task-meta-*") == []
    result = game.send("backup_full_state", 1)
    result.get(timeout=60)
    assert 0 < results.ttl(f"celery-task-meta-{result.id}") <= settings.result_seconds
