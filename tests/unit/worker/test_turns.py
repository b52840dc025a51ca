"""The order of a worker's queues: no short message waits for a batch, and no realm for another."""

from __future__ import annotations

from collections import Counter

from kombu.utils.scheduling import cycle_by_name

from statesync import Settings
from statesync.worker.config import celery_settings
from statesync.worker.turns import Turns

QUEUES = [f"{realm}.{name}" for realm in ("eu", "us") for name in ("backup", "restore", "sync")]


def served(turns: Turns, waiting: set[str], count: int) -> list[str]:
    """Return from which queues messages come while these are never empty."""
    order = []
    for _ in range(count):
        order.append(next(queue for queue in turns.consume(len(QUEUES)) if queue in waiting))
        turns.rotate(order[-1])
    return order


def test_logins_and_sweeps_come_first_and_realms_take_turns() -> None:
    turns = Turns(QUEUES)
    assert turns.consume(6)[:4] == ["eu.restore", "eu.sync", "us.restore", "us.sync"]
    assert served(turns, {"eu.backup", "us.backup"}, 4) == ["eu.backup", "us.backup"] * 2
    assert served(turns, {"eu.backup", "us.sync"}, 2) == ["us.sync"] * 2


def test_flood_of_logins_does_not_stop_the_saves() -> None:
    turns = Turns(QUEUES)
    counts = Counter(served(turns, {"eu.restore", "us.sync", "eu.backup", "us.backup"}, 110))
    assert counts == {"eu.restore": 50, "us.sync": 50, "eu.backup": 5, "us.backup": 5}


def test_kombu_takes_it_for_a_cycle() -> None:
    options = celery_settings(Settings())["broker_transport_options"]
    turns = cycle_by_name(options["queue_order_strategy"])()
    turns.update(QUEUES)
    assert sorted(turns.consume(len(QUEUES))) == sorted(QUEUES)
    turns.rotate("unknown")
    assert {*turns.consume(9)} == {*QUEUES}
