"""Owns the charts of the overview: an hour of points as the path of an SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from statesync.web.watch import KEPT_SECONDS, LOOK_SECONDS

__all__ = ["HEIGHT", "WIDTH", "Chart", "draw"]

WIDTH, HEIGHT = 720, 120
_COLUMNS = 240
"""A path has so many points at most: of those in a column, the highest is drawn."""
_GAP_SECONDS = 4 * LOOK_SECONDS
"""Where nothing was seen for so long, nothing is drawn."""


@dataclass(frozen=True, slots=True)
class Chart:
    """What to draw in a box of ``WIDTH`` times ``HEIGHT``."""

    line: str
    area: str
    top: float
    """The value at the upper edge."""
    mark_y: float | None
    """Where the limit is, if one is given."""
    highest: float
    """The highest value of the hour."""


def draw(points: Sequence[tuple[float, float]], *, now: float, limit: float | None = None) -> Chart:
    """Return the chart of ``(Unix seconds, value)``, oldest first, of the last hour.

    A limit is always in the picture.
    """
    columns: dict[int, float] = {}
    for at, value in points:
        column = math.floor((at - now) / KEPT_SECONDS * _COLUMNS) + _COLUMNS
        if 0 <= column < _COLUMNS + 1:
            columns[column] = max(value, columns.get(column, 0.0))
    highest = max(columns.values(), default=0.0)
    top = _round_up(max(highest, limit or 0.0, 1.0))
    runs = _runs(columns)
    drawn = [[_place(column, columns[column], top) for column in run] for run in runs]
    line = " ".join("M" + " L".join(run) for run in drawn)
    areas = (
        f"M{_x(run[0])} {HEIGHT} L" + " L".join(places) + f" L{_x(run[-1])} {HEIGHT} Z"
        for run, places in zip(runs, drawn, strict=True)
    )
    mark_y = None if limit is None else round(HEIGHT - HEIGHT * limit / top, 1)
    return Chart(line, " ".join(areas), top, mark_y, highest)


def _runs(columns: dict[int, float]) -> list[list[int]]:
    """Return the columns in their order, in parts without a gap."""
    widest = max(2, math.ceil(_GAP_SECONDS / KEPT_SECONDS * _COLUMNS))
    runs: list[list[int]] = []
    for column in sorted(columns):
        if runs and column - runs[-1][-1] <= widest:
            runs[-1].append(column)
        else:
            runs.append([column])
    return runs


def _x(column: int) -> str:
    return f"{WIDTH * column / _COLUMNS:g}"


def _place(column: int, value: float, top: float) -> str:
    return f"{_x(column)} {HEIGHT - HEIGHT * value / top:.1f}"


def _round_up(value: float) -> float:
    """Return the next number that is easy to read."""
    step: float = 10 ** math.floor(math.log10(value))
    return next(part * step for part in (1, 2, 2.5, 5, 10) if part * step >= value * 0.999)
