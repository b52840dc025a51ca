"""Workers of one fleet on networks of their own: one is cut off in the middle of its work, and let
in again. What it held is saved by the others, and what it says late changes nothing.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from statesync.embedded.child import Child
from tests.acceptance.conftest import wait_until
from tests.acceptance.world import ROOT, World, world
from tests.namespaces import Namespace, namespace, unavailable

pytestmark = pytest.mark.slow

reason = unavailable()


@pytest.fixture
def everything() -> Iterator[World]:
    with world() as made:
        yield made


@contextlib.contextmanager
def far_worker(everything: World, network: Namespace) -> Iterator[Child]:
    """Run a worker in a namespace."""
    urls: dict[str, Any] = {"broker_url": "", "result_url": "", **network.urls()}
    settings = replace(everything.direct, **urls)
    name = f"worker-{network.name}"
    words = ["-m", "celery", "-A", "statesync", "worker", "-n", f"{name}@far", "-c", "2"]
    command = [*network.prefix, sys.executable, *words, "--loglevel", "INFO"]
    log = everything.servers.folder / f"{name}.log"
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(ROOT)}
    worker = Child(name, command, log, env={**env, **settings.to_env()}, cwd=ROOT)
    worker.start()
    try:
        worker.wait_ready(lambda: b" ready." in log.read_bytes())
        yield worker
    finally:
        worker.kill()


@pytest.mark.skipif(bool(reason), reason=reason)
def test_worker_that_is_cut_off_and_let_in_again(everything: World) -> None:
    with contextlib.ExitStack() as exits:
        near, far = (
            exits.enter_context(namespace(number, everything.servers.sockets)) for number in (1, 2)
        )
        first = exits.enter_context(far_worker(everything, near))
        second = exits.enter_context(far_worker(everything, far))
        everything.worker.stop()  # all work is done from afar
        for seed in (1, 2):
            everything.start_player("play", seed, 1000 * seed, 12)
        everything.play_on(200)
        for turn in range(3):
            cut, worker = ((near, first), (far, second))[turn % 2]
            cut.cut_off()
            everything.faults.append(f"a worker is cut off, turn {turn + 1}")
            everything.play_on(300)
            time.sleep(everything.settings.lease_seconds)  # what it holds is taken from it
            wait_until(lambda: not _is_stuck(everything))
            cut.let_in()
            everything.play_on(200)
            assert worker.process
            assert worker.process.poll() is None, "no worker ends"
        print(everything.check())


def _is_stuck(everything: World) -> bool:
    """Return whether a claim is out whose lease has ended for long."""
    deadline_us = (time.time() - 5) * 1e6
    with everything.topology.client() as client:
        return bool(client.zcount(everything.keys.claimed, 0, deadline_us))
