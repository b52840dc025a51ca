"""Owns the pages of conflicts: the side that lost, beside what PostgreSQL holds now."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from statesync.errors import InvalidCharId
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.observe import conflicts
from statesync.observe.inspection import compare, inspect
from statesync.state.fields import TIE_FIELD, load_json, parse_char_id
from statesync.web.rendering import id_in, realm_of, render
from statesync.web.threads import ThreadedRoute

__all__ = ["routes", "show_conflict", "show_conflicts"]

_LISTED = 50
_LOG_LISTED = 20
_OURS = ("saved_version", TIE_FIELD)


def show_conflicts(request: Request) -> Response:
    """List conflicts, the newest first; with ``character``, those of one."""
    engine = request.app.state.realms.orchestrator(realm_of(request)).engine
    char_id = None
    with suppress(InvalidCharId):
        char_id = parse_char_id(request.query_params.get("character", "").strip())
    before = id_in(request, "before")
    listed, older = conflicts.page(engine, char_id=char_id, before=before, limit=_LISTED)
    return render(request, "conflicts.html", conflicts=listed, older=older, char_id=char_id)


def show_conflict(request: Request) -> Response:
    """Show one conflict: both sides, and what differs."""
    orchestrator = request.app.state.realms.orchestrator(realm_of(request))
    conflict_id = id_in(request, "id")
    found = conflicts.read(orchestrator.engine, conflict_id) if conflict_id else None
    if found is None:
        why = "There is no such conflict."
        return render(request, "refused.html", status_code=404, why=why)
    lost: dict[str, Any] = load_json(found["state"])
    now, problem = _now(orchestrator, found)
    fields = {
        name: _read(str(value), now.get(name))
        for name, value in (lost.get("core") or lost.get("session") or {}).items()
        if name not in _OURS
    }
    log = lost.get("log") or []
    return render(
        request,
        "conflict.html",
        conflict=found,
        rows=compare(fields, now),
        problem=problem,
        log=log[-_LOG_LISTED:],
        log_length=len(log),
    )


def _now(
    orchestrator: GameStateOrchestrator, conflict: Mapping[str, Any]
) -> tuple[Mapping[str, object], str]:
    """Return what PostgreSQL holds now of what lost, and what there is to say of it."""
    found = inspect(orchestrator, conflict["character_id"])
    if found.postgresql.error:
        return {}, found.postgresql.error
    if conflict["session_id"] is None:
        character = found.postgresql.character
        if character is None:
            return {}, "PostgreSQL has no such character now."
        return character.core() | {"version": str(character.version)}, ""
    for session in found.postgresql.sessions.values():
        if session.id == conflict["session_id"]:
            return session.fields | {"version": str(session.version)}, ""
    return {}, "The character is not in this session any more."


def _read(text: str, other: object) -> object:
    """Return a text as the value that it is compared with: JSON, unless the other is text too."""
    if isinstance(other, str | None):
        return text
    try:
        return load_json(text)
    except (ValueError, RecursionError):
        return text


routes = [
    ThreadedRoute("/conflicts", show_conflicts, methods=["GET"]),
    ThreadedRoute("/conflict", show_conflict, methods=["GET"]),
]
