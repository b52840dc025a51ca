"""Owns ``queue``, what Celery costs: a login through the queue, and a task that does nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable

from benchmarks import naive
from benchmarks.bench import Bench
from benchmarks.contest import Contest, Contests
from benchmarks.timing import median_us, per_second
from statesync.embedded.child import Child
from statesync.worker.names import QueueName, TaskName

__all__ = ["queue"]

_LOGINS = 200
_TASKS = 2000


def queue(bench: Bench) -> Contests:
    """Log in with and without the queue, then send and run empty tasks."""
    bench.clear()
    yield from _logins(bench, bench.ids[:_LOGINS])
    naive.app.conf.update(broker_url=bench.settings.broker_url)
    with bench.naive_worker() as worker:
        yield _empty_tasks(bench, worker)


def _logins(bench: Bench, ids: range) -> Contests:
    restore_queue = bench.settings.queue(QueueName.RESTORE)

    def through_celery(char_id: int) -> None:
        task = bench.app.send_task(
            TaskName.RESTORE_FULL_STATE, args=(char_id,), queue=restore_queue
        )
        task.get()

    def after_flush(restore: Callable[[int], object]) -> float:
        bench.clear_redis()
        return median_us(lambda i: restore(ids[i]), len(ids))

    bench.write_characters(ids)
    with bench.orchestrator() as orchestrator, bench.worker():
        orchestrator.backup_many(ids)
        contestants = {
            "through Celery": lambda: after_flush(through_celery),
            "in process": lambda: after_flush(orchestrator.restore_full_state),
        }
        yield Contest("login", "µs a call", contestants)


def _empty_tasks(bench: Bench, worker: Child) -> Contest:
    def send_all() -> None:
        for _ in range(_TASKS):
            naive.do_nothing.delay()

    def publish() -> float:
        worker.send(signal.SIGSTOP)  # until ``consume``, so that it takes no core
        return per_second(_TASKS, send_all)

    def run_all() -> None:
        worker.send(signal.SIGCONT)
        bench.wait_idle()

    def consume() -> float:
        return per_second(_TASKS, run_all)

    return Contest("empty task", "tasks/s", {"published": publish, "consumed": consume})
