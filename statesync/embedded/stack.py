"""Owns the whole of statesync on one machine: embedded servers, worker, beat, Flower."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from statesync.durable import database, migrate
from statesync.embedded.servers import Child, Servers, servers
from statesync.settings import PREFIX, Settings

__all__ = ["Stack", "stack"]


class Stack:
    """Running servers with migrated tables, and the processes started on them."""

    def __init__(self, on: Servers, settings: Settings, exits: contextlib.ExitStack) -> None:
        self.servers = on
        self.settings = settings
        self._exits = exits

    def start_worker(
        self, name: str = "worker", *, concurrency: int = 2, wait: bool = True
    ) -> Child:
        """Start a worker that serves all queues."""
        worker = self.start(
            name, "worker", "-n", f"{name}@%h", "-c", str(concurrency), "--loglevel", "INFO"
        )
        if wait:
            self.wait_worker(worker)
        return worker

    def wait_worker(self, worker: Child) -> None:
        """Wait until a worker takes tasks."""
        worker.wait_ready(lambda: b" ready." in worker.log.read_bytes())

    def start_beat(self) -> Child:
        """Start beat, which sweeps the dirty list every ``sync_seconds``."""
        return self.start("beat", "beat", "--loglevel", "INFO")

    def start_flower(self, port: int, password: str) -> Child:
        """Start Flower on loopback, for the user ``statesync``."""
        login = {"FLOWER_BASIC_AUTH": f"statesync:{password}", "FLOWER_ADDRESS": "127.0.0.1"}
        flower = self.start("flower", "flower", f"--port={port}", env=login)
        flower.wait_ready(lambda: b"Visit me at" in flower.log.read_bytes())
        return flower

    def start(self, name: str, *words: str, env: dict[str, str] | None = None) -> Child:
        """Start ``celery -A statesync`` with ``words``; its log is ``name``.log in the folder."""
        outer = {k: v for k, v in os.environ.items() if not k.startswith((PREFIX, "FLOWER_"))}
        log = self.servers.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        child = Child(
            name,
            [sys.executable, "-m", "celery", "-A", "statesync", *words],
            log,
            env={**outer, **self.settings.to_env(), **(env or {})},
            cwd=self.servers.folder,
        )
        self._exits.callback(child.stop)
        child.start()
        return child


@contextlib.contextmanager
def stack(folder: Path | None = None, **changes: Any) -> Iterator[Stack]:
    """Run the servers on ``folder`` (a new one, removed at the end, if None) and migrate.

    ``changes`` are settings. What is started on it ends with the block, in reverse order.
    """
    with contextlib.ExitStack() as exits:
        on = exits.enter_context(servers(folder))
        settings = on.settings(**changes)
        engine = database.connect(settings)
        try:
            migrate.upgrade(engine)
        finally:
            engine.dispose()
        yield Stack(on, settings, exits.enter_context(contextlib.ExitStack()))
