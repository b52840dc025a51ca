"""Owns ``statesync bench``: runs benchmarks and prints medians, spread and ratios."""

from __future__ import annotations

import json
import os
import platform
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from statesync.cli.stack import stack

__all__ = ["bench"]

NAMES = ("sweep", "hot", "tail", "restore", "together", "durable")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option(
    "--size",
    default=5000,
    show_default=True,
    help="Characters in the sweep.",
    type=click.IntRange(100),
)
@click.option(
    "--rounds",
    default=3,
    show_default=True,
    help="Rounds after the one to warm up.",
    type=click.IntRange(1),
)
@click.option(
    "--processes", default=2, show_default=True, help="Worker processes.", type=click.IntRange(1)
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(names: tuple[str, ...], size: int, rounds: int, processes: int, *, as_json: bool) -> None:
    """Measure statesync beside a naive twin and the floor, on embedded servers.

    They take turns on the same servers; compare the ratios, not the figures, with other machines.
    A ratio above 1 is better.

    \b
    Examples:
      statesync bench
      statesync bench sweep --size 100000 --rounds 5
      statesync bench hot durable --json
    """
    from statesync.bench.arena import compete
    from statesync.bench.games import BENCHMARKS, Bench

    console = Console(stderr=True)
    results = []
    with stack(sync_seconds=3600, scrub_seconds=0, lease_seconds=600) as running:
        made = Bench(running, size, processes)
        for name in names or NAMES:
            for contest in BENCHMARKS[name](made):
                with console.status(contest.name):
                    results.append(compete(contest, rounds))
                if not as_json:
                    Console().print(_table(results[-1]))
    if as_json:
        about = {"machine": platform.machine(), "cores": os.cpu_count(), "size": size}
        about |= {"python": platform.python_version(), "rounds": rounds, "processes": processes}
        found: dict[str, Any] = {**about, "results": [result.to_json() for result in results]}
        click.echo(json.dumps(found, indent=2))


def _table(result: Any) -> Table:
    table = Table(title=f"{result.name}, {result.unit}", title_justify="left")
    for column in ("", "median", "lowest", "highest", "beside the others"):
        table.add_column(column, justify="left" if column in ("", "beside the others") else "right")
    for who, mid, low, high, ratios in result.rows():
        shown = ", ".join(f"{ratio:.2f} of {other}" for other, ratio in ratios.items())
        table.add_row(who, f"{mid:,.0f}", f"{low:,.0f}", f"{high:,.0f}", shown)
    return table
