"""Owns the whole of statesync on one machine: embedded servers and all processes."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from statesync.durable import database, migrate
from statesync.embedded.child import Child
from statesync.embedded.servers import Servers, servers
from statesync.settings import PREFIX, Settings

__all__ = ["Stack", "stack"]


class Stack:
    """Running servers with migrated tables, and the processes started on them.

    ``exits`` stops those processes when it closes.
    """

    def __init__(self, servers: Servers, settings: Settings, exits: contextlib.ExitStack) -> None:
        self.servers = servers
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
        """Start beat, which has the dirty list swept every ``sync_seconds``."""
        return self.start("beat", "beat", "--loglevel", "INFO")

    def start_flower(self, port: int, password: str, *, web_url: str = "") -> Child:
        """Start Flower on 127.0.0.1, for the user ``statesync``; it links to the page there."""
        login = {"FLOWER_BASIC_AUTH": f"statesync:{password}", "FLOWER_ADDRESS": "127.0.0.1"}
        env = {**login, f"{PREFIX}WEB_URL": web_url}
        flower = self.start("flower", "flower", f"--port={port}", env=env)
        flower.wait_ready(lambda: b"Visit me at" in flower.log.read_bytes())
        return flower

    def start_serve(self, port: int, password: str, *, flower_url: str = "") -> Child:
        """Start ``statesync serve`` on 127.0.0.1; ``statesync`` may act, and it links to Flower."""
        env = {
            f"{PREFIX}WEB_OPERATOR": f"statesync:{password}",
            f"{PREFIX}FLOWER_URL": flower_url,
        }
        command = ["-c", "from statesync.cli import main; main()", "serve", "--port", str(port)]
        serve = self._start("serve", command, env)
        serve.wait_ready(lambda: _is_open(port))
        return serve

    def start(self, name: str, *words: str, env: dict[str, str] | None = None) -> Child:
        """Start ``celery -A statesync`` with ``words``; its log is ``name``.log in the folder."""
        return self._start(name, ["-m", "celery", "-A", "statesync", *words], env or {})

    def _start(self, name: str, words: list[str], env: dict[str, str]) -> Child:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith((PREFIX, "FLOWER_"))}
        log = self.servers.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        child = Child(
            name,
            [sys.executable, *words],
            log,
            env={**inherited, **self.settings.to_env(), **env},
            cwd=self.servers.folder,
        )
        self._exits.callback(child.stop)
        child.start()
        return child


def _is_open(port: int) -> bool:
    """Return whether somebody listens on a port of 127.0.0.1."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def stack(folder: Path | None = None, **changes: Any) -> Iterator[Stack]:
    """Run the servers and migrate; the processes started on them end with the block.

    The data is in ``folder``, or in a new folder that is removed at the end. ``changes`` are
    settings.
    """
    with contextlib.ExitStack() as exits:
        running = exits.enter_context(servers(folder))
        settings = running.settings(**changes)
        engine = database.connect(settings)
        try:
            migrate.upgrade(engine, realm=settings.realm)
        finally:
            engine.dispose()
        yield Stack(running, settings, exits.enter_context(contextlib.ExitStack()))
