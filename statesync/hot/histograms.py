"""Owns the histograms: their buckets, and how they stand in the one hash that all processes share.

A histogram is written in whole numbers, so that Redis adds them up exactly: of each value its
bucket, and of all values the sum. Bounds are written, not places, so that another release with
other buckets beside this one spoils none. Lua gets the bounds from here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["BATCH", "CHANGE_TO_DURABLE", "COMMIT", "Distribution", "Histogram", "observe_save"]


class Distribution(NamedTuple):
    """What a histogram holds, in the unit of its metric."""

    buckets: list[tuple[float, int]]
    """Each bound, with how many values were at most that; the last bound is infinite."""
    total: float
    """The sum of all values."""


class Histogram(NamedTuple):
    """A histogram in the hash: fields ``name bound`` count values, ``name sum`` adds them up."""

    name: str
    bounds: tuple[int, ...]
    """Rising, in the unit of the hash; a value that equals one is at most that."""
    per_unit: int = 1
    """How many units of the hash are one unit of the metric."""

    def observe(self, value: int) -> Counter[str]:
        """Return what a value adds to the fields of the hash."""
        bound = next((str(bound) for bound in self.bounds if value <= bound), "inf")
        return Counter({f"{self.name} {bound}": 1, f"{self.name} sum": value})

    def read(self, numbers: Mapping[str, int]) -> Distribution:
        """Return what the hash holds of this histogram."""
        buckets, count = [], 0
        for bound in (*self.bounds, math.inf):
            count += numbers.get(f"{self.name} {bound}", 0)
            buckets.append((bound / self.per_unit, count))
        return Distribution(buckets, numbers.get(f"{self.name} sum", 0) / self.per_unit)


_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60, 90, 120, 180, 300, 600, 1800, 3600)
CHANGE_TO_DURABLE = Histogram("change_to_durable_ms", tuple(int(1000 * s) for s in _SECONDS), 1000)
"""From a character's first unsaved change to the acknowledgement that it is in PostgreSQL."""

BATCH = Histogram("batch_characters", (1, 5, 10, 25, 50, 100, 250, 500, 1000, 5000))
"""How many characters a transaction saves."""

_COMMIT_MS = (2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000)
COMMIT = Histogram("commit_us", tuple(1000 * ms for ms in _COMMIT_MS), 1_000_000)
"""How long such a transaction takes."""


def observe_save(characters: int, seconds: float) -> Counter[str]:
    """Return what a committed transaction adds to the hash."""
    return BATCH.observe(characters) + COMMIT.observe(round(COMMIT.per_unit * seconds))
