"""One trace leads from a game's change of state to the commit of its backup."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from statesync import Settings
from tests.integration.worker.traced import SECRET

pytest.importorskip("opentelemetry.sdk", reason="the extra statesync[otel] is not installed")
ROOT = Path(__file__).parents[3]

Span = dict[str, Any]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With queues of the test's own."""
    return replace(settings, queue_prefix=settings.key_prefix)


@pytest.fixture
def spans(settings: Settings) -> list[Span]:
    """The spans of ``traced.py``."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.integration.worker.traced"],
        env={**os.environ, **settings.to_env()},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    found: list[Span] = json.loads(ran.stdout.splitlines()[-1])
    return found


def path_to(span: Span, spans: list[Span]) -> list[str]:
    """Return the names from the root of a trace to a span."""
    by_id = {one["id"]: one for one in spans}
    names = []
    at: Span | None = span
    while at:
        assert at["trace"] == span["trace"]
        names.append(at["name"])
        at = by_id.get(at["parent"])
    return names[::-1]


def test_a_trace_leads_from_the_game_to_the_commit(spans: list[Span], settings: Settings) -> None:
    queue = settings.queue("backup")
    run = "run/statesync.backup_full_state"
    commits = {
        one["trace"]: path
        for one in spans
        if one["name"] == "transaction"
        for path in [path_to(one, spans)]
        if run in path and path[0] == "statesync.change_state"
    }
    assert len(commits) == 2, "one of threads, one of asyncio"
    for path in commits.values():
        assert path[:2] == ["statesync.change_state", f"send {queue}"]
        assert path[-2:] == [run, "transaction"]
    steps = Counter(one["name"] for one in spans if path_to(one, spans)[-2:-1] == [run])
    assert steps["EVALSHA claim"] == steps["EVALSHA snapshot"] == 2
    kinds = {one["name"]: one["kind"] for one in spans}
    assert kinds[f"send {queue}"] == "PRODUCER"
    assert kinds[run] == "CONSUMER"
    assert kinds["transaction"] == kinds["EVALSHA update"] == "CLIENT"
    # A save for many callers begins its own.
    group = [one for one in spans if one["name"] == "statesync.group_commit"]
    assert group
    assert not any(one["parent"] for one in group)
    assert not [one for one in spans if SECRET in one["whole"]], "no value of a player is in a span"
