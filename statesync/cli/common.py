"""Owns what the commands share: the connection, ids, tables, JSON."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, TypeVar

import click
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from statesync.cli.turns import turn
from statesync.errors import InvalidCharId
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.settings import Settings
from statesync.state.fields import dump_json, load_json, parse_char_id, printable
from statesync.state.outcomes import BackupOutcome

__all__ = [
    "CharId",
    "Seconds",
    "as_json",
    "complain",
    "connected",
    "console",
    "counts_of",
    "counts_of_backups",
    "print_json",
    "progress_bar",
    "progress_console",
    "say",
    "table",
    "write_json",
]

# Output to a file or a pipe is not folded at the width of a terminal.
# No markup and no emoji codes: what a player wrote has brackets and colons of its own.
console = Console(
    highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 200
)
progress_console = Console(stderr=True, highlight=False, markup=False, emoji=False)

Outcome = TypeVar("Outcome", bound=StrEnum)

_BACKUPS = {
    BackupOutcome.CONFLICT: "set to their rows (conflict)",
    BackupOutcome.UNCHANGED: "as their rows by now",
}

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


class Seconds(click.FloatRange):
    """A time on the command line: no NaN, which is neither more nor less than any other."""

    name = "seconds"

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number of seconds, or refuse what is none."""
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is no time", param, ctx)
        return seconds


class CharId(click.ParamType[int]):
    """A character id on the command line."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the id; a usage error if it is none."""
        try:
            return parse_char_id(str(value))
        except InvalidCharId as error:
            self.fail(str(error), param, ctx)


@contextlib.contextmanager
def connected(*, to_one: bool = False) -> Iterator[tuple[GameStateOrchestrator, Settings]]:
    """Give the orchestrator and the settings of the realm whose turn it is; close it at the end.

    With ``to_one``, the command needs a realm of its own: wrong use if it works in several.
    """
    now = turn()
    if to_one and now.is_one_of_many:
        names = ", ".join(one.realm for one in now.all_settings)
        advice = "`statesync where ID` tells in which one a character is"
        raise click.UsageError(f"say which realm: --realm, one of {names}; {advice}")
    if now.is_one_of_many and not click.get_current_context().params.get("as_json"):
        click.echo(f"realm {now.settings.realm}:")
    settings = now.settings
    orchestrator = GameStateOrchestrator.from_settings(settings)
    try:
        yield orchestrator, settings
    finally:
        orchestrator.close()


class _Table(Table):
    """A table whose texts are shown as they are: escaped, without markup."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row; a cell with a style of its own is a Text."""
        shown = (printable(cell) if isinstance(cell, str) else cell for cell in cells)
        super().add_row(*shown, **options)


def say(text: str, *, label: str = "") -> None:
    """Print a line, after a label in red; what players or other writers wrote in it is escaped."""
    console.print(Text.assemble((label, "red"), printable(text)), soft_wrap=True)


def complain(text: str) -> None:
    """Print why a command failed, as one line on stderr."""
    click.echo(f"statesync: {printable(text)}", err=True)


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table in the style of all commands."""
    empty = _Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        empty.add_column(column, overflow="fold")
    return empty


def print_json(value: Any) -> None:
    """Print a value as one line of JSON; in one realm of many, all of them are printed as one."""
    now = turn()
    if now.is_one_of_many:
        now.document = value
    else:
        write_json(value)


def write_json(value: Any) -> None:
    """Write a value as one line of JSON; what the terminal lacks is escaped."""
    text = dump_json(value)
    encoding = sys.stdout.encoding or "ascii"
    if text.encode(encoding, "ignore").decode(encoding) != text:
        text = json.dumps(load_json(text))
    click.echo("".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text))


def counts_of(outcomes: Mapping[Outcome, int]) -> str:
    """Return counts by outcome in words."""
    counts = sorted(outcomes.items())
    return ", ".join(f"{number} {outcome}" for outcome, number in counts) or "nothing to do"


def counts_of_backups(outcomes: Mapping[BackupOutcome, int]) -> str:
    """Return counts by what has become of characters, in words."""
    counts = ((_BACKUPS.get(outcome, outcome), n) for outcome, n in sorted(outcomes.items()))
    return ", ".join(f"{number} {words}" for words, number in counts) or "nothing"


def progress_bar() -> Progress:
    """Return an empty bar on stderr; it shows nothing unless that is a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=progress_console,
        transient=True,
        disable=not progress_console.is_terminal,
    )
