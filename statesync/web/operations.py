"""Owns how operators act: on record before, the outcome after. No record, no action."""

from __future__ import annotations

import logging
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from statesync.durable import actions, database
from statesync.durable.actions import Action
from statesync.errors import NotMigrated, ServerUnavailable, StatesyncError
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.state.fields import MAX_ID, printable
from statesync.web.rendering import id_in, link, realm_of, render
from statesync.web.threads import ThreadedRoute

__all__ = ["act", "done_before", "routes", "show_actions"]

log = logging.getLogger(__name__)

_LISTED = 50


def act(
    request: Request,
    what: str,
    target: str,
    do: Callable[[GameStateOrchestrator], str],
    *,
    then: str,
) -> Response:
    """Do something for the operator who is logged in, and go to page ``then``, which tells of it.

    ``do`` returns the outcome in words. Raises ServerUnavailable or NotMigrated before anything is
    done if it cannot be recorded.
    """
    realm, who = realm_of(request), request.state.login.name
    orchestrator = request.app.state.realms.orchestrator(realm)
    with database.transaction(orchestrator.engine) as connection:
        action_id = actions.begin(connection, who=who, what=what, realm=realm, target=target)
    try:
        outcome = do(orchestrator)
    except StatesyncError as error:
        outcome = f"failed: {error}"
    log.warning("operator %s: %s %s: %s", who, what, printable(target), printable(outcome))
    try:
        with database.transaction(orchestrator.engine) as connection:
            actions.finish(connection, action_id, printable(outcome))
    except (ServerUnavailable, NotMigrated) as error:
        why = f"{what} {target}: {outcome}. But this outcome is not on record: {error}"
        return render(request, "trouble.html", status_code=503, why=why)
    return RedirectResponse(link(request, then, done=action_id), status_code=303)


def done_before(request: Request) -> Action | None:
    """Return the action that has led to this page, if one has and its record can be read."""
    action_id = id_in(request, "done")
    if action_id is None:
        return None
    orchestrator = request.app.state.realms.orchestrator(realm_of(request))
    try:
        with database.transaction(orchestrator.engine) as connection:
            found = actions.page(connection, before=action_id + 1, limit=1)
    except (ServerUnavailable, NotMigrated):
        return None  # the quarantine needs Redis alone
    return found[0] if found and found[0].id == action_id else None


def show_actions(request: Request) -> Response:
    """Show what operators did, the newest first."""
    orchestrator = request.app.state.realms.orchestrator(realm_of(request))
    before = id_in(request, "before") or MAX_ID
    with database.transaction(orchestrator.engine) as connection:
        found = actions.page(connection, before=before, limit=_LISTED + 1)
    older = found[_LISTED - 1].id if len(found) > _LISTED else None
    return render(request, "actions.html", actions=found[:_LISTED], older=older)


routes = [ThreadedRoute("/actions", show_actions, methods=["GET"])]
