"""Owns the chart: how far each contestant is from the floor."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.contest import Result
from statesync.errors import InvalidInput

__all__ = ["write_chart"]

_COLOURS = {"statesync": "tab:blue", "naive": "tab:orange"}


def write_chart(results: Sequence[Result], path: Path) -> None:
    """Write a bar for each ratio to the floor. Raises InvalidInput if no result has a floor."""
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
    if not bars:
        raise InvalidInput("no chart: none of these benchmarks has a floor")
    labels, lengths, colours = zip(*bars, strict=True)
    figure = import_module("matplotlib.figure").Figure(figsize=(8, 1.2 + 0.35 * len(bars)))
    axes = figure.subplots()
    axes.bar_label(axes.barh(labels, lengths, color=colours), fmt="%.2g", padding=2)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(left=min(lengths) / 2)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("beside the floor, which is 1; higher is better")
    figure.savefig(path, bbox_inches="tight")
