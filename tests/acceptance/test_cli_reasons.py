"""The command line says why something is not saved, not restored or not reached."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text

from statesync import GameStateOrchestrator, Settings
from statesync.hot.store import HotStore
from statesync.observe.broker import problem_of
from tests.acceptance.command_line import run, run_json
from tests.acceptance.test_cli_operators import FULL
from tests.acceptance.test_doctor import examine


@pytest.fixture
def no_redis(settings: Settings) -> Settings:
    """Return the test's settings, with the URL of a Redis that does not answer."""
    return replace(settings, redis_url="redis://127.0.0.1:1/0")


@pytest.fixture
def in_a_raid(hot: HotStore, raw: Any) -> str:
    """Character 1 is in a live session of a type that is registered nowhere; 2 is not."""
    session = str(uuid4())
    raw.hset(hot.keys.session("raid", session), mapping={"participants": "[1]"})
    for char_id in (1, 2):
        hot.create(char_id, **FULL)
    hot.update(1, raid_session_id=session)
    return session


def test_a_session_type_that_is_not_registered(
    settings: Settings, hot: HotStore, in_a_raid: str
) -> None:
    hot.heartbeat()
    assert run_json(settings, "status")["unknown_types"] == {"raid": 1}
    assert "raid (1)" in run(settings, "status")
    listed = run_json(settings, "pending")["characters"]
    assert {item["name"]: item["unknown_types"] for item in listed} == {"1": ["raid"], "2": []}
    assert "raid" in run(settings, "pending", "1")
    assert run_json(settings, "inspect", "1")["unknown_sessions"] == [f"raid:session:{in_a_raid}"]
    assert f"raid:session:{in_a_raid}" in run(settings, "inspect", "1")
    drained = run_json(settings, "drain", "--timeout", "0.1", status=1)
    assert (drained["unknown_types"], drained["done"]) == ({"raid": 1}, False)
    assert "raid (1)" in run(settings, "drain", "--timeout", "0.1", status=1)


def test_who_is_not_restored(
    settings: Settings, orchestrator: GameStateOrchestrator, hot: HotStore, engine: Engine
) -> None:
    for char_id in (1, 2):
        hot.create(char_id, **FULL)
        orchestrator.evict(char_id)
    with engine.begin() as connection:
        connection.execute(text("UPDATE characters SET created_at = '20000-01-01' WHERE id = 1"))
    found = run_json(settings, "restore", "--all-active", status=1)
    assert found["outcomes"] == {"failed": 1, "restored": 1}
    assert [item["char_id"] for item in found["failed"]] == [1]
    assert "created_at" in found["failed"][0]["error"]
    assert "1: failed (" in run(settings, "restore", "--all-active", status=1)


def test_inspect_does_not_contradict_itself(
    settings: Settings, orchestrator: GameStateOrchestrator, hot: HotStore, raw: Any
) -> None:
    raw.set(hot.keys.core(1), "s")
    shown = run(settings, "inspect", "1")
    assert "not readable" in shown
    assert "on neither side" not in shown
    hot.create(2, **FULL)
    orchestrator.delete(2)
    assert "was deleted at" in run(settings, "inspect", "2", status=1)
    assert run_json(settings, "inspect", "2", status=1)["deleted_at"]
    raw.sadd(hot.keys.dirty, 3)
    run(settings, "drain")
    assert "Quarantined: the character was dirty" in run(settings, "inspect", "3", status=1)
    shown = run(settings, "quarantine", "show", "3")
    assert "field: -" in shown
    assert shown.count(" UTC") == 2


def test_inspect_shows_the_side_that_is_not_away(
    settings: Settings,
    unreachable: Settings,
    no_redis: Settings,
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
) -> None:
    hot.create(1, **FULL)
    orchestrator.backup_full_state(1)
    found = run_json(unreachable, "inspect", "1", status=1)
    assert found["redis"]["bio"] == FULL["bio"]
    assert found["marks"]["dirty"] is False
    assert found["postgresql"] is None
    assert "PostgreSQL" in found["postgresql_error"]
    shown = run(unreachable, "inspect", "1", status=1)
    assert "PostgreSQL is not shown: " in shown
    assert "harbour" in shown
    assert "differs" not in shown
    assert "neither side" not in run(unreachable, "inspect", "2", status=1)

    found = run_json(no_redis, "inspect", "1", status=1)
    assert found["postgresql"]["bio"] == FULL["bio"]
    assert (found["redis"], found["marks"]) == (None, None)
    shown = run(no_redis, "inspect", "1", status=1)
    assert "Redis is not shown: " in shown
    assert "harbour" in shown
    assert "differs" not in shown
    assert "Marks" not in shown


