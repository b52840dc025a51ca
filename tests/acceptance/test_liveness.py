"""A probe of a worker or beat finds what hangs, and not what is busy or waits for its broker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from celery import Celery

from statesync.embedded.child import Child
from statesync.embedded.servers import Servers
from statesync.embedded.stack import Stack
from tests.acceptance.conftest import wait_until

PROBE = "find {} -mmin -2 | grep -q ."
"""As in ``deploy/`` and ``docker-compose.yml``."""
MAIN = """
from celery.__main__ import main
from statesync.worker import liveness
liveness._SECONDS, liveness._STUCK_SECONDS = 0.5, 4
main()
"""
"""Celery, with a faster alarm, and a main thread that may be away from its loop for less time."""


class Shown:
    """The file of a process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.env = {"STATESYNC_LIVENESS_FILE": str(path)}

    def is_alive(self) -> bool:
        command = ["sh", "-c", PROBE.format(self.path)]
        return subprocess.run(command, capture_output=True).returncode == 0

    def wait(self) -> None:
        """Age it, and wait until the process has shown again that it is not stuck."""
        os.utime(self.path, (1, 1))
        wait_until(self.is_alive)

    def stop(self, process: Child) -> None:
        """Freeze the process for several alarms; the probe finds it."""
        process.send(signal.SIGSTOP)
        os.utime(self.path, (1, 1))
        time.sleep(2)
        assert not self.is_alive()
        process.send(signal.SIGCONT)
        wait_until(self.is_alive)


@pytest.fixture
def shown(tmp_path: Path) -> Shown:
    return Shown(tmp_path / "alive")


Start = Callable[..., Child]
"""Starts a worker or beat that shows its life in ``shown``."""


@pytest.fixture
def start(stack: Stack, shown: Shown) -> Iterator[Start]:
    with contextlib.ExitStack() as exits:

        def started(*words: str) -> Child:
            log = stack.servers.folder / f"{words[0]}.log"
            log.unlink(missing_ok=True)
            command = [sys.executable, "-c", MAIN, "-A", "statesync", *words, "--loglevel", "INFO"]
            env = {**os.environ, **stack.settings.to_env(), **shown.env}
            child = Child(words[0], command, log, env=env, cwd=stack.servers.folder)
            child.start()
            exits.callback(child.kill)
            return child

        yield started


def outlive_the_broker(shown: Shown, embedded: Servers) -> None:
    """Kill the broker for longer than the main thread may be away."""
    embedded.valkey.kill()
    for _ in range(12):
        shown.wait()
    embedded.start_valkey()
    shown.wait()


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
def test_a_worker_whose_broker_is_away_is_not_stuck_and_one_that_is_stopped_is(
    stack: Stack, shown: Shown, start: Start, embedded: Servers, pool: str
) -> None:
    worker = start("worker", "-P", pool, "-c", "1")
    stack.wait_worker(worker)
    shown.wait()
    outlive_the_broker(shown, embedded)
    shown.stop(worker)


@pytest.mark.slow
def test_a_worker_whose_processes_are_busy_is_not_stuck(
    stack: Stack, shown: Shown, start: Start, celery_setup_app: Celery
) -> None:
    worker = start("worker", "-c", "1")
    stack.wait_worker(worker)
    assert worker.process
    [busy] = psutil.Process(worker.process.pid).children()
    busy.suspend()
    results = [
        celery_setup_app.send_task("statesync.backup_full_state", args=[one], queue="backup")
        for one in (1, 2, 3)
    ]
    for _ in range(12):
        shown.wait()
    assert not any(result.ready() for result in results)
    busy.resume()
    assert [result.get(timeout=60)["outcome"] for result in results] == ["missing"] * 3


@pytest.mark.slow
def test_a_beat_whose_broker_is_away_is_not_stuck_and_one_that_is_stopped_is(
    shown: Shown, start: Start, embedded: Servers
) -> None:
    beat = start("beat")
    wait_until(shown.path.exists)
    shown.wait()
    outlive_the_broker(shown, embedded)
    shown.stop(beat)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["worker", "beat"])
def test_a_process_that_starts_without_its_broker_is_not_stuck(
    shown: Shown, start: Start, embedded: Servers, name: str
) -> None:
    embedded.valkey.kill()
    start(name)
    wait_until(shown.path.exists)
    for _ in range(12):
        shown.wait()
    embedded.start_valkey()
    shown.wait()
