"""Owns `statesync conflicts`: what Redis and PostgreSQL disagreed about, and the side that lost."""

from __future__ import annotations

import sys
from typing import Any

import click
import msgspec

from statesync.cli.common import (
    CharId,
    as_json,
    complain,
    connected,
    console,
    print_json,
    say,
    table,
)
from statesync.observe import conflicts as records
from statesync.state.fields import MAX_ID

__all__ = ["conflicts"]

_ConflictId = click.IntRange(1, MAX_ID)


@click.group()
def conflicts() -> None:
    """Sides that lost a conflict: list, show.

    If Redis went back in time, what was live and PostgreSQL did not know is recorded whole, and the
    characters are set to what PostgreSQL holds. An entry is a character, or a session; that stands
    under one of its participants, and --character finds it by each. The divergence names the save
    that Redis had forgotten: all that was set back in one step has the same. A crash may leave many
    divergences.

    \b
    Examples:
      statesync conflicts list
      statesync conflicts show 7
    """


@conflicts.command("list")
@click.option("--character", "char_id", type=CharId(), help="Of it and its sessions only.")
@click.option("--before", type=_ConflictId, help="Older than this one: the next page.")
@click.option(
    "--limit",
    default=50,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="How many to list at the most.",
)
@as_json
def list_(char_id: int | None, before: int | None, limit: int, as_json: bool) -> None:
    """List conflicts, the newest first, a page at a time.

    \b
    Examples:
      statesync conflicts list --character 42
      statesync conflicts list --before 1200
      statesync conflicts list --json | jq .next
    """
    with connected() as (orchestrator, _):
        page, next_before = records.page(
            orchestrator.engine, char_id=char_id, before=before, limit=limit
        )
    if as_json:
        print_json({"conflicts": page, "next": next_before})
        return
    names = ("id", "character_id", "session_id", "version", "divergence")
    listed = table("conflict", "character", "session", "version", "divergence", "recorded")
    for row in page:
        numbers = ("-" if row[name] is None else str(row[name]) for name in names)
        listed.add_row(*numbers, _recorded(row))
    console.print(listed if page else "There are no conflicts.")
    if page:
        console.print("All that was live, and why it lost: `statesync conflicts show CONFLICT`")
    if next_before:
        console.print(f"There are older ones: --before {next_before}")


@conflicts.command()
@click.argument("conflict_id", metavar="CONFLICT", type=_ConflictId)
@as_json
def show(conflict_id: int, as_json: bool) -> None:
    """Show one conflict, with the whole side that lost.

    \b
    Example:
      statesync conflicts show 7
    """
    with connected(to_one=True) as (orchestrator, _):
        row = records.read(orchestrator.engine, conflict_id, is_pretty=not as_json)
    if row is None:
        complain(f"there is no conflict {conflict_id}")
        sys.exit(1)
    if as_json:
        print_json(row | {"state": msgspec.Raw(row["state"].encode())})
        return
    for name, value in row.items():
        if name == "state":
            for line in value.split("\n"):
                say(line)
        else:
            say(f"{name}: {'-' if value is None else value}")


def _recorded(row: dict[str, Any]) -> str:
    day, _, time = row["recorded_at"].partition("T")
    return f"{day} {time[:8]} UTC" if time else day
