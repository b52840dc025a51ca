"""Owns `statesync conflicts`: what Redis and PostgreSQL disagreed about, and the side that lost."""

from __future__ import annotations

import sys
from typing import Any

import click
import msgspec
from sqlalchemy import Text, cast, func, literal_column, select

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
from statesync.durable import database
from statesync.durable.tables import state_conflicts
from statesync.state.fields import MAX_ID

__all__ = ["conflicts"]

# Texts that PostgreSQL makes: the losing side may hold what Python has no value for.
_RECORDED = literal_column("to_jsonb(recorded_at) #>> '{}'", Text).label("recorded_at")
_SUMMARY = [
    *(column for column in state_conflicts.c if column.name not in ("state", "recorded_at")),
    _RECORDED,
]
# Not read as JSON: it is as a game wrote it.
_PARTICIPANTS = literal_column("state #>> '{session,participants}'", Text)
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
    query = select(*_SUMMARY).order_by(state_conflicts.c.id.desc()).limit(limit + 1)
    if char_id is not None:
        is_participant = _PARTICIPANTS.regexp_match(rf"\y{char_id}\y")
        query = query.where((state_conflicts.c.character_id == char_id) | is_participant)
    if before is not None:
        query = query.where(state_conflicts.c.id < before)
    with connected() as (orchestrator, _), database.transaction(orchestrator.engine) as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
    page, next_before = rows[:limit], rows[limit - 1]["id"] if len(rows) > limit else None
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
    state = state_conflicts.c.state
    shown = cast(state, Text) if as_json else func.jsonb_pretty(state)
    query = select(*_SUMMARY, shown.label("state")).where(state_conflicts.c.id == conflict_id)
    with (
        connected(to_one=True) as (orchestrator, _),
        database.transaction(orchestrator.engine) as connection,
    ):
        found = connection.execute(query).mappings().one_or_none()
    if found is None:
        complain(f"there is no conflict {conflict_id}")
        sys.exit(1)
    row = dict(found)
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
