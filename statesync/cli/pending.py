"""Owns `statesync pending`: the characters with unsaved changes, how old these are, and the wait
until there are none.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from functools import partial

import click

from statesync.cli.common import (
    CharId,
    Seconds,
    as_json,
    complain,
    connected,
    console,
    print_json,
    table,
)
from statesync.cli.turns import turn
from statesync.errors import ServerUnavailable
from statesync.hot.commands.operators import Pending, PendingList
from statesync.lifecycle.unknown_types import unknown_sessions_of

__all__ = ["pending"]

_LOOK_SECONDS = 0.2
_TELL_SECONDS = 5.0
"""Between two lines about what a wait still waits for."""


@click.command()
@click.argument("char_id", metavar="[ID]", required=False, type=CharId())
@click.option(
    "--limit",
    default=50,
    show_default=True,
    type=click.IntRange(1, 200),
    help="How many to list at the most.",
)
@click.option("--wait", is_flag=True, help="First wait until the workers have saved all of it.")
@click.option("--timeout", metavar="S", type=Seconds(), help="Wait no longer. [default: 60]")
@as_json
def pending(
    char_id: int | None, limit: int, wait: bool, timeout: float | None, as_json: bool
) -> None:
    """List characters with unsaved changes, the oldest change first; or show one.

    A character is dirty, claimed by a worker, or quarantined, or several of these. One that a bare
    writer has marked has no age until a sweep claims it, and comes last.

    With --wait, exit status 1 if a character is dirty or claimed at the end. What is in quarantine
    is not waited for: it is listed, and exit status 1 only if you ask for that character.

    \b
    Examples:
      statesync pending
      statesync pending 42
      statesync pending --json | jq .characters
      statesync pending --wait --timeout 120 && deploy
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is for --wait")
    with connected(to_one=char_id is not None) as (orchestrator, _):
        look = partial(orchestrator.hot.pending, char_id, limit=limit)
        unsaved = _wait(look, char_id, 60.0 if timeout is None else timeout) if wait else look()
        found = unknown_sessions_of(orchestrator.hot, [item.name for item in unsaved.characters])
    unknown = {name: [ref.session_type for ref in refs] for name, refs in found.items()}
    if as_json:
        characters = [
            item._asdict() | {"unknown_types": unknown.get(item.name, [])}
            for item in unsaved.characters
        ]
        print_json(unsaved._asdict() | {"characters": characters})
    else:
        _print(unsaved, unknown, char_id)
    if wait and (unsaved.characters if char_id else _is_waiting(unsaved, char_id)):
        sys.exit(1)


def _wait(look: Callable[[], PendingList], char_id: int | None, seconds: float) -> PendingList:
    """Look until nothing waits to be saved; return what was seen last.

    The realms share the time. Redis may be away for a while: not at first, and not at the end.
    """
    deadline = turn().shared.setdefault("deadline", time.monotonic() + seconds)
    unsaved = look()
    told_at, trouble = -math.inf, ""
    while _is_waiting(unsaved, char_id) and time.monotonic() < deadline:
        if time.monotonic() >= told_at + _TELL_SECONDS:
            told_at = time.monotonic()
            complain(f"waiting: {trouble or _counts(unsaved)}")
        time.sleep(_LOOK_SECONDS)
        try:
            unsaved, trouble = look(), ""
        except ServerUnavailable as error:
            trouble = str(error)
            if time.monotonic() >= deadline:
                raise
    return unsaved


def _is_waiting(unsaved: PendingList, char_id: int | None) -> bool:
    """Return whether a sweep or a worker has something to save; quarantine waits for people."""
    if char_id is None:
        return bool(unsaved.dirty or unsaved.claimed)
    return any({"dirty", "claimed"} & set(item.marks) for item in unsaved.characters)


def _print(unsaved: PendingList, unknown: dict[str, list[str]], char_id: int | None) -> None:
    listed = table("character", "unsaved for", "marks", "waits for a worker that knows")
    for item in unsaved.characters:
        listed.add_row(
            item.name, _age(item), ", ".join(item.marks), ", ".join(unknown.get(item.name, []))
        )
    if unsaved.characters:
        console.print(listed)
    elif char_id is not None:
        console.print(f"Character {char_id} has no unsaved changes.")
    if char_id is None:
        console.print(f"In all: {_counts(unsaved)}, {unsaved.quarantined} quarantined.")


def _counts(unsaved: PendingList) -> str:
    return f"{unsaved.dirty} dirty, {unsaved.claimed} claimed"


def _age(item: Pending) -> str:
    return "-" if item.age_ms is None else f"{item.age_ms / 1000:.1f} s"
