"""Servers go back in time while a bank trades: its books balance, and nothing is lost in silence.

``pytest -m slow tests/acceptance/test_going_back_under_traffic.py -s`` prints what was injected and
checked; ``FAULT_SEED=7`` trades other trades with other faults.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.acceptance.bank import bank

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("FAULT_SEED", "1"))
REDIS_GOES_BACK = ("cut_tail", "cut_tail_anywhere", "promote_replica", "load_snapshot")
FAILOVERS = {
    "sentinel": ("fail_over", "kill_postgres", "freeze_master", "kill_broker", "fail_over"),
    "cluster": ("fail_over", "kill_postgres", "kill_broker", "fail_over"),
}
OTHERS = ("kill_worker", "stop_worker_past_its_lease", "kill_postgres", "kill_valkey")


def test_redis_goes_back() -> None:
    """Characters log out and in meanwhile, workers and servers are killed."""
    chance = random.Random(SEED)
    faults = [*REDIS_GOES_BACK, *REDIS_GOES_BACK, *OTHERS]
    chance.shuffle(faults)
    with bank(SEED) as trading:
        trading.start_traders("bank")
        for fault in faults:
            trading.play_on(chance.randint(20, 200))
            trading.inject(fault)
        print(f"seed {SEED}:", trading.check())


@pytest.mark.parametrize("where", FAILOVERS)
def test_failovers(where: str) -> None:
    """The master is killed again and again; its replica lacks what was written last."""
    with bank(SEED, where) as trading:
        worker, beat = trading.worker, trading.beat
        trading.start_traders("bank")
        for fault in FAILOVERS[where]:
            trading.play_on(100)
            trading.inject(fault)
        print(f"seed {SEED}:", trading.check())
        assert trading.hot.status().counters["redis_went_back"]
        assert (worker.running, beat.running) == (True, True)


@pytest.mark.parametrize(
    ("where", "faults"),
    [
        ("rabbitmq", ("cut_tail", "kill_broker", "promote_replica", "empty_broker")),
        ("pgbouncer", ("cut_tail", "kill_pooler", "promote_replica", "kill_postgres")),
    ],
)
def test_redis_goes_back_beside_other_servers(where: str, faults: Sequence[str]) -> None:
    with bank(SEED, where) as trading:
        trading.start_traders("bank")
        for fault in faults:
            trading.play_on(100)
            trading.inject(fault)
        print(f"seed {SEED}:", trading.check())


def test_both_servers_go_back() -> None:
    """All characters stay live, so what PostgreSQL forgets is saved again."""
    chance = random.Random(SEED)
    faults = [*("put_postgres_back",) * 3, *REDIS_GOES_BACK, "kill_worker", "kill_postgres"]
    chance.shuffle(faults)
    with bank(SEED) as trading:
        trading.start_traders("residents")
        for fault in faults:
            trading.play_on(chance.randint(20, 200))
            trading.inject(fault)
        print(f"seed {SEED}:", trading.check())


@pytest.mark.parametrize("point", ["reverted", "recorded"])
def test_a_worker_dies_in_a_revert(point: str, tmp_path: Path) -> None:
    """What it took out of play is recorded by another one, once."""
    file = tmp_path / "stopped"
    tmp_path.chmod(0o777)
    with bank(SEED) as trading:
        trading.start_traders("bank")
        trading.worker.kill()
        trading.worker = trading.start_worker(f"{point}:{file}")
        while not file.exists():  # a loss may take nothing that was saved
            trading.inject("cut_tail")
            trading.wait_settled()
        trading.inject("kill_worker")
        trading.play_on(200)
        print(f"seed {SEED}:", trading.check())
