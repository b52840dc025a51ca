"""Owns what a benchmark works with: characters in Redis, worker processes, and when to go on."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from celery import Celery
from celery.signals import worker_process_init

import statesync.worker.app  # noqa: F401 - what it does when a process of a worker starts
from benchmarks import empty, floor, naive
from benchmarks.characters import FIGHTERS, core, fight, fight_id, fight_key, is_fighting
from benchmarks.environment import child_env
from benchmarks.servers import TABLES, Place
from statesync import GameStateOrchestrator
from statesync.embedded.child import Child
from statesync.hot.keys import Keys
from statesync.worker.names import QueueName, TaskName

__all__ = ["Bench"]

_BATCH = 1000
_STILL_SECONDS = 0.2


class Bench:
    """The servers of a run, and how many characters and processes it takes."""

    def __init__(
        self,
        place: Place,
        *,
        sizes: Sequence[int],
        percents: Sequence[int],
        processes: int,
        realm: str = "",
    ) -> None:
        self.place = place
        self.settings, self.folder, self.servers = place
        self.keys = Keys(f"{{{realm}}}:" if realm else "")
        self._of_realm = {"realm": realm} if realm else {}
        self.sizes = [size // FIGHTERS * FIGHTERS for size in sizes]
        self.percents = percents
        self.processes = processes
        self.ids = range(1, self.sizes[0] + 1)
        self.client, self.connection = floor.connect(self.settings)
        self.app = Celery(
            "bench", broker=self.settings.broker_url, backend=self.settings.result_url
        )
        self._broker = self.app.connection_for_write()
        self._turn = 0

    def close(self) -> None:
        """Empty both stores and close the connections."""
        self.clear()
        self.client.close()
        self.connection.close()
        self._broker.close()

    @contextlib.contextmanager
    def orchestrator(self) -> Iterator[GameStateOrchestrator]:
        """Give what a worker uses, in this process, which is set up as a worker's until the end."""
        thresholds = gc.get_threshold()
        worker_process_init.send(sender=None)
        orchestrator = GameStateOrchestrator.from_settings(self.settings)
        try:
            with contextlib.closing(orchestrator):
                yield orchestrator
        finally:
            gc.set_threshold(*thresholds)
            gc.unfreeze()

    # Characters; none of this is measured

    def clear(self) -> None:
        """Empty both stores."""
        self.clear_redis()
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(f"TRUNCATE {TABLES} CASCADE")

    def clear_redis(self) -> None:
        """Empty Redis alone."""
        self.client.flushdb()

    def write_characters(
        self,
        char_ids: Sequence[int],
        *,
        mark: bool = True,
        fighting_percent: int = 0,
        train: bool = False,
    ) -> None:
        """Write cores of a new turn with a bare client, some of them in fights of four."""
        self._turn += 1
        for start in range(0, len(char_ids), _BATCH):
            with self.client.pipeline(transaction=False) as pipe:
                for char_id in char_ids[start : start + _BATCH]:
                    fields = core(char_id, self._turn, train=train)
                    if is_fighting(char_id, fighting_percent):
                        fields |= {"state": "combat", "combat_session_id": fight_id(char_id)}
                        self._write_fight(pipe, char_id)
                    core_key = self.keys.core(char_id)
                    pipe.hset(core_key, mapping=fields)
                    pipe.hincrby(core_key, "version", 1)
                    if mark:
                        pipe.sadd(self.keys.dirty, char_id)
                pipe.execute()

    def check_saved(self, char_ids: Sequence[int]) -> None:
        """Raise AssertionError if the rows of any are not those of the last turn."""
        query = """SELECT count(*) FROM characters
            WHERE id BETWEEN %s AND %s AND (vitals #>> '{hp,cur}')::int = %s"""
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(query, (char_ids[0], char_ids[-1], self._turn % 100))
            (saved,) = cursor.fetchone() or (0,)
        if saved != len(char_ids):
            raise AssertionError(f"{len(char_ids) - saved} of {len(char_ids)} are not saved")

    def _write_fight(self, pipe: Any, char_id: int) -> None:
        """Write the fight of a character, if it is the first in it."""
        if char_id % FIGHTERS == 1:
            key = fight_key(fight_id(char_id))
            fighters = range(char_id, char_id + FIGHTERS)
            pipe.hset(key, mapping=fight(fighters, self._turn))
            pipe.hincrby(key, "version", 1)

    # Workers

    def worker(self, **changes: Any) -> contextlib.AbstractContextManager[Child]:
        """Run a worker of statesync; ``changes`` are settings."""
        return self._worker("statesync", **changes)

    def naive_worker(self) -> contextlib.AbstractContextManager[Child]:
        """Run a worker of the naive twin."""
        return self._worker(naive.__name__, "-Q", naive.QUEUE)

    def empty_worker(self) -> contextlib.AbstractContextManager[Child]:
        """Run a worker that knows no task."""
        return self._worker(empty.__name__, "-Q", empty.QUEUE)

    def beat(self, **changes: Any) -> contextlib.AbstractContextManager[Child]:
        """Run the schedule of statesync; ``changes`` are settings."""
        return self._celery("statesync", "beat", b"beat: Starting", **changes)

    def _worker(
        self, app: str, *words: str, **changes: Any
    ) -> contextlib.AbstractContextManager[Child]:
        options = ("-n", f"{app}@%h", "-c", str(self.processes), *words)
        return self._celery(app, "worker", b" ready.", *options, **changes)

    @contextlib.contextmanager
    def _celery(
        self, app: str, command: str, ready: bytes, *words: str, **changes: Any
    ) -> Iterator[Child]:
        """Run a command of Celery; it is ready when its log says so."""
        settings = replace(self.settings, **changes)
        log = self.folder / f"{app}-{command}.log"
        log.unlink(missing_ok=True)
        child = Child(
            f"the {command} of {app}",
            [sys.executable, "-m", "celery", "-A", app, command, *words, "--loglevel", "INFO"],
            log,
            env=child_env(**settings.to_env(), CELERY_BROKER_URL=settings.broker_url),
            cwd=self.folder,
        )
        child.start()
        try:
            child.wait_ready(lambda: ready in log.read_bytes())
            yield child
        finally:
            child.stop()

    def sweep(self) -> None:
        """Send the task of statesync's sweep."""
        self.app.send_task(
            TaskName.SYNC_DIRTY,
            kwargs=self._of_realm,
            queue=self.settings.queue(QueueName.SYNC),
        )

    def wait_clean(self) -> None:
        """Wait until nothing is dirty or claimed.

        If only unclaimed marks are left, which the next beat would take, sweep again.
        """
        moved = time.monotonic()
        while self.client.exists(self.keys.dirty, self.keys.claimed):
            now = time.monotonic()
            if self.client.exists(self.keys.claimed):
                moved = now
            elif now > moved + _STILL_SECONDS:
                self.sweep()
                moved = now
            time.sleep(0.005)

    def busy(self) -> bool:
        """Tell whether any task is queued or under way.

        Celery's Redis transport keeps a message in ``unacked`` until its task has ended.
        """
        channel: Any = self._broker.default_channel
        queues = [
            *map(self.settings.queue, (QueueName.SYNC, QueueName.BACKUP, QueueName.RESTORE)),
            naive.QUEUE,
        ]
        return bool(channel.client.exists(*queues, "unacked"))

    def wait_idle(self) -> None:
        """Wait until no task is queued or under way, so that each turn is alone."""
        quiet = 0
        while quiet < 3:  # a message on its way from a queue to ``unacked`` is in neither
            quiet = 0 if self.busy() else quiet + 1
            time.sleep(0.01)
