"""Owns the tables in which people read results."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table

from benchmarks.contest import Result, ResultRow

__all__ = ["print_results"]

_WIDTH = 160
"""Of a file, which has none: enough for four contestants."""


def print_results(results: Sequence[Result]) -> None:
    """Print the results of one contest: a line for each figure, a column for each contestant.

    A cell has the median, and in brackets the lowest and the highest. The ratios are those of the
    first contestant to the others.
    """
    by_unit = {result.unit: {row.contestant: row for row in result.rows()} for result in results}
    names = list(dict.fromkeys(name for rows in by_unit.values() for name in rows))
    table = Table("", *names, box=None, pad_edge=False)
    if names[1:]:
        table.add_column(f"{names[0]}, beside")
    for unit, rows in by_unit.items():
        cells = [_cell(rows[name]) if name in rows else "" for name in names]
        ratios = rows[names[0]].ratios if names[0] in rows else {}
        beside = ", ".join(f"{ratio:.2f} of {other}" for other, ratio in ratios.items())
        table.add_row(unit, *cells, *([beside] if names[1:] else []))
    click.secho(f"\n{results[0].name}", bold=True)
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)


def _cell(row: ResultRow) -> str:
    return f"{_number(row.median)} ({_number(row.lowest)}-{_number(row.highest)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
