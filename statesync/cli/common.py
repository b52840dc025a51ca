"""Owns what the commands share: the connection, ids, tables, JSON."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from statesync.errors import InvalidCharId
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.settings import Settings
from statesync.state.fields import dump_json, parse_char_id

__all__ = ["CharId", "as_json", "connected", "console", "print_json", "progress_console", "table"]

# Output to a file or a pipe is not folded at the width of a terminal.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
progress_console = Console(stderr=True, highlight=False)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


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
def connected() -> Iterator[tuple[GameStateOrchestrator, Settings]]:
    """Give the orchestrator and the settings of the environment; close it at the end."""
    settings = Settings.from_env()
    orchestrator = GameStateOrchestrator.from_settings(settings)
    try:
        yield orchestrator, settings
    finally:
        orchestrator.close()


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table in the style of all commands."""
    empty = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        empty.add_column(column, overflow="fold")
    return empty


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    click.echo(dump_json(value))
