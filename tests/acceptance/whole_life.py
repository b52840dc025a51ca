"""The whole life of two thousand characters, as the demo shows it, on servers set up in any way."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from statesync import GameStateOrchestrator, Settings
from statesync.cli.demo_steps import Demo
from statesync.embedded.servers import Servers
from statesync.embedded.stack import Stack

__all__ = ["live_whole_life"]


def live_whole_life(servers: Servers, settings: Settings) -> None:
    """Create, log in, play, save, lose Redis, restore, kill a worker; compare every field."""
    settings = replace(settings, sync_seconds=1, lease_seconds=4, batch_size=50)
    with contextlib.ExitStack() as exits:
        stack = Stack(servers, settings, exits)
        worker = stack.start_worker("life-1")
        stack.start_beat()
        orchestrator = exits.enter_context(
            contextlib.closing(GameStateOrchestrator.from_settings(settings))
        )
        for _, stage in Demo(stack, orchestrator, worker).stages():
            for step in stage():
                assert step.held is not False, step
        assert orchestrator.hot.list_quarantine() == (0, [])
