"""Versions side by side: the fleet of the release before this one takes turns with this one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from statesync.embedded.child import Child
from statesync.settings import Settings
from tests.acceptance.conftest import wait_until
from tests.acceptance.world import ROOT, World, world

pytestmark = pytest.mark.slow

BEFORE = "4286c4a3ef3ebe73b634f9378db690d34228e1e6"
"""The last commit without realms, other brokers and clusters."""


@pytest.fixture(scope="module")
def checkout() -> Iterator[Path]:
    """The code of that commit, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="statesync-before-") as folder:
        archive = ["git", "-C", str(ROOT), "archive", "--format=tar", BEFORE]
        packed = subprocess.run(archive, capture_output=True)
        if packed.returncode:
            pytest.skip(f"the history of this checkout does not reach back to {BEFORE[:7]}")
        subprocess.run(["tar", "x", "-C", folder], input=packed.stdout, check=True)
        where = [sys.executable, "-c", "import statesync; print(statesync.__file__)"]
        env = {**os.environ, "PYTHONPATH": folder}
        assert subprocess.check_output(where, env=env, cwd=folder, text=True).startswith(folder)
        yield Path(folder)


class Before:
    """Starts processes of the earlier code in a world."""

    def __init__(self, running: World, checkout: Path, exits: ExitStack) -> None:
        self.world = running
        self.checkout = checkout
        self.exits = exits

    def start(self, name: str, *words: str) -> Child:
        """Start ``python -m`` with words, as the earlier code: it refuses later settings."""
        defaults = Settings().to_env()
        known = {k: v for k, v in self.world.settings.to_env().items() if v != defaults[k]}
        child = Child(
            name,
            [sys.executable, "-m", *words],
            self.world.servers.folder / f"{name}.log",
            env={**os.environ, **known, "PYTHONPATH": str(self.checkout)},
            cwd=self.checkout,
        )
        self.exits.callback(child.stop)
        child.start()
        return child

    def start_worker(self, name: str) -> Child:
        options = ("-n", f"{name}@%h", "-c", "2", "--loglevel", "INFO")
        worker = self.start(name, "celery", "-A", "statesync", "worker", *options)
        worker.wait_ready(lambda: b" ready." in worker.log.read_bytes())
        return worker

    def start_beat(self) -> Child:
        return self.start("beat-before", "celery", "-A", "statesync", "beat")

    def start_player(self, seed: int, first: int, count: int) -> None:
        """Start a game that was built with the earlier code."""
        journal = self.world.servers.folder / f"journal-before-{seed}"
        words = ("tests.acceptance.traffic", "play", *map(str, (seed, first, count)), str(journal))
        self.world.players.append(self.start(f"player-before-{seed}", *words))
        self.world.journals.append(journal)


@pytest.fixture
def before(checkout: Path) -> Iterator[Before]:
    with world() as running, ExitStack() as exits:
        yield Before(running, checkout, exits)


def saves_go_on(running: World) -> None:
    """Wait until games have made some more changes, and workers have saved some more."""

    def saved() -> int:
        return running.hot.status().counters.get("saved", 0)

    enough = saved() + 100
    running.play_on(200)
    wait_until(lambda: saved() >= enough)


def test_a_fleet_is_exchanged_under_traffic_and_taken_back(before: Before) -> None:
    running = before.world
    running.start_player("play", 1, 1, 40)
    before.start_player(2, 101, 40)
    first = before.start_worker("before-1")
    saves_go_on(running)
    first.kill()
    running.kill_worker()
    second = before.start_worker("before-2")
    saves_go_on(running)
    running.worker.stop()  # workers of before, under the beat of this one
    saves_go_on(running)
    running.beat.stop()  # all of it as before
    beat = before.start_beat()
    saves_go_on(running)
    running.worker = running.start_worker()  # and forward once more
    second.stop()
    saves_go_on(running)
    beat.stop()
    running.beat = running.stack.start_beat()
    print(running.check())
