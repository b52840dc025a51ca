"""Owns the commands that only read: status, inspect."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from statesync.cli.common import (
    CharId,
    Seconds,
    as_json,
    connected,
    console,
    print_json,
    say,
    table,
)
from statesync.hot.commands.operators import SyncState
from statesync.observe import inspection
from statesync.observe import status as statuses
from statesync.observe.inspection import Inspected
from statesync.observe.losses import check_loss, describe_loss, is_recent
from statesync.observe.status import Gathered, tell_unknown_types
from statesync.state.fields import printable
from statesync.state.sessions import Session

__all__ = ["inspect", "status"]


@click.command()
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@click.option(
    "--max-age",
    metavar="S",
    type=Seconds(),
    help="It is a problem if the oldest unsaved change is older.  [default: three SYNC_SECONDS]",
)
@click.option(
    "--max-quarantined",
    metavar="N",
    type=click.IntRange(0),
    help="It is a problem if more characters are in quarantine.  [default: any number may be]",
)
@as_json
def status(watch: bool, max_age: float | None, max_quarantined: int | None, as_json: bool) -> None:
    """Show how much is unsaved and since when, what waits in the queues, and the counters.

    Exit status 1 if there are problems: a server cannot be reached or refuses the work of workers,
    Redis takes no changes, the tables are not up to date, PostgreSQL went back in time and is not
    recovered yet, changes are not being saved, or more is unsaved than you allow.

    \b
    Examples:
      statesync status
      statesync status --json | jq .dirty
      statesync status --watch
      statesync status --max-age 90 --max-quarantined 0 || page-somebody
    """
    with connected(to_one=watch) as (orchestrator, settings):
        gather = partial(
            statuses.gather,
            orchestrator,
            settings,
            max_age_seconds=max_age,
            max_quarantined=max_quarantined,
        )
        if watch:
            _watch(gather, as_json=as_json)
            return
        report = gather()
    if as_json:
        print_json(report.as_json())
    else:
        console.print(_status_table(report))
    if report.problems:
        sys.exit(1)


def _watch(gather: Callable[[], Gathered], *, as_json: bool) -> None:
    if as_json:
        while True:
            print_json(gather().as_json())
            time.sleep(1)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(_status_table(gather()), refresh=True)
            time.sleep(1)


def _status_table(report: Gathered) -> Group:
    state = table("unsaved state", "")
    for name, value in _state_rows(report):
        state.add_row(name, "-" if value is None else str(value))
    queues = _two_columns(("queue", "waiting"), report.queues)
    counters = _two_columns(("counter", "total"), report.hot.counters if report.hot else {})
    parts: list[RenderableType] = []
    for loss in filter(is_recent, report.losses):
        advice = check_loss(loss).do
        do = f" What to do: {advice}." if advice else ""
        parts += [Text(printable(describe_loss(loss) + do)), ""]
    for part in (state, queues, counters):
        parts += [part, ""] if part.row_count else []
    if report.unknown_types:
        parts.append(Text(printable(tell_unknown_types(report.unknown_types))))
    for problem in report.problems:
        parts.append(Text.assemble(("problem:", "red"), f" {printable(problem)}"))
    return Group(*parts)


def _state_rows(report: Gathered) -> Iterator[tuple[str, object]]:
    hot = report.hot
    yield "dirty", hot and hot.dirty
    yield "claimed by workers", hot and hot.claimed
    yield "of these, lease ended", hot and hot.expired
    yield "oldest unsaved change", _ago(hot and hot.oldest_ms)
    yield "last sweep of the schedule", _ago(report.sweep_ms)
    yield "quarantined", hot and hot.quarantined
    yield "tables at revision", report.revision
    yield "everything live is being compared", hot and hot.comparing


def _ago(ms: int | None) -> str | None:
    return None if ms is None else f"{ms / 1000:.1f} s ago"


def _two_columns(headers: tuple[str, str], numbers: dict[str, int]) -> Table:
    rows = table(*headers)
    for name in sorted(numbers):
        rows.add_row(name, str(numbers[name]))
    return rows


@click.command()
@click.argument("char_id", metavar="ID", type=CharId())
@as_json
def inspect(char_id: int, as_json: bool) -> None:
    """Show a character on both sides, field by field, its open sessions, and its marks.

    If a server is away, the other side is shown. Exit status 1 then, and if it is on neither side.

    \b
    Example:
      statesync inspect 42
    """
    with connected(to_one=True) as (orchestrator, _):
        found = inspection.inspect(orchestrator, char_id)
    if as_json:
        print_json(_inspected_json(found))
    else:
        _print_inspected(found)
    if found.is_nowhere or any(side.is_away for side in found.sides):
        sys.exit(1)


def _inspected_json(found: Inspected) -> dict[str, Any]:
    redis, postgresql, sync_state = found.redis, found.postgresql, found.sync_state
    quarantine = sync_state and sync_state.quarantine and sync_state.quarantine._asdict()
    return {
        "char_id": found.char_id,
        "redis": redis.character and asdict(redis.character),
        "redis_error": redis.error or None,
        "redis_fields": redis.fields or None,
        "postgresql": postgresql.character and asdict(postgresql.character),
        "postgresql_error": postgresql.error or None,
        "sessions": {
            session_type: {
                "redis": _session_json(redis.sessions.get(session_type)),
                "postgresql": _session_json(postgresql.sessions.get(session_type)),
            }
            for session_type in sorted({*redis.sessions, *postgresql.sessions})
        },
        "deleted_at": found.deleted_at,
        "unknown_sessions": [ref.label for ref in found.unknown_sessions],
        "marks": sync_state and sync_state._asdict() | {"quarantine": quarantine},
    }


def _session_json(session: Session | None) -> dict[str, Any] | None:
    if session is None:
        return None
    return {
        "id": str(session.id),
        "version": session.version,
        "closed": session.closed,
        "log_length": session.log_length,
        "fields": session.fields,
    }


def _print_inspected(found: Inspected) -> None:
    for name, side in zip(("Redis", "PostgreSQL"), found.sides, strict=True):
        if side.error:
            label = f"{name} is not shown: " if side.is_away else f"In {name}, but not readable: "
            say(side.error, label=label)
    compared = table("field", "Redis", "PostgreSQL", "", title=f"character {found.char_id}")
    for row in found.compared():
        compared.add_row(row.name, row.redis, row.postgresql, "differs" if row.differs else "")
    if compared.row_count:
        console.print(compared)
    elif found.deleted_at:
        console.print(f"Character {found.char_id} was deleted at {found.deleted_at}.")
    elif found.is_nowhere:
        console.print(f"Character {found.char_id} is on neither side.")
    for ref in found.unknown_sessions:
        say(f"It is in {ref.label}, whose type is not registered here.")
    if found.sync_state:
        _print_marks(found.sync_state)


def _print_marks(sync_state: SyncState) -> None:
    claim = f"claimed until {sync_state.token} µs" if sync_state.token else "not claimed"
    console.print(f"Marks: {'dirty' if sync_state.dirty else 'not dirty'}, {claim}.")
    if sync_state.quarantine:
        field_name, error = sync_state.quarantine.field, sync_state.quarantine.error
        say(f"Quarantined: {field_name}: {error}" if field_name else f"Quarantined: {error}")
