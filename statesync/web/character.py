"""Owns the page of one character: both sides beside each other, and its marks."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from statesync.errors import InvalidCharId
from statesync.hot.store import HotStore
from statesync.observe.inspection import inspect
from statesync.state.fields import parse_char_id
from statesync.web.rendering import realm_of, render
from statesync.web.threads import ThreadedRoute

__all__ = ["routes", "show_character"]


def show_character(request: Request) -> Response:
    """Show what Redis and PostgreSQL have of a character."""
    asked = request.query_params.get("id", "").strip()
    try:
        char_id = parse_char_id(asked)
    except InvalidCharId as error:
        return render(request, "refused.html", status_code=400, why=str(error))
    orchestrator = request.app.state.realms.orchestrator(realm_of(request))
    found = inspect(orchestrator, char_id)
    sessions = {
        name: found.redis.sessions.get(name) or found.postgresql.sessions[name]
        for name in sorted({*found.redis.sessions, *found.postgresql.sessions})
    }
    return render(
        request,
        "character.html",
        found=found,
        rows=found.compared(),
        sessions=sessions,
        tied=_tied_with(orchestrator.hot, char_id) if found.sync_state else [],
        oldest_at=_seconds(found.sync_state and found.sync_state.since_ms, 1_000),
        claimed_until=_seconds(found.sync_state and found.sync_state.token, 1_000_000),
    )


def _tied_with(hot: HotStore, char_id: int) -> list[str]:
    """Return the characters and sessions that are saved together with this one by a tie."""
    tie, _ = hot.read_tie(char_id)
    names = hot.read_tie(char_id, tie)[1] if tie else []
    return sorted(name for name in names if name != str(char_id))


def _seconds(count: int | None, in_a_second: int) -> float | None:
    return None if count is None else count / in_a_second


routes = [ThreadedRoute("/character", show_character, methods=["GET"])]