def test_inspect_shows_what_cannot_be_read(
    settings: Settings, orchestrator: GameStateOrchestrator, hot: HotStore, raw: Any
) -> None:
    hot.create(1, **FULL)
    orchestrator.backup_full_state(1)
    raw.hset(hot.keys.core(1), mapping={"stats": "[\x1b[2J", "guild": b"\xff"})
    found = run_json(settings, "inspect", "1")
    assert (found["redis"], found["redis_fields"]["stats"]) == (None, "[\x1b[2J")
    shown = run(settings, "inspect", "1")
    assert "In Redis, but not readable: " in shown
    lines = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert r"[\x1b[2J" in lines["stats"]
    assert r"\xff" in lines["guild"]
    differs = {name for name, line in lines.items() if line.endswith("differs")}
    assert differs == {"stats", "guild"}
    raw.delete(hot.keys.core(1))
    raw.sadd(hot.keys.core(1), "no hash")
    assert run_json(settings, "inspect", "1")["redis_fields"] is None


def test_discard_says_what_may_be_unsaved(settings: Settings, hot: HotStore, raw: Any) -> None:
    hot.create(1, **FULL)
    raw.hset(hot.keys.core(1), "stats", "[]")
    raw.sadd(hot.keys.dirty, 2)
    assert run_json(settings, "drain")["outcomes"] == {"missing": 1, "quarantined": 1}
    done = run_json(settings, "quarantine", "discard", "2")
    assert done == {"done": ["2"], "unsaved": [], "absent": []}
    done = run_json(settings, "quarantine", "discard", "1")
    assert done == {"done": ["1"], "unsaved": ["1"], "absent": []}


def test_what_is_wrong_with_broker_and_results(settings: Settings) -> None:
    assert examine(settings, "results")["results"]["status"] == "ok"
    away = replace(settings, result_url="redis://:hunter2@127.0.0.1:1/2")
    found = examine(away, "results", status=1)["results"]
    assert "STATESYNC_RESULT_URL" in found["do"]
    assert "hunter2" not in str(found)
    odd = replace(settings, broker_url=settings.broker_url.replace("redis+socket", "no-such"))
    assert "no-such" in examine(odd, "broker", status=1)["broker"]["found"]
    missing = replace(settings, celeryconfig="/nope.py")
    for group in ("broker", "workers", "results"):
        found = examine(missing, group, status=1)[group]
        assert "/nope.py" in found["found"]
        assert found["do"] == "mend the setting"
    assert "/nope.py" in str(run_json(missing, "status", status=1)["problems"])


@pytest.mark.parametrize(
    "url",
    ["redis://:p%40ss@h/1", "redis://p%40ss@h/1", "redis://h/1?password=p%40ss", "x://:p@ss@h"],
)
def test_a_problem_of_the_broker_hides_its_password(url: str) -> None:
    shown = problem_of(ValueError(f"no luck with {url} and p@ss"), "the broker", url)
    assert shown.startswith("the broker: ValueError: no luck with ")
    assert "ss@" not in shown
    assert "p@ss" not in shown


def test_a_master_that_no_sentinel_knows_is_told_without_the_client(settings: Settings) -> None:
    odd = replace(settings, broker_url="sentinel://127.0.0.1:1/world/1")
    found = examine(odd, "broker", status=1)["broker"]["found"]
    assert "No master found for 'world' : 127.0.0.1:1 " in found
    assert "redis." not in found


def test_a_login_that_there_is_not(settings: Settings) -> None:
    url = settings.database_url.replace("postgres@", "nobody_here@")
    found = examine(replace(settings, database_url=url), "postgresql", status=1)["postgresql"]
    assert "the login" in found["do"]
