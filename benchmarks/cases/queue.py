"""Owns what Celery costs: a login through the queue, and a task that does nothing."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from benchmarks.bench import Bench, per_call
from benchmarks.contest import Contest, Contests
from benchmarks.floor import app, naive_nothing
from statesync import GameStateOrchestrator

__all__ = ["queue"]

_LOGINS = 200
_TASKS = 2000


def queue(bench: Bench) -> Contests:
    """One login with and without the queue, then as many empty tasks as Celery can do."""
    bench.clear()
    ids = bench.ids[:_LOGINS]
    bench.fill(ids)
    game = GameStateOrchestrator.from_settings(bench.settings)
    game.backup_many(ids)

    def through_celery(i: int) -> None:
        name, to = "statesync.restore_full_state", bench.settings.queue("restore")
        bench.app.send_task(name, args=(ids[i],), queue=to).get()

    def in_process(i: int) -> None:
        game.restore_full_state(ids[i])

    def after_flush(work: Callable[[int], object]) -> float:
        bench.client.flushdb()
        return per_call(work, len(ids))

    with bench.worker():
        contestants = {
            "through Celery": lambda: after_flush(through_celery),
            "in process": lambda: after_flush(in_process),
        }
        yield Contest("login", "µs a call", contestants)
    game.close()

    app.conf.update(broker_url=bench.settings.broker_url)
    with bench.naive_worker() as worker:

        def publish() -> float:
            worker.send(signal.SIGSTOP)
            started = time.perf_counter()
            for _ in range(_TASKS):
                naive_nothing.delay()
            return _TASKS / (time.perf_counter() - started)

        def consume() -> float:
            started = time.perf_counter()
            worker.send(signal.SIGCONT)
            bench.wait_idle()
            return _TASKS / (time.perf_counter() - started)

        yield Contest("empty task", "tasks/s", {"published": publish, "consumed": consume})
