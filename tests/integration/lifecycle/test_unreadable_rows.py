"""A row that cannot be read, or that comes from a replica that lags, is its character's alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, TextClause, text

from statesync.errors import CharacterNotRestored
from statesync.game.client import log_in
from statesync.hot.keys import Keys
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.settings import Settings
from tests.conftest import FullCore
from tests.integration.sessions.stores import rows, wipe

PARTY = [1, 2, 3, 4]


@pytest.fixture
def saved(
    orchestrator: GameStateOrchestrator, full_core: FullCore, raw: Any, keys: Keys
) -> Iterator[GameStateOrchestrator]:
    """Characters in PostgreSQL alone; 3 and 4 are in a fight."""
    for char_id in PARTY:
        orchestrator.hot.create(char_id, **full_core(char_id))
    orchestrator.hot.open_session("combat", [3, 4], {"turn": "1"})
    orchestrator.backup_many(PARTY)
    wipe(raw, keys)
    yield orchestrator


DEEP = """(repeat('{"a":', 3000) || '1' || repeat('}', 3000))::jsonb"""
UNREADABLE = {
    "created_at": "UPDATE characters SET created_at = '20000-01-01' WHERE id = :id",
    "updated_at": "UPDATE characters SET updated_at = '0044-03-15 BC' WHERE id = :id",
    "stats_extra": f"UPDATE character_stats SET extra = {DEEP} WHERE character_id = :id",
    "extra.bio": """UPDATE characters SET extra = extra || '{"bio": 7}' WHERE id = :id""",
    "extra.location": """UPDATE characters SET extra = '{"location": [1]}' WHERE id = :id""",
    "extra": "UPDATE characters SET extra = '[1]' WHERE id = :id",
    "vitals": """UPDATE characters SET vitals = '"hp"' WHERE id = :id""",
    "vitals.hp": """UPDATE characters SET vitals = '{"hp": 5}' WHERE id = :id""",
    "stats.extra": "UPDATE character_stats SET extra = '7' WHERE character_id = :id",
    "stats.fame": """UPDATE character_stats SET extra = '{"fame": "x"}' WHERE character_id = :id""",
}


UNREADABLE_SESSIONS = {
    "time": "UPDATE sessions SET created_at = '20000-01-01'",
    "payload": f"UPDATE sessions SET payload = {DEEP}",
    "log": f"INSERT INTO combat_log SELECT id, 0, {DEEP} FROM sessions",
}


def query(sql: str) -> TextClause:
    """Return a query that may hold JSON, whose colons name no parameter."""
    return text(re.sub(r":(?!id\b)", r"\\:", sql))


@pytest.mark.parametrize("char_id", [2, 3])
@pytest.mark.parametrize("field", UNREADABLE)
def test_row_that_cannot_be_read_fails_alone_and_is_named(
    saved: GameStateOrchestrator, engine: Engine, field: str, char_id: int
) -> None:
    with engine.begin() as connection:
        connection.execute(query(UNREADABLE[field]), {"id": char_id})
    reports = {r.char_id: r for r in saved.restore_many(PARTY)}
    bad = reports.pop(char_id)
    assert bad.outcome == "failed"
    assert f"character {char_id}, field '{field}'" in (bad.error or "")
    assert {r.outcome for r in reports.values()} == {"restored"}
    assert saved.hot.peek(char_id) is None
    with pytest.raises(CharacterNotRestored, match=field):
        log_in(saved, char_id)


@pytest.mark.parametrize("part", UNREADABLE_SESSIONS)
def test_session_that_cannot_be_read_fails_alone(
    saved: GameStateOrchestrator, engine: Engine, part: str
) -> None:
    with engine.begin() as connection:
        connection.execute(query(UNREADABLE_SESSIONS[part]))
    reports = {r.char_id: r for r in saved.restore_many(PARTY)}
    assert {i: reports[i].outcome.value for i in PARTY} == {
        1: "restored",
        2: "restored",
        3: "failed",
        4: "failed",
    }
    assert "the session type 'combat' cannot load it" in (reports[3].error or "")


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_moments_at_both_ends_come_back_whatever_zone_the_database_has(
    settings: Settings, engine: Engine, full_core: FullCore, raw: Any, keys: Keys, zone: str
) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"ALTER DATABASE {engine.url.database} SET timezone TO '{zone}'"))
    moments = ["9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00+00:00"]
    with GameStateOrchestrator.from_settings(settings) as game:
        for char_id, created_at in enumerate(moments, 1):
            bio = {"name": "Ann", "gender": "f", "created_at": created_at}
            game.hot.create(char_id, **full_core(char_id, bio=bio))
        game.backup_many([1, 2])
        wipe(raw, keys)
        assert {r.outcome for r in game.restore_many([1, 2])} == {"restored"}
        found = [game.hot.get(char_id).bio for char_id in (1, 2)]
    assert [bio and bio["created_at"] for bio in found] == moments


@pytest.mark.parametrize("field", ["vitals", "created_at", "stats_extra"])
def test_row_that_cannot_be_read_keeps_what_an_incomplete_core_lacks(
    saved: GameStateOrchestrator, engine: Engine, raw: Any, keys: Keys, field: str
) -> None:
    with engine.begin() as connection:
        connection.execute(query(UNREADABLE[field]), {"id": 2})
    before = rows(engine, "SELECT vitals::text, created_at::text FROM characters WHERE id = 2")
    raw.hset(keys.core(2), mapping={"state": "exploration", "version": "50"})
    saved.hot.create(9, gold=1)
    reports = saved.backup_many([9, 2])
    assert [r.outcome for r in reports] == ["saved", "quarantined"]
    assert field in (reports[1].error or "")
    after = rows(engine, "SELECT vitals::text, created_at::text FROM characters WHERE id = 2")
    assert after == before


@pytest.mark.parametrize("field", ["vitals", "created_at", "stats_extra"])
@pytest.mark.parametrize("seal", ["", ", seal = 7, seal_version = 100"])
def test_row_that_cannot_be_read_in_a_conflict_is_its_characters_alone(
    saved: GameStateOrchestrator, engine: Engine, seal: str, field: str
) -> None:
    saved.restore_many([1, 2])
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE characters SET version = 100{seal} WHERE id IN (1, 2)"))
        connection.execute(query(UNREADABLE[field]), {"id": 2})
    for char_id in (1, 2):
        saved.hot.update(char_id, gold=9)
    reports = saved.backup_many([1, 2])
    assert [r.outcome for r in reports] == ["conflict", "quarantined"]
    assert reports[1].field == field
    assert saved.hot.status().claimed == 0


def test_row_that_is_older_than_what_was_evicted_fails_alone(
    saved: GameStateOrchestrator, raw: Any, keys: Keys
) -> None:
    raw.set(keys.tombstone(2), 1000)
    raw.set(keys.tombstone(3), 1000)
    reports = {r.char_id: r for r in saved.restore_many(PARTY)}
    assert {i: r.outcome.value for i, r in reports.items()} == {
        1: "restored",
        2: "failed",
        3: "failed",
        4: "restored",
    }
    for char_id in (2, 3):
        assert "older than what was evicted" in (reports[char_id].error or "")
        assert "replica" in (reports[char_id].error or "")
        assert "statesync recover" in (reports[char_id].error or "")


def test_vitals_that_the_game_cannot_derive_fail_alone(
    saved: GameStateOrchestrator, engine: Engine
) -> None:
    def derive(stats: Any) -> Any:
        return {"hp": 1 / (stats["luck"] - 7)}

    with engine.begin() as connection:
        connection.execute(text("UPDATE characters SET vitals = NULL WHERE id = 2"))
        connection.execute(text("UPDATE character_stats SET luck = 7 WHERE character_id = 2"))
    game = GameStateOrchestrator(saved.hot, engine, vitals=derive)
    reports = {r.char_id: r for r in game.restore_many(PARTY)}
    assert reports[2].outcome == "failed"
    assert "vitals" in (reports[2].error or "")
    assert {reports[i].outcome for i in (1, 3, 4)} == {"restored"}


def test_vitals_that_are_no_json_fail_alone(saved: GameStateOrchestrator, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE characters SET vitals = NULL WHERE id = 2"))
    game = GameStateOrchestrator(saved.hot, engine, vitals=lambda _: {"hp": object()})
    reports = {r.char_id: r for r in game.restore_many(PARTY)}
    assert reports[2].outcome == "failed"
    assert "field 'vitals'" in (reports[2].error or "")
    assert {reports[i].outcome for i in (1, 3, 4)} == {"restored"}
