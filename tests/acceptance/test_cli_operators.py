"""The operators' part of the command line, as a person or a script meets it."""

from __future__ import annotations

from typing import Any

from statesync import HotStore, Settings
from tests.acceptance.test_cli import run, run_json
from tests.conftest import FullCore


def test_pending(settings: Settings, hot: HotStore, full_core: FullCore) -> None:
    assert "0 dirty, 0 claimed, 0 quarantined" in run(settings, "pending")
    hot.create(1, **full_core())
    hot.create(2, **full_core())
    hot.claim(2, settings.lease_us)
    found: dict[str, Any] = run_json(settings, "pending")
    assert [(c["name"], c["marks"]) for c in found["characters"]] == [
        ("1", ["dirty"]),
        ("2", ["claimed"]),
    ]
    assert "claimed" in run(settings, "pending", "2")
    assert "no unsaved changes" in run(settings, "pending", "3")
    assert run_json(settings, "pending", "3")["characters"] == []
    assert len(run_json(settings, "pending", "--limit", "1")["characters"]) == 1
    run(settings, "pending", "--limit", "0", status=2)
    run(settings, "pending", "x", status=2)
