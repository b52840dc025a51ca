"""Owns the charts: how far each contestant is from the floor, how even the seconds of tail are."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.cases.tail import SECOND
from benchmarks.contest import Result
from statesync.errors import InvalidInput

__all__ = ["write_chart"]

_COLOURS = {"statesync": "tab:blue", "naive": "tab:orange"}
_SECOND = SECOND.partition("{}")[0]
_WIDTH = 8.0


def write_chart(results: Sequence[Result], path: Path) -> None:
    """Write a bar for each ratio to the floor, and a line for each contestant of ``tail``.

    Raises InvalidInput if the results have neither.
    """
    seconds = [result for result in results if result.unit.startswith(_SECOND)]
    bars = [
        (
            f"{result.name}, {result.unit}: {row.contestant}",
            row.ratios["floor"],
            _COLOURS.get(row.contestant, "tab:gray"),
        )
        for result in results
        for row in result.rows()
        if "floor" in row.ratios
    ]
    heights = [*([0.35 * len(bars)] if bars else []), *([3.0] if seconds else [])]
    if not heights:
        raise InvalidInput("no chart: none of these benchmarks has a floor, nor is it tail")
    figure = import_module("matplotlib.figure").Figure(figsize=(_WIDTH, 1.2 + sum(heights)))
    axes = figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
    if bars:
        _draw_ratios(axes[0], bars)
    if seconds:
        _draw_seconds(axes[-1], seconds)
    figure.savefig(path, bbox_inches="tight")


def _draw_ratios(axes: Any, bars: Sequence[tuple[str, float, str]]) -> None:
    labels, lengths, colours = zip(*bars, strict=True)
    axes.bar_label(axes.barh(labels, lengths, color=colours), fmt="%.2g", padding=2)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(left=min(lengths) / 2)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("beside the floor, which is 1; higher is better")


def _draw_seconds(axes: Any, seconds: Sequence[Result]) -> None:
    """Draw the medians of each contestant: even work is a flat line, a burst a steep end."""
    lines: dict[str, list[float]] = {}
    for result in seconds:
        for row in result.rows():
            lines.setdefault(row.contestant, []).append(row.median / 1000)
    for contestant, figures in lines.items():
        places = range(1, len(figures) + 1)
        axes.plot(places, figures, marker="o", label=contestant)
    axes.set_ylim(bottom=0)
    axes.set_title(seconds[0].name)
    axes.set_xlabel("seconds of two intervals, from quiet to loud")
    axes.set_ylabel("99th percentile, ms")
    axes.legend()
