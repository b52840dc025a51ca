"""Owns a contest of saves: each contestant has characters of its own, in the same tables."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from benchmarks import naive
from benchmarks.bench import Bench
from benchmarks.floor import Floor
from benchmarks.processes import Cpu
from statesync.embedded.child import Child

__all__ = ["Saver", "Saves"]

_NAIVE_SHARE = 20
_NAIVE_FEWEST, _NAIVE_MOST = 100, 1000
"""The naive twin saves a twentieth of the others, within these bounds."""


class Saver(IntEnum):
    """Who saves. Each has characters of its own: only statesync seals its rows."""

    STATESYNC = 0
    NAIVE = 1
    FLOOR = 2


@dataclass
class Saves:
    """Saves of so many characters, some of them in fights of four."""

    bench: Bench
    size: int
    percent: int

    def ids(self, saver: Saver) -> range:
        """Return the ids of a contestant's characters."""
        first = 1 + saver * self.size
        return range(first, first + self.size)

    def measured(
        self,
        char_ids: range,
        save: Callable[[], object],
        worker: Child | None = None,
    ) -> dict[str, float]:
        """Write characters anew and save them; returns figures by unit.

        The CPU time is that of ``worker``, or of this process, until nothing is under way.
        """
        self.bench.write_characters(char_ids, fighting_percent=self.percent)
        cpu = Cpu(self.bench.servers, worker)
        started = time.perf_counter()
        save()
        seconds = time.perf_counter() - started
        if worker:
            self.bench.wait_idle()
        figures = cpu.figures(len(char_ids)) | {"characters/s": len(char_ids) / seconds}
        self.bench.check_saved(char_ids)
        self.bench.client.delete("dirty_accounts")  # the floor knows no marks
        return figures

    def floor(self) -> Callable[[], dict[str, float]]:
        """Return the floor's turn: one process, which is this one."""
        ids = self.ids(Saver.FLOOR)
        floor = Floor(self.bench.client, self.bench.connection)
        floor.make_rows(ids)
        return lambda: self.measured(ids, lambda: floor.save(ids))

    def naive(self, worker: Child) -> Callable[[], dict[str, float]]:
        """Return the turn of the naive twin, which saves fewer."""
        size = max(_NAIVE_FEWEST, min(_NAIVE_MOST, self.size // _NAIVE_SHARE))
        ids = self.ids(Saver.NAIVE)[:size]

        def save() -> None:
            self.bench.app.send_task(naive.sweep.name, queue=naive.QUEUE)
            while self.bench.client.exists("dirty_accounts"):
                time.sleep(0.002)

        return lambda: self.measured(ids, save, worker)
