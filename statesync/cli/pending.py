"""Owns `statesync pending`: the characters with unsaved changes, and how old these are."""

from __future__ import annotations

import click

from statesync.cli.common import CharId, as_json, connected, console, print_json, table
from statesync.hot.commands.operators import Pending
from statesync.lifecycle.unknown_types import unknown_sessions_of

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

    A character is dirty, claimed by a worker, or quarantined, or several of these. One that a bare
    writer has marked has no age until a sweep claims it, and comes last.

    \b
    Examples:
      statesync pending
      statesync pending 42
      statesync pending --json | jq .characters
    """
    with connected(to_one=char_id is not None) as (orchestrator, _):
        unsaved = orchestrator.hot.pending(char_id, limit=limit)
        found = unknown_sessions_of(orchestrator.hot, [item.name for item in unsaved.characters])
    unknown = {name: [ref.session_type for ref in refs] for name, refs in found.items()}
    if as_json:
        characters = [
            item._asdict() | {"unknown_types": unknown.get(item.name, [])}
            for item in unsaved.characters
        ]
        print_json(unsaved._asdict() | {"characters": characters})
        return
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
        console.print(
            f"In all: {unsaved.dirty} dirty, {unsaved.claimed} claimed, "
            f"{unsaved.quarantined} quarantined."
        )


def _age(item: Pending) -> str:
    return "-" if item.age_ms is None else f"{item.age_ms / 1000:.1f} s"
