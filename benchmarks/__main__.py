"""Owns ``statesync bench``: runs benchmarks and prints medians, spread and ratios."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from benchmarks.contest import Result

__all__ = ["bench"]

NAMES = ("sweep", "hot", "tail", "restore", "queue", "write", "profile", "together", "durable")


def _option(*words: str, **more: Any) -> Callable[[Any], Any]:
    return click.option(*words, show_default=True, **more)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@_option(
    "--size",
    "sizes",
    multiple=True,
    default=(10_000,),
    type=click.IntRange(100),
    help="Characters; given several times, the sweep runs with each, the others with the first.",
)
@_option(
    "--in-session",
    "percents",
    multiple=True,
    default=(0, 10, 100),
    type=click.IntRange(0, 100),
    help="Percent of them in a fight, in the sweep; may be given several times.",
)
@_option("--rounds", default=3, type=click.IntRange(1), help="Rounds after the one to warm up.")
@_option("--processes", default=2, type=click.IntRange(1), help="Worker processes of each kind.")
@_option(
    "--servers",
    type=click.Choice(["embedded", "settings"]),
    default="embedded",
    help="Where to run: on servers of its own, or on those of STATESYNC_*, which must be empty "
    "and without workers: both stores are emptied.",
)
@_option(
    "--delay-ms",
    default=0.0,
    type=click.FloatRange(0, 1000),
    help="What a round trip to an embedded server takes longer.",
)
@click.option(
    "--plot",
    "chart",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a chart of the ratios beside the floor, such as bench.svg.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(  # noqa: PLR0917 - as click hands them over
    names: tuple[str, ...],
    sizes: tuple[int, ...],
    percents: tuple[int, ...],
    rounds: int,
    processes: int,
    servers: str,
    delay_ms: float,
    chart: Path | None,
    *,
    as_json: bool,
) -> None:
    """Measure statesync beside a naive twin and the floor.

    \b
    sweep     dirty set to durable rows, with memory; 0, 10, 100 % in a session
    hot       update: for the caller and on the server
    tail      the slowest updates while a sweep is under way
    restore   one login, many logins
    queue     what Celery adds to a login, what an empty task costs
    write     rows, WAL and Redis bytes of a save
    profile   where the time of a save and a restore goes
    together  what a tie costs
    durable   what group commit gains

    They take turns on the same servers; compare the ratios, not the figures, with other machines.
    A ratio above 1 is better. Progress goes to stderr.

    \b
    Examples:
      statesync bench
      statesync bench --size 200 --rounds 1                  all of it, quickly
      statesync bench sweep --size 10000 --size 1000000 --in-session 0
      statesync bench hot restore --delay-ms 1 --plot far.svg
      statesync bench hot durable --json >figures.json
      STATESYNC_REDIS_URL=redis://10.0.0.5/9 statesync bench --servers settings
    """
    if chart and chart.suffix not in (".pdf", ".png", ".svg"):
        raise click.BadParameter(f"{chart} must end in .pdf, .png or .svg", param_hint="--plot")
    if chart and not find_spec("matplotlib"):
        raise click.ClickException("--plot needs matplotlib; run: pip install 'statesync[bench]'")
    if delay_ms and servers != "embedded":
        raise click.UsageError("--delay-ms is for embedded servers")
    if not find_spec("psutil"):
        raise click.ClickException("psutil is missing; run: pip install 'statesync[bench]'")

    from benchmarks.bench import Bench
    from benchmarks.cases import BENCHMARKS
    from benchmarks.contest import compete
    from benchmarks.servers import embedded, given

    results: list[Result] = []
    console = Console(stderr=True, highlight=False)
    with contextlib.ExitStack() as exits:
        status = exits.enter_context(console.status("starting"))
        progress = status.update if console.is_terminal else console.print
        on = exits.enter_context(given() if servers == "settings" else embedded(delay_ms))
        made = exits.enter_context(contextlib.closing(Bench(on, sizes, percents, processes)))
        if made.busy():
            raise click.ClickException("the broker holds messages already; give it an empty one")
        for name in names or NAMES:
            for contest in exits.enter_context(contextlib.closing(BENCHMARKS[name](made))):
                found = compete(contest, rounds, progress)
                results += found
                if not as_json:
                    _print(found)
    if as_json:
        about: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count()}
        about |= {"python": platform.python_version(), "servers": servers, "delay_ms": delay_ms}
        about |= {"sizes": sizes, "in_session": percents}
        about |= {"rounds": rounds, "processes": processes}
        click.echo(json.dumps({**about, "results": [r.to_json() for r in results]}, indent=2))
    if chart:
        from benchmarks.chart import plot

        plot(results, chart)


def _print(found: list[Result]) -> None:
    if all(len(result.figures) == 1 for result in found):  # nobody to compare it with
        click.secho(f"\n{found[0].name}", bold=True)
        table = Table("", "median", "lowest", "highest", box=None, pad_edge=False)
        for result in found:
            (row,) = result.rows()
            table.add_row(result.unit, *map(_figure, row[1:4]))
        Console().print(table)
        return
    for result in found:
        click.secho(f"\n{result.name}, {result.unit}", bold=True)
        Console().print(_table(result))


def _table(result: Result) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("", "median", "lowest", "highest", "beside the others"):
        table.add_column(column, justify="left" if column in ("", "beside the others") else "right")
    for who, *figures, ratios in result.rows():
        shown = ", ".join(f"{ratio:.2f} of {other}" for other, ratio in ratios.items())
        table.add_row(who, *map(_figure, figures), shown)
    return table


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    bench()
