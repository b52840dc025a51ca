"""Owns the one command, ``python -m benchmarks``: it runs benchmarks and prints their results."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from benchmarks.cases import NAMES, load
from statesync.errors import InvalidInput, SettingsError, StatesyncError

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.beside import Beside
    from benchmarks.contest import Result

__all__ = ["bench", "main"]

_CHART_SUFFIXES = (".pdf", ".png", ".svg")
_INSTALL = "run in the checkout: pip install -e '.[bench]'"


def _option(*words: str, **more: Any) -> Callable[[Any], Any]:
    return click.option(*words, show_default=True, **more)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, metavar="[NAME]...", type=click.Choice(NAMES))
@_option(
    "--size",
    "sizes",
    multiple=True,
    default=(20_000,),
    type=click.IntRange(100),
    help="Characters. If repeated, `save`, `sweep` and `scale` take each size, the others the "
    "first.",
)
@_option(
    "--in-session",
    "percents",
    multiple=True,
    default=(0, 10, 100),
    type=click.IntRange(0, 100),
    help="Percent of the characters of `save`, `sweep` and `scripts` that are in a fight. May be "
    "repeated.",
)
@_option("--rounds", default=7, type=click.IntRange(1), help="Rounds that count.")
@_option("--processes", default=2, type=click.IntRange(1), help="Processes of each worker.")
@_option(
    "--servers",
    type=click.Choice(["embedded", "settings"]),
    default="embedded",
    help="Embedded servers, or those of STATESYNC_*: these must be empty and without workers, and "
    "the run empties them.",
)
@_option(
    "--delay-ms",
    default=0.0,
    type=click.FloatRange(0, 1000),
    help="Added to each round trip to an embedded server.",
)
@click.option(
    "--beside",
    "other",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A checkout of another version: it takes turns with this one, on servers of its own.",
)
@click.option(
    "--plot",
    "chart",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a chart of the ratios to the floor and the seconds of `tail`, such as bench.svg.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(
    *,
    names: tuple[str, ...],
    sizes: tuple[int, ...],
    percents: tuple[int, ...],
    rounds: int,
    processes: int,
    servers: str,
    delay_ms: float,
    other: Path | None,
    chart: Path | None,
    as_json: bool,
) -> None:
    """Measure statesync beside a naive twin and the floor.

    All benchmarks run unless some are named:

    \b
    save      from dirty marks to rows in one process, without Celery
    sweep     the same through Celery, with processes of a worker
    scale     sweeps of several sizes, beside each other
    hot       update: for the caller and on the server
    tail      the slowest updates while 2 % of the characters change each second
    scripts   how long the scripts of a save hold Redis
    memory    a process of the worker beside one of an empty Celery worker
    restore   one login, many logins
    realms    as many characters in one realm and in several
    watch     what `statesync serve` costs
    queue     what Celery adds to a login, what an empty task costs
    write     rows, WAL and Redis bytes of a save
    profile   where the time of a save and a restore goes
    together  what a tie costs
    durable   what group commit gains

    The contestants take turns on the same servers. Figures of two machines differ; compare their
    ratios. A ratio above 1 is better. Progress goes to stderr.

    Exit status: 0 done, 1 it failed, 2 wrong use.

    \b
    Examples:
      python -m benchmarks
      python -m benchmarks --size 200 --rounds 1             all of it, quickly
      python -m benchmarks save sweep --beside ../older      two versions in turns
      python -m benchmarks scale --size 10000 --size 100000 --size 1000000 --rounds 3
      python -m benchmarks tail --size 100000
      python -m benchmarks hot restore --delay-ms 1 --plot far.svg
      python -m benchmarks hot durable --json >figures.json
      STATESYNC_REDIS_URL=redis://10.0.0.5/9 python -m benchmarks --servers settings
    """
    _check(chart, servers, delay_ms, other)

    from benchmarks.bench import Bench
    from benchmarks.beside import beside
    from benchmarks.servers import embedded, given

    options: dict[str, Any] = {"sizes": sizes, "percents": percents, "processes": processes}
    with (
        _progress() as progress,
        beside(other, {**options, "delay_ms": delay_ms})
        if other
        else contextlib.nullcontext() as another,
        given() if servers == "settings" else embedded(delay_ms) as place,
        contextlib.closing(Bench(place, **options)) as opened,
    ):
        results = _run(opened, names or NAMES, rounds, progress, another, as_json=as_json)
    if as_json:
        about: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count()}
        about |= {"python": platform.python_version(), "servers": servers, "delay_ms": delay_ms}
        about |= {"sizes": sizes, "in_session": percents}
        about |= {"rounds": rounds, "processes": processes}
        click.echo(json.dumps({**about, "results": [r.to_json() for r in results]}, indent=2))
    if chart:
        from benchmarks.chart import write_chart

        write_chart(results, chart)


def _check(chart: Path | None, servers: str, delay_ms: float, other: Path | None) -> None:
    """Refuse what would fail only after minutes."""
    if chart and chart.suffix not in _CHART_SUFFIXES:
        raise click.BadParameter(f"{chart} must end in .pdf, .png or .svg", param_hint="--plot")
    if chart and not chart.parent.is_dir():
        raise click.BadParameter(f"there is no folder {chart.parent}", param_hint="--plot")
    if (delay_ms or other) and servers != "embedded":
        raise click.UsageError("--delay-ms and --beside are for embedded servers")
    if chart and not find_spec("matplotlib"):
        raise click.ClickException(f"--plot needs matplotlib; {_INSTALL}")
    if not find_spec("psutil"):
        raise click.ClickException(f"psutil is missing; {_INSTALL}")


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], object]]:
    """Give what shows progress on stderr: one changing line in a terminal, else a line each."""
    console = Console(stderr=True, highlight=False)
    with console.status("starting") as status:
        yield status.update if console.is_terminal else console.print


def _run(
    opened: Bench,
    names: Sequence[str],
    rounds: int,
    progress: Callable[[str], object],
    another: Beside | None,
    *,
    as_json: bool,
) -> list[Result]:
    """Run the named benchmarks; unless the output is JSON, print each contest when it ends."""
    from benchmarks.contest import compete
    from benchmarks.report import print_results

    if opened.busy():
        raise click.ClickException("the broker already holds messages; give it an empty one")
    results: list[Result] = []
    for name in names:
        contests = load(name)(opened)
        if another:
            contests = another.join(name, contests)
        with contextlib.closing(contests):
            for contest in contests:
                found = compete(contest, rounds, progress)
                results += found
                if not as_json:
                    print_results(found)
    return results


def main() -> None:
    """Run the command; errors come out as one line, never as a traceback."""
    # A shell that runs us in the background makes us ignore SIGINT; SIGTERM stops our servers too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        bench()
    except StatesyncError as error:
        click.echo(f"benchmarks: {error}", err=True)
        sys.exit(2 if isinstance(error, (SettingsError, InvalidInput)) else 1)


if __name__ == "__main__":
    main()
