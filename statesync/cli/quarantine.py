"""Owns `statesync quarantine`: the characters that cannot be saved, and what to do with them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NoReturn

import click

from statesync.cli.common import (
    as_json,
    complain,
    connected,
    console,
    print_json,
    say,
    table,
)
from statesync.errors import CharacterNotLoaded, InvalidCharId
from statesync.hot.commands.operators import QuarantineEntry
from statesync.hot.store import HotStore
from statesync.state.fields import parse_char_id

__all__ = ["quarantine"]


@click.group()
def quarantine() -> None:
    """Characters that cannot be saved: list, show, retry, discard.

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
    listed = table("character", "field", "error", "attempts", "since")
    for entry in entries:
        words = (
            entry.name,
            entry.field or "-",
            entry.error,
            str(entry.attempts),
            _time(entry.first_at),
        )
        listed.add_row(*words)
    console.print(listed if entries else "Nothing is in quarantine.")


@quarantine.command()
@click.argument("name", metavar="ID")
@as_json
def show(name: str, as_json: bool) -> None:
    """Show one whole entry.

    \b
    Example:
      statesync quarantine show 42
    """
    with connected(to_one=True) as (orchestrator, _):
        entry = next((e for e in _entries(orchestrator.hot) if e.name == name), None)
    if entry is None:
        _fail_absent([name])
    elif as_json:
        print_json(entry._asdict())
    else:
        for key, value in _shown(entry).items():
            say(f"{key}: {value}")
        say(
            f"do: repair it in Redis, then `statesync quarantine retry {name}`; what else an error "
            "may ask for stands in docs/operations.md, under Quarantine"
        )


@quarantine.command()
@click.argument("names", metavar="ID...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Retry every entry.")
@as_json
def retry(names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Mark characters dirty again; an entry goes away when its character is saved.

    What is not loaded has nothing to save: restore it first, or discard the entry.

    \b
    Examples:
      statesync quarantine retry 42 43
      statesync quarantine retry --all
    """
    _check_use(names, everything=everything)
    not_loaded: list[str] = []
    with connected(to_one=not everything) as (orchestrator, _):

        def retry_one(name: str) -> bool:
            try:
                return orchestrator.hot.retry_quarantined(parse_char_id(name))
            except CharacterNotLoaded as error:
                complain(str(error))
                not_loaded.append(name)
                return False
            except InvalidCharId as error:
                if not everything:
                    raise click.UsageError(str(error)) from None
                return False

        handled, absent = _each(orchestrator.hot, names, retry_one)
    absent = [name for name in absent if name not in not_loaded]
    _report("marked dirty again", handled, absent, as_json=as_json)
    if not_loaded:
        sys.exit(1)


@quarantine.command()
@click.argument("names", metavar="ID...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Discard every entry.")
@as_json
def discard(names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Forget entries. The data in Redis is not touched, and the next change is saved as usual.

    A name that begins with - comes after --.

    \b
    Examples:
      statesync quarantine discard 42
      statesync quarantine discard -- -5
    """
    _check_use(names, everything=everything)
    with connected(to_one=not everything) as (orchestrator, _):
        hot = orchestrator.hot
        handled, absent = _each(hot, names, hot.discard_quarantined)
        unsaved = [name for name in handled if _is_left_unmarked(hot, name)]
    if not as_json:
        for name in unsaved:
            complain(f"{name} is live, and may be unsaved: its next change or a scrub marks it")
    _report("discarded", handled, absent, as_json=as_json, unsaved=unsaved)


def _entries(hot: HotStore) -> Iterator[QuarantineEntry]:
    cursor = 0
    while True:
        cursor, entries = hot.list_quarantine(cursor)
        yield from entries
        if cursor == 0:
            return


def _is_left_unmarked(hot: HotStore, name: str) -> bool:
    """Return whether a character is live and nothing is about to save it."""
    try:
        char_id = parse_char_id(name)
    except InvalidCharId:
        return False
    sync_state = hot.sync_state(char_id)
    return hot.peek(char_id) is not None and not (sync_state.dirty or sync_state.token)


def _check_use(names: tuple[str, ...], *, everything: bool) -> None:
    if bool(names) == everything:
        raise click.UsageError("Give one id or more, or --all.")


def _each(
    hot: HotStore, names: tuple[str, ...], handle: Callable[[str], bool]
) -> tuple[list[str], list[str]]:
    """Handle the entries with these names, or all if there are none.

    Returns the names that were in quarantine, and those that were not.
    """
    handled: list[str] = []
    absent: list[str] = []
    for name in names or [entry.name for entry in _entries(hot)]:
        (handled if handle(name) else absent).append(name)
    return handled, absent


def _report(
    action: str, handled: list[str], absent: list[str], *, as_json: bool, **more: list[str]
) -> None:
    if as_json:
        print_json({"done": handled, **more, "absent": absent})
    elif handled:
        say(f"{action}: {', '.join(handled)}")
    if absent:
        _fail_absent([] if as_json else absent)


def _fail_absent(names: list[str]) -> NoReturn:
    if names:
        complain(f"not in quarantine: {', '.join(names)}")
    sys.exit(1)


def _shown(entry: QuarantineEntry) -> dict[str, object]:
    times = {"first_at": _time(entry.first_at), "last_at": _time(entry.last_at)}
    return entry._asdict() | {"field": entry.field or "-"} | times


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
