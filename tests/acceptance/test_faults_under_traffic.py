"""Faults while games play: every accepted change is saved, and none twice.

``pytest -m slow tests/acceptance/test_faults_under_traffic.py -s`` prints what was injected and
checked; ``FAULT_SEED=7`` plays other games with other faults.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.bank import bank
from tests.acceptance.conftest import wait_until
from tests.acceptance.world import World, world

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("FAULT_SEED", "1"))
FAULTS = (
    *("kill_worker", "stop_worker_past_its_lease", "kill_beat", "two_beats", "kill_postgres"),
    *("kill_valkey", "empty_broker", "double_messages", "cut_connections", "slow_connections"),
    *("read_only_database", "take_rights_away"),
)
OF_BROKER = ("kill_broker", "empty_broker", "double_messages", "kill_worker", "kill_valkey")
OF_DATABASE = (
    *("kill_pooler", "kill_postgres", "kill_worker", "stop_worker_past_its_lease"),
    "read_only_database",
)
FAILPOINTS = ("swept", "claimed", "snapshot", "written", "committed", "acknowledged")

_first = itertools.count(1, 1000)


@pytest.fixture(scope="module")
def everything() -> Iterator[World]:
    with world() as made:
        yield made


@pytest.fixture
def playing(everything: World) -> World:
    for seed in (SEED, SEED + 1):
        everything.start_player("play", seed, next(_first), 12)
    everything.play_on(200)
    return everything


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault(playing: World, fault: str) -> None:
    playing.inject(fault)
    playing.play_on(200)
    print(f"seed {SEED}:", playing.check())


@pytest.mark.parametrize("end", ["dies", "goes on"])
@pytest.mark.parametrize("point", FAILPOINTS)
def test_worker_at_every_step(playing: World, point: str, end: str, tmp_path: Path) -> None:
    """It stops there, others go on, its lease ends; then it dies, or goes on."""
    file = tmp_path / "stopped"
    tmp_path.chmod(0o777)
    slow = playing.start_worker(f"{point}:{file}")
    pid = int(wait_until(lambda: file.exists() and file.read_text()))
    playing.faults.append(f"a worker {end} at {point}")
    playing.play_on(200)
    time.sleep(playing.settings.lease_seconds)  # its lease has to end
    if end == "goes on":
        os.kill(pid, signal.SIGCONT)
        playing.play_on(100)
        slow.stop()
    else:
        slow.kill()
    print(f"seed {SEED}:", playing.check())


@pytest.mark.parametrize("turn", [1, 2])
def test_many_faults(playing: World, turn: int) -> None:
    chance = random.Random(f"{SEED}-{turn}")
    for fault in chance.choices(FAULTS, k=8):
        playing.inject(fault)
        playing.play_on(chance.randint(20, 300))
    print(f"seed {SEED}:", playing.check())


@pytest.fixture(scope="module", params=["rabbitmq", "cluster"])
def elsewhere(request: pytest.FixtureRequest) -> Iterator[World]:
    """A world on other servers than one Redis."""
    with world(request.param) as made:
        yield made


@pytest.mark.parametrize("fault", OF_BROKER)
def test_one_fault_elsewhere(elsewhere: World, fault: str) -> None:
    for seed in (SEED, SEED + 1):
        elsewhere.start_player("play", seed, next(_first), 12)
    elsewhere.play_on(200)
    elsewhere.inject(fault)
    elsewhere.play_on(200)
    print(f"seed {SEED}:", elsewhere.check())
    assert (elsewhere.worker.running, elsewhere.beat.running) == (True, True)


def test_many_faults_behind_pgbouncer() -> None:
    with world("pgbouncer") as pooled:
        for seed in (SEED, SEED + 1):
            pooled.start_player("play", seed, next(_first), 12)
        for fault in OF_DATABASE:
            pooled.play_on(200)
            pooled.inject(fault)
        pooled.play_on(200)
        print(f"seed {SEED}:", pooled.check())


def test_bank() -> None:
    """Hundreds of characters trade; the books balance in every committed state."""
    chance = random.Random(SEED)
    with bank(SEED) as trading:
        trading.start_traders("bank")
        trading.play_on(500)
        faults = ("kill_worker", "kill_postgres", "stop_worker_past_its_lease", "kill_valkey")
        for fault in (*faults, *chance.choices(FAULTS, k=4)):
            trading.inject(fault)
            trading.play_on(chance.randint(100, 400))
        print(f"seed {SEED}:", trading.check())
