"""The supervisor: what ends starts again, at once or after a growing pause."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from statesync.embedded.child import Child
from statesync.embedded.supervisor import Supervised
from statesync.errors import EmbeddedServerError


class Clock:
    """Time that passes only if a test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines() -> list[str]:
    return []


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def python(folder: Path, code: str) -> Child:
    return Child("child", [sys.executable, "-c", code], folder / "child.log")


def starts(supervised: Supervised, clock: Clock, child: Child) -> list[float]:
    """Return when a child that ends at once is started, in the first two minutes."""
    found = []
    while clock.seconds < 120:
        before = child.process
        supervised.check()
        if child.process is not before:
            found.append(clock.seconds)
            assert child.process
            child.process.wait(60)
        clock.seconds += 1
    return found


def test_pause_grows_while_it_keeps_ending(tmp_path: Path, clock: Clock, lines: list[str]) -> None:
    child = python(tmp_path, "raise SystemExit(3)")
    child.start()
    assert child.process
    child.process.wait(60)
    supervised = Supervised(child, child.start, lines.append, now=clock)
    found = starts(supervised, clock, child)
    pauses = [later - earlier for earlier, later in zip([0, *found], found, strict=False)]
    # An ended child is found a second later, on this clock.
    assert pauses == [1, 3, 5, 9, 17, 31, 31]
    assert lines[0] == (
        f"child has ended (exit status 3); it starts again in 1 s; see {tmp_path / 'child.log'}"
    )
    assert "in 30 s" in lines[-1]


def test_steady_child_starts_again_at_once_and_nothing_of_it_is_left(
    tmp_path: Path, clock: Clock, lines: list[str]
) -> None:
    code = """
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
time.sleep(600)
"""
    child = python(tmp_path, code)
    child.start()
    try:
        supervised = Supervised(child, child.start, lines.append, now=clock)
        wait_until(lambda: child.log.read_text().endswith("\n"))
        grandchild = psutil.Process(int(child.log.read_text()))
        clock.seconds = 30
        supervised.check()
        assert lines == []
        assert child.process
        first = child.process
        os.kill(first.pid, signal.SIGKILL)
        first.wait(60)
        supervised.check()
        assert child.running
        assert child.process is not first
        assert "killed by signal 9" in lines[0]
        assert "it starts again now" in lines[0]
        psutil.wait_procs([grandchild], timeout=60)
        assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE
    finally:
        child.stop()


def test_start_that_fails_is_tried_again(tmp_path: Path, clock: Clock, lines: list[str]) -> None:
    child = python(tmp_path, "raise SystemExit(3)")

    def start() -> None:
        child.start()
        child.wait_ready(lambda: False)

    with pytest.raises(EmbeddedServerError, match="child ended"):
        start()
    supervised = Supervised(child, start, lines.append, now=clock)
    assert starts(supervised, clock, child)[:3] == [1, 4, 9]
