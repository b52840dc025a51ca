"""Owns `statesync pending`: who has unsaved changes, and for how long."""

from __future__ import annotations

import click

from statesync.cli.common import CharId, as_json, connected, console, print_json, table
from statesync.hot.commands.operators import Pending

__all__ = ["pending"]


@click.command()
@click.argument("char_id", metavar="[ID]", required=False, type=CharId())
@click.option(
    "--limit",
    default=50,
    show_default=True,
    type=click.IntRange(1, 200),
    help="How many to list at the most.",
)
@as_json
def pending(char_id: int | None, limit: int, as_json: bool) -> None:
    """List characters with unsaved changes, the oldest change first; or show one.

    A character is dirty, claimed by a worker, or quarantined; some are more than one of these. Whom
    a bare writer has marked has no age until a sweep claims it, and comes last.

    \b
    Examples:
      statesync pending
      statesync pending 42
      statesync pending --json | jq .characters
    """
    with connected() as (orchestrator, _):
        found = orchestrator.hot.pending(char_id, limit=limit)
    if as_json:
        characters = [item._asdict() for item in found.characters]
        print_json(found._asdict() | {"characters": characters})
        return
    made = table("character", "unsaved for", "marks")
    for item in found.characters:
        made.add_row(item.name, _age(item), ", ".join(item.marks))
    if found.characters:
        console.print(made)
    elif char_id is not None:
        console.print(f"Character {char_id} has no unsaved changes.")
    if char_id is None:
        console.print(
            f"In all: {found.dirty} dirty, {found.claimed} claimed, "
            f"{found.quarantined} quarantined."
        )


def _age(item: Pending) -> str:
    return "-" if item.age_ms is None else f"{item.age_ms / 1000:.1f} s"
