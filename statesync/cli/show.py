"""Owns the commands that only read: status, inspect."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from statesync import durable
from statesync.cli.broker import count_messages, problem_of
from statesync.cli.common import (
    CharId,
    as_json,
    connected,
    console,
    print_json,
    say,
    table,
    tell_unknown_types,
)
from statesync.cli.losses import describe_loss, is_recent, loss_as_json
from statesync.durable import database
from statesync.durable import migrate as migrations
from statesync.durable.losses import Loss
from statesync.errors import (
    CharacterNotLoaded,
    CorruptState,
    DatabaseWentBack,
    NotMigrated,
    ServerUnavailable,
)
from statesync.hot.commands.operators import Status, SyncState
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.servers import losses
from statesync.lifecycle.unknown_types import count_unknown_types, unknown_sessions_of
from statesync.settings import Settings
from statesync.state.characters import Character
from statesync.state.fields import dump_json, printable
from statesync.state.references import SessionRef
from statesync.state.sessions import Session
from statesync.worker.names import queues_of

__all__ = ["inspect", "status"]


@click.command()
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@as_json
def status(watch: bool, as_json: bool) -> None:
    """Show how much is unsaved and since when, what waits in the queues, and the counters.

    Exit status 1 if there are problems: a server cannot be reached, the tables are not up to date,
    or PostgreSQL went back in time and is not recovered yet.

    \b
    Examples:
      statesync status
      statesync status --json | jq .dirty
      statesync status --watch
    """
    with connected(to_one=watch) as (orchestrator, settings):
        if watch:
            _watch(orchestrator, settings, as_json=as_json)
            return
        report = _status(orchestrator, settings)
    if as_json:
        print_json(_status_json(report))
    else:
        console.print(_status_table(report))
    if report["problems"]:
        sys.exit(1)


def _watch(orchestrator: GameStateOrchestrator, settings: Settings, *, as_json: bool) -> None:
    if as_json:
        while True:
            print_json(_status_json(_status(orchestrator, settings)))
            time.sleep(1)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(_status_table(_status(orchestrator, settings)), refresh=True)
            time.sleep(1)


def _status(orchestrator: GameStateOrchestrator, settings: Settings) -> dict[str, Any]:
    problems: list[str] = []
    report: dict[str, Any] = {
        **dict.fromkeys(Status._fields),
        "counters": {},
        "unknown_types": {},
        "queues": {},
        "revision": None,
        "losses": [],
    }
    try:
        report |= orchestrator.hot.status()._asdict()
        report["unknown_types"] = count_unknown_types(orchestrator.hot)
        if report["recovering"]:
            problems.append(str(DatabaseWentBack()))
    except ServerUnavailable as error:
        problems.append(str(error))
    try:
        report["revision"] = migrations.revision(orchestrator.engine)
        if report["revision"] != migrations.head():
            problems.append("the tables are not up to date: run `statesync migrate`")
        else:
            report["losses"] = losses(orchestrator.hot, orchestrator.engine)
    except (ServerUnavailable, NotMigrated) as error:
        problems.append(str(error))
    try:
        report["queues"] = dict(_queues(settings))
    except Exception as error:  # each transport of a broker has its own
        problems.append(problem_of(error, "the broker", settings.broker_url))
    return report | {"problems": problems}


def _status_json(report: dict[str, Any]) -> dict[str, Any]:
    return report | {"losses": [loss_as_json(loss) for loss in report["losses"]]}


def _queues(settings: Settings) -> Iterator[tuple[str, int]]:
    from statesync.worker.app import app

    with app.connection_for_read(transport_options={"max_retries": 0}) as connection:
        for queue in queues_of(settings):
            yield queue, count_messages(connection, queue)


def _status_table(report: dict[str, Any]) -> Group:
    state = table("unsaved state", "")
    oldest = report["oldest_ms"]
    for name, value in (
        ("dirty", report["dirty"]),
        ("claimed by workers", report["claimed"]),
        ("of these, lease ended", report["expired"]),
        ("oldest unsaved change", None if oldest is None else f"{oldest / 1000:.1f} s ago"),
        ("quarantined", report["quarantined"]),
        ("tables at revision", report["revision"]),
        ("everything live is being compared", report["comparing"]),
    ):
        state.add_row(name, "-" if value is None else str(value))
    queues = _two_columns(("queue", "waiting"), report["queues"])
    counters = _two_columns(("counter", "total"), report["counters"])
    parts: list[RenderableType] = []
    recent: list[Loss] = [loss for loss in report["losses"] if is_recent(loss)]
    for loss in recent:
        parts += [Text(printable(describe_loss(loss))), ""]
    for part in (state, queues, counters):
        parts += [part, ""] if part.row_count else []
    if report["unknown_types"]:
        parts.append(Text(printable(tell_unknown_types(report["unknown_types"]))))
    for problem in report["problems"]:
        parts.append(Text.assemble(("problem:", "red"), f" {printable(problem)}"))
    return Group(*parts)


def _two_columns(headers: tuple[str, str], numbers: dict[str, int]) -> Table:
    rows = table(*headers)
    for name in sorted(numbers):
        rows.add_row(name, str(numbers[name]))
    return rows


@dataclass(slots=True)
class _Side:
    """A character and its sessions, by type, in one of the two stores."""

    character: Character | None = None
    sessions: dict[str, Session] = field(default_factory=dict)

    def rows(self) -> dict[str, object]:
        """Return what to show, by the name of the row."""
        if self.character is None:
            return {}
        rows = self.character.core() | {"version": self.character.version}
        for session_type, session in self.sessions.items():
            for name, value in session.fields.items():
                rows[f"{session_type}: {name}"] = value
            rows[f"{session_type}: version"] = session.version
            if session.log_length:
                rows[f"{session_type}: log"] = f"{session.log_length} entries"
        return rows


@dataclass(slots=True)
class _Inspected:
    """What both stores have of one character, and its marks."""

    char_id: int
    redis: _Side
    redis_error: CorruptState | None
    postgresql: _Side
    postgresql_error: Exception | None
    sync_state: SyncState
    deleted_at: str | None = None
    """When its row was deleted, if it is."""
    unknown_sessions: list[SessionRef] = field(default_factory=list)
    """Live ones, of types that are not registered here."""


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
    with connected(to_one=True) as (orchestrator, _):
        found = _inspect(orchestrator, char_id)
    if as_json:
        print_json(_inspected_json(found))
    else:
        _print_inspected(found)
    errors = found.redis_error or found.postgresql_error
    if not (found.redis.character or found.postgresql.character or errors):
        sys.exit(1)


def _inspect(orchestrator: GameStateOrchestrator, char_id: int) -> _Inspected:
    hot = orchestrator.hot
    sync_state = hot.sync_state(char_id)
    redis, redis_error = _Side(), None
    try:
        redis = _Side(*hot.get_full_state(char_id))
    except CharacterNotLoaded:
        pass
    except CorruptState as error:
        redis_error = error
    postgresql, postgresql_error = _Side(), None
    try:
        _read_postgresql(orchestrator, char_id, postgresql)
    except (CorruptState, database.Rejected) as error:
        postgresql_error = error
    deleted_at = None
    if postgresql.character is None and postgresql_error is None:
        with database.transaction(orchestrator.engine) as connection:
            deleted_at = durable.characters.deleted_at(connection, char_id)
    unknown = unknown_sessions_of(hot, [str(char_id)]).get(str(char_id), [])
    errors = (redis_error, postgresql, postgresql_error)
    return _Inspected(char_id, redis, *errors, sync_state, deleted_at, unknown)


def _read_postgresql(orchestrator: GameStateOrchestrator, char_id: int, side: _Side) -> None:
    """Read what PostgreSQL has. Raises CorruptState or Rejected if it cannot be read."""
    with database.transaction(orchestrator.engine) as connection:
        side.character = durable.characters.load(connection, [char_id]).get(char_id)
        for session_type, sessions in orchestrator.sessions.items():
            problem = f"the session type {session_type!r} cannot load it"
            with database.work_of(problem, connection):
                if session := sessions.load(connection, [char_id]).get(char_id):
                    side.sessions[session_type] = session


def _inspected_json(found: _Inspected) -> dict[str, Any]:
    redis, postgresql, sync_state = found.redis, found.postgresql, found.sync_state
    quarantine = sync_state.quarantine and sync_state.quarantine._asdict()
    return {
        "char_id": found.char_id,
        "redis": redis.character and asdict(redis.character),
        "redis_error": found.redis_error and str(found.redis_error),
        "postgresql": postgresql.character and asdict(postgresql.character),
        "postgresql_error": found.postgresql_error and str(found.postgresql_error),
        "sessions": {
            session_type: {
                "redis": _session_json(redis.sessions.get(session_type)),
                "postgresql": _session_json(postgresql.sessions.get(session_type)),
            }
            for session_type in sorted({*redis.sessions, *postgresql.sessions})
        },
        "deleted_at": found.deleted_at,
        "unknown_sessions": [ref.label for ref in found.unknown_sessions],
        "marks": sync_state._asdict() | {"quarantine": quarantine},
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


def _print_inspected(found: _Inspected) -> None:
    if found.redis_error:
        say(str(found.redis_error), label="In Redis, but not readable: ")
    if found.postgresql_error:
        say(str(found.postgresql_error), label="In PostgreSQL, but not readable: ")
    compared = table("field", "Redis", "PostgreSQL", "", title=f"character {found.char_id}")
    redis, postgresql = found.redis.rows(), found.postgresql.rows()
    for name in dict.fromkeys([*redis, *postgresql]):
        values = redis.get(name, "-"), postgresql.get(name, "-")
        compared.add_row(name, *map(_text, values), "" if _is_same(*values) else "differs")
    if redis or postgresql:
        console.print(compared)
    elif found.deleted_at:
        console.print(f"Character {found.char_id} was deleted at {found.deleted_at}.")
    elif not (found.redis_error or found.postgresql_error):
        console.print(f"Character {found.char_id} is on neither side.")
    for ref in found.unknown_sessions:
        say(f"It is in {ref.label}, whose type is not registered here.")
    sync_state = found.sync_state
    claim = f"claimed until {sync_state.token} µs" if sync_state.token else "not claimed"
    console.print(f"Marks: {'dirty' if sync_state.dirty else 'not dirty'}, {claim}.")
    if sync_state.quarantine:
        field_name, error = sync_state.quarantine.field, sync_state.quarantine.error
        say(f"Quarantined: {field_name}: {error}" if field_name else f"Quarantined: {error}")


def _is_same(one: object, other: object) -> bool:
    """Return whether two values are the same JSON; PostgreSQL has its own order of keys."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _text(value: object) -> str:
    return value if isinstance(value, str) else dump_json(value)
