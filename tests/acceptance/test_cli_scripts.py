"""What scripts rely on: exit codes, and what is shown while a server is away."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from statesync import GameStateOrchestrator, Settings
from statesync.hot.commands.troubles import Server, Work
from statesync.hot.store import HotStore
from statesync.worker.names import QueueName
from tests.acceptance.command_line import STATESYNC, run, run_json
from tests.acceptance.test_doctor import examine


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, sync_seconds=60)


def make_older(hot: HotStore, raw: Any, char_id: int, *, seconds: int) -> None:
    """Let the unsaved change of a character be of some time ago."""
    now_ms = hot.examine([]).now_us // 1000
    raw.zadd(hot.keys.since, {str(char_id): now_ms - seconds * 1000})


def set_aside(hot: HotStore, raw: Any, char_id: int) -> None:
    """Create a character that cannot be saved, and let it go to quarantine."""
    hot.create(char_id, state="exploration")
    raw.hset(hot.keys.core(char_id), "stats", "[]")


def test_status_fails_if_a_change_waits_for_too_long(
    settings: Settings, hot: HotStore, raw: Any
) -> None:
    hot.create(1, state="exploration")
    hot.heartbeat()
    assert run_json(settings, "status", "--max-age", "1000")["problems"] == []
    make_older(hot, raw, 1, seconds=100)
    assert run_json(settings, "status")["problems"] == []
    (problem,) = run_json(settings, "status", "--max-age", "90", status=1)["problems"]
    assert "more than 90 s: see `statesync doctor`" in problem
    make_older(hot, raw, 1, seconds=200)
    (problem,) = run_json(settings, "status", status=1)["problems"]
    assert "more than 180 s" in problem
    assert problem.partition(" is ")[0] in run(settings, "status", status=1)
    run(settings, "status", "--max-age", "-1", status=2)


def test_status_fails_if_too_many_are_in_quarantine(
    settings: Settings, hot: HotStore, raw: Any, orchestrator: GameStateOrchestrator
) -> None:
    set_aside(hot, raw, 1)
    assert orchestrator.backup_full_state(1).outcome == "quarantined"
    assert run_json(settings, "status")["problems"] == []
    assert run_json(settings, "status", "--max-quarantined", "1")["problems"] == []
    found = run_json(settings, "status", "--max-quarantined", "0", status=1)
    assert "statesync quarantine list" in found["problems"][0]
    make_older(hot, raw, 1, seconds=1000)
    assert run_json(settings, "status", "--max-age", "5")["oldest_ms"] is None


def test_status_fails_if_something_is_unsaved_and_nobody_sweeps(
    settings: Settings, hot: HotStore, raw: Any
) -> None:
    assert run_json(settings, "status")["sweep_ms"] is None
    raw.sadd(hot.keys.dirty, 1)
    (problem,) = run_json(settings, "status", status=1)["problems"]
    queue = settings.queue(QueueName.SYNC)
    assert problem == (
        "1 character is unsaved, and no sweep has come in yet: no message waits in the queue "
        f"{queue}, so beat sends none; start `celery -A statesync beat`; if it runs, see what "
        "Redis or the broker refuses"
    )
    hot.heartbeat()
    found = run_json(settings, "status")
    assert (found["problems"], found["dirty"]) == ([], 1)
    assert found["sweep_ms"] < 60_000
    raw.set(hot.keys.heartbeat, hot.examine([]).now_us // 1000 - 200_000)
    (problem,) = run_json(settings, "status", status=1)["problems"]
    assert "no sweep came in for 20" in problem


def test_what_workers_report_of_a_server_fails(settings: Settings, hot: HotStore) -> None:
    error = "PostgreSQL at db: could not extend file: No space left on device\x1b[2J"
    for work in (Work.SWEEP, Work.BACKUP):
        hot.note_trouble(Server.POSTGRESQL, work, error, keep_ms=60_000)
    found = run_json(settings, "status", status=1)
    assert found["troubles"]["postgresql"]["works"] == ["backup", "sweep"]
    assert "PostgreSQL refuses saves, sweeps since 20" in found["problems"][0]
    shown = run(settings, "status", status=1)
    assert r"No space left on device\x1b[2J" in shown
    check = examine(settings, "troubles", status=1)["troubles postgresql"]
    assert "No space left" in check["found"]
    assert "make room" in check["do"]
    hot.end_troubles(Work.SWEEP)
    hot.end_troubles(Work.BACKUP)
    assert examine(settings, "troubles")["troubles"]["status"] == "ok"


def test_a_key_that_another_writer_took(settings: Settings, hot: HotStore, raw: Any) -> None:
    hot.create(1, state="exploration")
    raw.set(hot.keys.troubles, "x")
    found = run_json(settings, "status", status=1)
    assert found["dirty"] == 1
    assert any("statesync:trouble" in problem for problem in found["problems"])
    check = examine(settings, "troubles", status=1)["troubles"]
    assert "statesync:trouble" in check["found"]
    assert "who else writes there" in check["do"]


def test_advice_of_the_doctor_about_a_right(settings: Settings, hot: HotStore) -> None:
    error = "PostgreSQL at db: permission denied: GRANT UPDATE ON sessions TO game"
    hot.note_trouble(Server.POSTGRESQL, Work.BACKUP, error, keep_ms=60_000)
    hot.note_trouble(Server.BROKER, Work.SWEEP, "connection refused", keep_ms=60_000)
    found = examine(settings, "troubles", status=1)
    assert "give our user there the right" in found["troubles postgresql"]["do"]
    assert "its log" in found["troubles broker"]["do"]


def test_a_backlog_that_no_sweep_has_seen(settings: Settings, hot: HotStore, raw: Any) -> None:
    """Marks of bare writers have no age before."""
    raw.sadd(hot.keys.dirty, 7)
    found = examine(settings, "backlog", status=1)["backlog"]
    assert found["status"] == "fail"
    assert "1 dirty, 0 claimed by workers; nobody knows for how long" in found["found"]
    hot.heartbeat()
    assert examine(settings, "backlog")["backlog"]["status"] == "ok"


@pytest.mark.parametrize("command", [("status", "--max-age"), ("pending", "--wait", "--timeout")])
def test_a_limit_that_is_no_number_is_none(settings: Settings, command: tuple[str, ...]) -> None:
    for limit in ("nan", "inf", "-1"):
        run(settings, *command, limit, status=2)


def test_backlog_against_the_promise(
    settings: Settings, hot: HotStore, raw: Any, orchestrator: GameStateOrchestrator
) -> None:
    assert examine(settings, "backlog")["backlog"]["found"] == "0 dirty, 0 claimed by workers"
    for char_id in (1, 2):
        hot.create(char_id, state="exploration")
    hot.claim(2, lease_us=0)
    make_older(hot, raw, 1, seconds=100)
    found = examine(settings, "backlog")["backlog"]
    assert found["status"] == "ok"
    assert "1 dirty, 1 claimed by workers (1 of them longer than a lease)" in found["found"]
    assert "s, and is promised in 60 s" in found["found"]
    make_older(hot, raw, 1, seconds=150)
    found = examine(settings, "backlog")["backlog"]
    assert found["status"] == "warn"
    assert found["found"].endswith("; nothing was saved within 1 s")
    make_older(hot, raw, 1, seconds=200)
    found = examine(settings, "backlog", status=1)["backlog"]
    assert (found["status"], found["group"]) == ("fail", "backlog")
    assert "statesync drain" in found["do"]
    set_aside(hot, raw, 3)
    orchestrator.backup_full_state(3)
    found = examine(settings, "backlog", status=1)["quarantine"]
    assert (found["status"], found["group"]) == ("warn", "backlog")


def test_wait_until_all_is_saved(
    settings: Settings, hot: HotStore, orchestrator: GameStateOrchestrator
) -> None:
    for char_id in (1, 2):
        hot.create(char_id, state="exploration")
    with waiting(settings) as process:
        orchestrator.backup_many([1, 2])
        stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "In all: 0 dirty, 0 claimed, 0 quarantined." in stdout


def test_wait_names_what_is_left(settings: Settings, hot: HotStore) -> None:
    words = ("pending", "--wait", "--timeout", "0.1")
    hot.create(2, state="exploration")
    hot.claim(2, lease_us=settings.lease_us)
    assert run_json(settings, *words, status=1)["claimed"] == 1
    hot.create(1, state="exploration")
    left = run_json(settings, *words, status=1)
    assert [item["name"] for item in left["characters"]] == ["2", "1"]
    shown = run(settings, *words, status=1)
    assert "waiting: 1 dirty, 1 claimed" in shown
    assert "In all: 1 dirty, 1 claimed" in shown
    run(settings, "pending", "--timeout", "1", status=2)


def test_wait_for_one_character(
    settings: Settings, hot: HotStore, raw: Any, orchestrator: GameStateOrchestrator
) -> None:
    for char_id in (1, 2):
        hot.create(char_id, state="exploration")
    orchestrator.backup_full_state(1)
    assert "no unsaved changes" in run(settings, "pending", "1", "--wait")
    assert "waiting" in run(settings, "pending", "2", "--wait", "--timeout", "0.1", status=1)


def test_quarantine_is_not_waited_for(
    settings: Settings, hot: HotStore, raw: Any, orchestrator: GameStateOrchestrator
) -> None:
    set_aside(hot, raw, 1)
    orchestrator.backup_full_state(1)
    assert run_json(settings, "pending", "--wait", "--timeout", "1000")["quarantined"] == 1
    assert "quarantined" in run(settings, "pending", "1", "--wait", "--timeout", "1000", status=1)


def test_wait_ends_with_ctrl_c(settings: Settings, hot: HotStore) -> None:
    hot.create(1, state="exploration")
    with waiting(settings) as process:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr.strip() == "statesync: interrupted"


@contextlib.contextmanager
def waiting(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """Run `statesync pending --wait`; the block begins when it waits."""
    process = subprocess.Popen(
        [*STATESYNC, "pending", "--wait", "--timeout", "1000"],
        env=os.environ | settings.to_env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    try:
        assert "waiting: " in process.stderr.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def test_what_is_shown_without_postgresql(
    settings: Settings,
    unreachable: Settings,
    hot: HotStore,
    raw: Any,
    orchestrator: GameStateOrchestrator,
) -> None:
    hot.create(1, state="exploration")
    hot.heartbeat()
    set_aside(hot, raw, 2)
    orchestrator.backup_full_state(2)
    assert [entry["name"] for entry in run_json(unreachable, "quarantine", "list")] == ["2"]
    assert "field: stats" in run(unreachable, "quarantine", "show", "2")
    assert run_json(unreachable, "pending")["dirty"] == 1
    assert examine(unreachable, "backlog")["backlog"]["status"] == "ok"
    found = run_json(unreachable, "status", status=1)
    assert (found["dirty"], found["revision"]) == (1, None)
    assert "PostgreSQL" in found["problems"][0]


def test_what_is_shown_without_redis(settings: Settings) -> None:
    away = replace(settings, redis_url="redis://127.0.0.1:1/0")
    assert run_json(away, "conflicts", "list") == {"conflicts": [], "next": None}
    assert "there is no conflict 1" in run(away, "conflicts", "show", "1", status=1)
    found = run_json(away, "status", status=1)
    assert (found["dirty"], found["counters"]) == (None, {})
    assert found["revision"]
    for words in (["pending"], ["pending", "--wait"], ["quarantine", "list"]):
        assert "Redis at redis://127.0.0.1:1/0" in run(away, *words, status=1)
