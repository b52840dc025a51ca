"""What players and other writers wrote is shown whole, and never moves the operator's cursor."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from statesync import GameStateOrchestrator, Settings
from statesync.durable import database, losses
from statesync.durable.losses import Left, Loss, Side
from statesync.hot.store import HotStore
from statesync.state.fields import printable
from tests.acceptance.command_line import STATESYNC, run
from tests.acceptance.test_cli_operators import FULL

HOSTILE = "[/x][red]gone[/red] :smile: \x1b[2J\r\n\x9b31m\u202eback\x7f"
"""Markup that closes nothing, markup, an emoji's code, and all sorts of control characters."""
SHOWN = "[/x][red]gone[/red] :smile: \\x1b[2J\\r\\n\\x9b31m\\u202eback\\x7f"


def check(output: str) -> None:
    """Check that a value is in the output, whole, and that nothing in it is a command."""
    assert SHOWN in output.replace("\n", "")
    assert not [c for c in output.replace("\n", "") if not c.isprintable()]


def check_json(output: str) -> None:
    assert not [c for c in output.rstrip("\n") if not c.isprintable()]
    assert HOSTILE in list(_texts(json.loads(output)))


def _texts(value: Any) -> Any:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _texts(item)


def test_inspect(settings: Settings, hot: HotStore, orchestrator: GameStateOrchestrator) -> None:
    hot.create(1, **(FULL | {"guild": HOSTILE}))
    hot.update(1, {HOSTILE: "x"})
    hot.open_session("combat", [1], {HOSTILE: HOSTILE})
    orchestrator.backup_full_state(1)
    check(run(settings, "inspect", "1"))
    check_json(run(settings, "inspect", "1", "--json"))


def test_pending(settings: Settings, hot: HotStore, raw: Any) -> None:
    raw.sadd(hot.keys.dirty, HOSTILE)
    check(run(settings, "pending"))
    check_json(run(settings, "pending", "--json"))


def quarantine(hot: HotStore, raw: Any, name: str, field: str) -> None:
    entry = {"error": HOSTILE, "field": field, "attempts": 1, "first_at": 1, "last_at": 1}
    raw.hset(hot.keys.quarantine, name, json.dumps(entry))


def test_quarantine(settings: Settings, hot: HotStore, raw: Any) -> None:
    quarantine(hot, raw, HOSTILE, "stats")
    hot.create(1, **FULL)
    check(run(settings, "quarantine", "list"))
    check_json(run(settings, "quarantine", "list", "--json"))
    quarantine(hot, raw, "1", HOSTILE)
    check(run(settings, "quarantine", "show", HOSTILE))
    check(run(settings, "quarantine", "show", "1"))
    check(run(settings, "inspect", "1"))
    assert "\x1b" not in run(settings, "quarantine", "retry", HOSTILE, status=2)
    check(run(settings, "quarantine", "discard", HOSTILE))
    check(run(settings, "quarantine", "discard", HOSTILE, status=1))
    check(run(settings, "quarantine", "show", HOSTILE, status=1))


def test_conflicts(settings: Settings, hot: HotStore, orchestrator: GameStateOrchestrator) -> None:
    insert = text(
        "INSERT INTO state_conflicts (character_id, version, reason, state) "
        "VALUES (1, 1, :reason, :state) RETURNING id"
    )
    state = json.dumps({"guild": HOSTILE})
    with orchestrator.engine.begin() as connection:
        number = connection.execute(insert, {"reason": HOSTILE, "state": state}).scalar_one()
    check_json(run(settings, "conflicts", "list", "--json"))
    shown = run(settings, "conflicts", "show", str(number))
    check(shown)
    assert json.dumps(HOSTILE)[1:12] in shown


def test_losses(settings: Settings, orchestrator: GameStateOrchestrator) -> None:
    now = datetime.now(UTC)
    loss = Loss(side=Side.POSTGRESQL, found_at=now, recovered_at=now, left=[Left(1, HOSTILE)])
    with database.transaction(orchestrator.engine) as connection:
        losses.record(connection, settings.prefix, loss)
    shown = run(settings, "recover")
    check(shown)
    assert "left unsaved: 1" in shown
    check_json(run(settings, "recover", "--json"))


def test_restore_and_drain(
    settings: Settings, hot: HotStore, orchestrator: GameStateOrchestrator
) -> None:
    hot.create(1, **FULL)
    orchestrator.evict(1)
    broken = text("UPDATE characters SET extra = jsonb_build_object('bio', :value)")
    with orchestrator.engine.begin() as connection:
        connection.execute(broken, {"value": HOSTILE})
    shown = run(settings, "restore", "1", status=1)
    assert not [c for c in shown.replace("\n", "") if not c.isprintable()]


@pytest.mark.parametrize("words", [("conflicts", "list"), ("status",), ("delete", "1", "--yes")])
def test_lock_ends_a_command_with_one_line(
    settings: Settings, orchestrator: GameStateOrchestrator, words: tuple[str, ...]
) -> None:
    tables = "state_conflicts, characters, statesync_alembic_version"
    impatient = replace(
        settings, database_url=f"{settings.database_url}&options=-c%20lock_timeout%3D50ms"
    )
    with orchestrator.engine.begin() as connection:
        connection.execute(text(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE"))
        assert "lock timeout" in run(impatient, *words, status=1)


def test_log(
    hot: HotStore,
    raw: Any,
    orchestrator: GameStateOrchestrator,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hot.create(1, **FULL)
    raw.hset(hot.keys.core(1), HOSTILE, b"\xff")
    with caplog.at_level(logging.WARNING):
        assert orchestrator.backup_full_state(1).outcome == "quarantined"
    assert SHOWN in caplog.text
    assert "\x1b" not in caplog.text


def test_log_of_a_cause(
    hot: HotStore, raw: Any, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    def derive(stats: Mapping[str, int]) -> dict[str, Any]:
        raise ValueError(f"unknown in {sorted(stats)}: {HOSTILE}")

    hot.create(1, **{name: value for name, value in FULL.items() if name != "vitals"})
    with GameStateOrchestrator.from_settings(settings) as game:
        game.evict(1)
        reader = GameStateOrchestrator(game.hot, game.engine, vitals=derive)
        with caplog.at_level(logging.ERROR):
            assert reader.restore_full_state(1).outcome == "failed"
    assert SHOWN in caplog.text
    assert "in derive" in caplog.text, "the traceback is there"
    assert not [c for c in caplog.text.replace("\n", "") if not c.isprintable()]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_terminal_that_lacks_a_letter(settings: Settings, hot: HotStore, encoding: str) -> None:
    hot.create(1, **FULL, motto="狼 🐺")
    env = {**os.environ, **settings.to_env(), "PYTHONIOENCODING": encoding, "LC_ALL": "C"}

    def shown(*words: str) -> str:
        command = [*STATESYNC, "inspect", "1", *words]
        ended = subprocess.run(command, env=env, capture_output=True, timeout=60)
        assert (ended.returncode, ended.stderr) == (0, b"")
        return ended.stdout.decode(encoding)

    assert "guild" in shown()
    assert json.loads(shown("--json"))["redis"]["fields"]["motto"] == "狼 🐺"


def test_what_is_printable_stays() -> None:
    assert printable("Wölfe 狼 [x] \\n") == "Wölfe 狼 [x] \\n"
    assert printable("\ud800\u2028") == "\\ud800\\u2028"
