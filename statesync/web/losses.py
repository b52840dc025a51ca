"""Owns the page of losses: which server went back in time, and what that has cost."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from statesync.lifecycle.servers import losses
from statesync.observe.losses import describe_loss
from statesync.web.rendering import realm_of, render
from statesync.web.threads import ThreadedRoute

__all__ = ["routes", "show_losses"]

_LISTED = 50


def show_losses(request: Request) -> Response:
    """Show the last losses, the newest first."""
    orchestrator = request.app.state.realms.orchestrator(realm_of(request))
    found = [
        {
            "text": describe_loss(loss),
            "is_settled": loss.recovered_at is not None,
            "not_live": loss.not_live[:_LISTED],
            "left": loss.left[:_LISTED],
            "loss": loss,
        }
        for loss in losses(orchestrator.hot, orchestrator.engine)
    ]
    return render(request, "losses.html", losses=found)


routes = [ThreadedRoute("/losses", show_losses, methods=["GET"])]
