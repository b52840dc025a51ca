"""Owns the commands that only look: status, inspect."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table

from statesync import durable
from statesync.cli.common import CharId, as_json, connected, console, print_json, table
from statesync.durable import database
from statesync.durable import migrate as migrations
from statesync.errors import CharacterNotLoaded, CorruptState, ServerUnavailable
from statesync.hot.commands.operators import SyncState
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.settings import Settings
from statesync.state.characters import Character
from statesync.state.fields import dump_json
from statesync.state.sessions import Session

__all__ = ["inspect", "status"]


@click.command()
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@as_json
def status(watch: bool, as_json: bool) -> None:
    """Show how much is unsaved and since when, what waits in the queues, and the counters.

    Exit status 1 if a server cannot be reached.

    \b
    Examples:
      statesync status
      statesync status --json | jq .dirty
      statesync status --watch
    """
    with connected() as (orchestrator, settings):
        if watch:
            _watch(orchestrator, settings, as_json=as_json)
            return
        found = _status(orchestrator, settings)
    if as_json:
        print_json(found)
    else:
        console.print(_status_table(found))
    if found["problems"]:
        sys.exit(1)


def _watch(orchestrator: GameStateOrchestrator, settings: Settings, *, as_json: bool) -> None:
    if as_json:
        while True:
            print_json(_status(orchestrator, settings))
            time.sleep(1)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(_status_table(_status(orchestrator, settings)), refresh=True)
            time.sleep(1)


def _status(orchestrator: GameStateOrchestrator, settings: Settings) -> dict[str, Any]:
    problems: list[str] = []
    found: dict[str, Any] = {
        **dict.fromkeys(("dirty", "claimed", "expired", "quarantined", "oldest_ms")),
        "counters": {},
        "queues": {},
        "revision": None,
    }
    try:
        found |= orchestrator.hot.status()._asdict()
    except ServerUnavailable as error:
        problems.append(str(error))
    try:
        found["revision"] = migrations.revision(orchestrator.engine)
        if found["revision"] != migrations.head():
            problems.append("the tables are not up to date: run `statesync migrate`")
    except ServerUnavailable as error:
        problems.append(str(error))
    try:
        found["queues"] = dict(_queues(settings))
    except Exception as error:  # whatever the broker's transport raises
        problems.append(f"the broker: {type(error).__name__}")
    return found | {"problems": problems}


def _queues(settings: Settings) -> Iterator[tuple[str, int]]:
    from statesync.worker.app import app

    with app.connection_for_read(transport_options={"max_retries": 0}) as connection:
        for name in ("restore", "sync", "backup"):
            queue = settings.queue(name)
            channel: Any = connection.default_channel
            yield queue, channel.queue_declare(queue).message_count


def _status_table(found: dict[str, Any]) -> Group:
    state = table("unsaved state", "")
    oldest = found["oldest_ms"]
    for name, value in (
        ("dirty", found["dirty"]),
        ("claimed by workers", found["claimed"]),
        ("of these, lease ended", found["expired"]),
        ("oldest unsaved change", None if oldest is None else f"{oldest / 1000:.1f} s ago"),
        ("quarantined", found["quarantined"]),
        ("tables at revision", found["revision"]),
    ):
        state.add_row(name, "-" if value is None else str(value))
    rows = [state, _two_columns("queue", "waiting", found["queues"])]
    rows.append(_two_columns("counter", "total", found["counters"]))
    problems = [f"[red]problem:[/red] {problem}" for problem in found["problems"]]
    parts: list[Any] = []
    for made in rows:
        parts += [made, ""] if made.row_count else []
    return Group(*parts, *problems)


def _two_columns(name: str, value: str, items: dict[str, int]) -> Table:
    made = table(name, value)
    for key in sorted(items):
        made.add_row(key, str(items[key]))
    return made


@click.command()
@click.argument("char_id", metavar="ID", type=CharId())
@as_json
def inspect(char_id: int, as_json: bool) -> None:
    """Show a character on both sides, field by field, its open sessions, and its marks.

    Exit status 1 if it is on neither side.

    \b
    Example:
      statesync inspect 42
    """
    hot: Character | None = None
    corrupt: CorruptState | None = None
    with connected() as (orchestrator, _):
        sync_state = orchestrator.hot.sync_state(char_id)
        live: dict[str, Session] = {}
        try:
            hot, live = orchestrator.hot.get_full_state(char_id)
        except CharacterNotLoaded:
            pass
        except CorruptState as error:
            corrupt = error
        with database.transaction(orchestrator.engine) as connection:
            cold = durable.characters.load(connection, [char_id]).get(char_id)
            saved = {
                session_type: session
                for session_type, type_ in orchestrator.sessions.items()
                if (session := type_.load(connection, [char_id]).get(char_id))
            }
    if as_json:
        print_json(
            {
                "char_id": char_id,
                "redis": hot and asdict(hot),
                "redis_error": corrupt and str(corrupt),
                "postgresql": cold and asdict(cold),
                "sessions": {
                    session_type: {
                        "redis": _session(live, session_type),
                        "postgresql": _session(saved, session_type),
                    }
                    for session_type in sorted({*live, *saved})
                },
                "marks": sync_state._asdict() | {"quarantine": _entry(sync_state)},
            }
        )
    else:
        sides = (_fields(hot, live), _fields(cold, saved))
        _print_inspected(char_id, sides, corrupt, sync_state)
    if hot is None and cold is None and corrupt is None:
        sys.exit(1)


def _entry(sync_state: SyncState) -> dict[str, Any] | None:
    return sync_state.quarantine and sync_state.quarantine._asdict()


def _print_inspected(
    char_id: int,
    sides: tuple[dict[str, str], dict[str, str]],
    corrupt: CorruptState | None,
    sync_state: SyncState,
) -> None:
    if corrupt:
        console.print(f"[red]In Redis, but not readable:[/red] {corrupt}", markup=True)
    made = table("field", "Redis", "PostgreSQL", "", title=f"character {char_id}")
    left, right = sides
    for name in [*left, *(name for name in right if name not in left)]:
        a, b = left.get(name, "-"), right.get(name, "-")
        made.add_row(name, a, b, "" if a == b else "differs")
    console.print(made if left or right else f"Character {char_id} is on neither side.")
    claim = f"claimed until {sync_state.token} µs" if sync_state.token else "not claimed"
    console.print(f"Marks: {'dirty' if sync_state.dirty else 'not dirty'}, {claim}.")
    if sync_state.quarantine:
        console.print(f"Quarantined: {sync_state.quarantine.field}: {sync_state.quarantine.error}")


def _fields(character: Character | None, sessions: dict[str, Session]) -> dict[str, str]:
    if character is None:
        return {}
    core = {k: v if isinstance(v, str) else dump_json(v) for k, v in character.core().items()}
    core["version"] = str(character.version)
    for session_type, session in sessions.items():
        shown = {k: v if isinstance(v, str) else dump_json(v) for k, v in session.fields.items()}
        core |= {f"{session_type}: {name}": text for name, text in shown.items()}
        core[f"{session_type}: version"] = str(session.version)
        if session.log_length:
            core[f"{session_type}: log"] = f"{session.log_length} entries"
    return core


def _session(sessions: dict[str, Session], session_type: str) -> dict[str, Any] | None:
    found = sessions.get(session_type)
    if found is None:
        return None
    return {
        "id": str(found.id),
        "version": found.version,
        "closed": found.closed,
        "log_length": found.log_length,
        "fields": found.fields,
    }
