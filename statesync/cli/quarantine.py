"""Owns `statesync quarantine`: what could not be saved, why, and what to do with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import click

from statesync.cli.common import as_json, connected, console, print_json, table
from statesync.errors import InvalidCharId
from statesync.hot.commands.operators import QuarantineEntry
from statesync.hot.store import HotStore
from statesync.state.fields import parse_char_id

__all__ = ["quarantine"]


@click.group()
def quarantine() -> None:
    """Characters that could not be saved: list, show, retry, discard.

    Their data is still in Redis. Repair it there, then retry.

    \b
    Examples:
      statesync quarantine list
      statesync quarantine show 42
      statesync quarantine retry 42
      statesync quarantine discard 42
    """


@quarantine.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List all entries.

    \b
    Example:
      statesync quarantine list --json
    """
    with connected() as (orchestrator, _):
        entries = sorted(_entries(orchestrator.hot), key=lambda entry: entry.first_at)
    if as_json:
        print_json([entry._asdict() for entry in entries])
        return
    made = table("character", "field", "error", "attempts", "since")
    for entry in entries:
        made.add_row(entry.name, entry.field or "-", entry.error, str(entry.attempts), _at(entry))
    console.print(made if entries else "Nothing is in quarantine.")


@quarantine.command()
@click.argument("name", metavar="ID")
@as_json
def show(name: str, as_json: bool) -> None:
    """Show one entry whole.

    \b
    Example:
      statesync quarantine show 42
    """
    with connected() as (orchestrator, _):
        entry = next((e for e in _entries(orchestrator.hot) if e.name == name), None)
    if entry is None:
        _absent([name])
    elif as_json:
        print_json(entry._asdict())
    else:
        for key, value in (entry._asdict() | {"first_at": _at(entry)}).items():
            console.print(f"{key}: {value}", markup=False)


@quarantine.command()
@click.argument("names", metavar="ID...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Retry every entry.")
@as_json
def retry(names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Mark characters dirty again; an entry goes away when its character is saved.

    \b
    Examples:
      statesync quarantine retry 42 43
      statesync quarantine retry --all
    """
    _need(names, everything)
    done: list[str] = []
    absent: list[str] = []
    with connected() as (orchestrator, _):
        for name in [e.name for e in _entries(orchestrator.hot)] if everything else names:
            try:
                found = orchestrator.hot.retry_quarantined(parse_char_id(name))
            except InvalidCharId as error:
                if not everything:
                    raise click.UsageError(str(error)) from None
                found = False
            (done if found else absent).append(name)
    _report("marked dirty again", done, absent, as_json=as_json)


@quarantine.command()
@click.argument("names", metavar="ID...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Discard every entry.")
@as_json
def discard(names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Forget entries. The data in Redis is not touched, and the next change is saved as usual.

    \b
    Example:
      statesync quarantine discard 42
    """
    _need(names, everything)
    done: list[str] = []
    absent: list[str] = []
    with connected() as (orchestrator, _):
        for name in [e.name for e in _entries(orchestrator.hot)] if everything else names:
            found = orchestrator.hot.discard_quarantined(name)
            (done if found else absent).append(name)
    _report("discarded", done, absent, as_json=as_json)


def _entries(hot: HotStore) -> Iterator[QuarantineEntry]:
    cursor = 0
    while True:
        cursor, entries = hot.list_quarantine(cursor)
        yield from entries
        if cursor == 0:
            return


def _need(names: tuple[str, ...], everything: bool) -> None:
    if bool(names) == everything:
        raise click.UsageError("Give one id or more, or --all.")


def _report(what: str, done: list[str], absent: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"done": done, "absent": absent})
    elif done:
        console.print(f"{what}: {', '.join(done)}", markup=False)
    if absent:
        _absent([] if as_json else absent)


def _absent(names: list[str]) -> None:
    if names:
        click.echo(f"statesync: not in quarantine: {', '.join(names)}", err=True)
    sys.exit(1)


def _at(entry: QuarantineEntry) -> str:
    return datetime.fromtimestamp(entry.first_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
