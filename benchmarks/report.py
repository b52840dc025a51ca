"""Owns the tables in which people read results."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table

from benchmarks.contest import Result

__all__ = ["print_results"]


def print_results(results: Sequence[Result]) -> None:
    """Print the results of one contest: a table for each unit, or one if nobody competed."""
    if all(len(result.figures) == 1 for result in results):
        _print_table(results[0].name, _figures_by_unit(results))
        return
    for result in results:
        _print_table(f"{result.name}, {result.unit}", _contestants(result))


def _print_table(title: str, table: Table) -> None:
    click.secho(f"\n{title}", bold=True)
    Console().print(table)


def _figures_by_unit(results: Sequence[Result]) -> Table:
    table = Table("", "median", "lowest", "highest", box=None, pad_edge=False)
    for result in results:
        (row,) = result.rows()
        table.add_row(result.unit, _number(row.median), _number(row.lowest), _number(row.highest))
    return table


def _contestants(result: Result) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("", "median", "lowest", "highest", "beside the others"):
        table.add_column(column, justify="left" if column in ("", "beside the others") else "right")
    for row in result.rows():
        ratios = ", ".join(f"{ratio:.2f} of {other}" for other, ratio in row.ratios.items())
        figures = (_number(row.median), _number(row.lowest), _number(row.highest))
        table.add_row(row.contestant, *figures, ratios)
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
