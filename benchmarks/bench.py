"""Owns what a run works with: characters in Redis, worker processes, and how long to wait."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

from celery import Celery

from benchmarks.characters import IN_A_FIGHT, core, fight, fight_id, fights
from benchmarks.floor import connect
from benchmarks.servers import TABLES, Place
from statesync.embedded.servers import Child

__all__ = ["Bench", "meanwhile", "per_call"]

_STILL_SECONDS = 0.2


class Bench:
    """The servers of a run, and how big it is."""

    def __init__(
        self,
        place: Place,
        sizes: Sequence[int],
        percents: Sequence[int],
        processes: int,
    ) -> None:
        self.settings, self.folder, self.servers = place
        self.sizes = [size // IN_A_FIGHT * IN_A_FIGHT for size in sizes]
        self.percents = percents
        self.processes = processes
        self.ids = range(1, self.sizes[0] + 1)
        self.client, self.connection = connect(self.settings)
        self.app = Celery(
            "bench", broker=self.settings.broker_url, backend=self.settings.result_url
        )
        self._broker = self.app.connection_for_write()
        self._turn = 0

    def close(self) -> None:
        """Leave nothing behind."""
        self.clear()
        self.client.close()
        self.connection.close()
        self._broker.close()

    def clear(self) -> None:
        """Empty both stores."""
        self.client.flushdb()
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(f"TRUNCATE {TABLES} CASCADE")

    def fill(
        self, ids: Sequence[int], *, mark: bool = True, percent: int = 0, train: bool = False
    ) -> None:
        """Write cores of a new turn with a bare client, ``percent`` of them in fights of four.

        This is not measured.
        """
        self._turn += 1
        for start in range(0, len(ids), 1000):
            with self.client.pipeline(transaction=False) as pipe:
                for char_id in ids[start : start + 1000]:
                    fields = core(char_id, self._turn, train=train)
                    if fights(char_id, percent):
                        fields |= {"state": "combat", "combat_session_id": fight_id(char_id)}
                        if char_id % IN_A_FIGHT == 1:
                            key = f"combat:session:{fight_id(char_id)}"
                            four = range(char_id, char_id + IN_A_FIGHT)
                            pipe.hset(key, mapping=fight(four, self._turn))
                            pipe.hincrby(key, "version", 1)
                    pipe.hset(f"ac:{char_id}", mapping=fields)
                    pipe.hincrby(f"ac:{char_id}", "version", 1)
                    if mark:
                        pipe.sadd("dirty_accounts", char_id)
                pipe.execute()

    @contextlib.contextmanager
    def worker(self, app: str = "statesync", *words: str) -> Iterator[Child]:
        """Run a Celery worker: statesync's own, or another application's."""
        log = self.folder / f"{app}.log"
        log.unlink(missing_ok=True)
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "-n", f"{app}@%h", *words]
        env = {
            **os.environ,
            **self.settings.to_env(),
            "CELERY_BROKER_URL": self.settings.broker_url,
        }
        worker = Child(
            f"the worker of {app}",
            [*command, "-c", str(self.processes), "--loglevel", "INFO"],
            log,
            env=env,
            cwd=self.folder,
        )
        worker.start()
        try:
            worker.wait_ready(lambda: b" ready." in log.read_bytes())
            yield worker
        finally:
            worker.stop()

    def naive_worker(self) -> contextlib.AbstractContextManager[Child]:
        """Run the naive twin's worker."""
        return self.worker("benchmarks.floor", "-Q", "naive")

    def sweep(self) -> None:
        """Send the sweep's task."""
        self.app.send_task("statesync.sync_dirty", queue=self.settings.queue("sync"))

    def wait_clean(self) -> None:
        """Wait until nothing is dirty or claimed.

        Where a few are left that nobody has claimed, which the next beat would take, sweep again.
        """
        moved = time.monotonic()
        while self.client.exists("dirty_accounts", "dirty_accounts:claimed"):
            now = time.monotonic()
            if self.client.exists("dirty_accounts:claimed"):
                moved = now
            elif now > moved + _STILL_SECONDS:
                self.sweep()
                moved = now
            time.sleep(0.005)

    def busy(self) -> bool:
        """Tell whether a task of anybody is queued or under way.

        Celery's Redis transport keeps a message in ``unacked`` until its task has ended.
        """
        channel: Any = self._broker.default_channel
        broker = channel.client
        names = [*map(self.settings.queue, ("sync", "backup", "restore")), "naive", "unacked"]
        return bool(broker.exists(*names))

    def wait_idle(self) -> None:
        """Wait until nobody is busy, so that each turn is alone."""
        quiet = 0
        while quiet < 3:  # a message on its way from a queue to ``unacked`` is in neither
            quiet = 0 if self.busy() else quiet + 1
            time.sleep(0.01)


@contextlib.contextmanager
def meanwhile(look: Callable[[], object], seconds: float) -> Iterator[None]:
    """Look at something every so often, in another thread, until the block ends."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(seconds):
            look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def per_call(work: Callable[[int], object], count: int) -> float:
    """Return the median time of a call in µs."""
    times = []
    for i in range(count):
        started = time.perf_counter_ns()
        work(i)
        times.append(time.perf_counter_ns() - started)
    return median(times) / 1000
