"""Owns the pages of the quarantine: who cannot be saved and why, retry and discard."""

from __future__ import annotations

from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response

from statesync.errors import InvalidInput
from statesync.hot.commands.operators import QuarantineEntry
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.state.fields import parse_char_id
from statesync.web.operations import act, done_before
from statesync.web.rendering import realm_of, render
from statesync.web.threads import ThreadedRoute

__all__ = ["discard", "retry", "routes", "show_quarantine"]

_LISTED = 50
_LAST_CURSOR = 2**64 - 1
"""Redis refuses what is greater."""
PAGE = "/quarantine"


def show_quarantine(request: Request) -> Response:
    """Show a page of the entries, in the order in which Redis gives them."""
    hot = request.app.state.realms.orchestrator(realm_of(request)).hot
    asked = request.query_params.get("cursor", "")
    cursor = int(asked[:21]) if asked.isascii() and asked.isdigit() else 0
    if cursor > _LAST_CURSOR:
        raise InvalidInput(f"{asked[:21]} is no page of the quarantine")
    next_cursor, entries = _page(hot, cursor)
    return render(
        request,
        "quarantine.html",
        entries=entries,
        cursor=cursor,
        next_cursor=next_cursor,
        total=hot.status().quarantined,
        done=done_before(request),
    )


def _page(hot: HotStore, cursor: int) -> tuple[int, list[QuarantineEntry]]:
    """Return the next cursor, 0 at the end, and some entries; none only if there are no more."""
    while True:
        cursor, entries = hot.list_quarantine(cursor, count=_LISTED)
        if entries or not cursor:
            return cursor, sorted(entries, key=lambda entry: entry.first_at)


def retry(request: Request) -> Response:
    """Mark a quarantined character dirty again: the next sweep tries to save it."""
    name = request.state.form.get("name", "")

    def do(orchestrator: GameStateOrchestrator) -> str:
        is_found = orchestrator.hot.retry_quarantined(parse_char_id(name))
        return "marked: the next sweep tries again" if is_found else "it was not in quarantine"

    return act(request, "retry", name, do, then=PAGE)


def discard(request: Request) -> Response:
    """Forget an entry; the data in Redis is not touched."""
    # As in a URL: browsers change the ends of lines in a form.
    name = unquote(request.state.form.get("name", ""))

    def do(orchestrator: GameStateOrchestrator) -> str:
        is_found = orchestrator.hot.discard_quarantined(name)
        return "the entry is forgotten" if is_found else "it was not in quarantine"

    return act(request, "discard", name, do, then=PAGE)


routes = [
    ThreadedRoute(PAGE, show_quarantine, methods=["GET"]),
    ThreadedRoute(f"{PAGE}/retry", retry, methods=["POST"]),
    ThreadedRoute(f"{PAGE}/discard", discard, methods=["POST"]),
]
