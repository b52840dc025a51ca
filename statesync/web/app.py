"""Owns the web application: which routes it has, and what they find in its state."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware

from statesync.lifecycle.realms import Realms
from statesync.web import metrics, pages, probes
from statesync.web.access import Access
from statesync.web.guard import Guard
from statesync.web.tries import Tries
from statesync.web.watch import Watch

__all__ = ["make_app"]


def make_app(realms: Realms, watch: Watch) -> Starlette:
    """Return the application. Its routes find what they need in ``request.app.state``.

    The caller starts the watch, and closes both.
    """
    settings = realms.settings(realms.names[0])
    app = Starlette(
        routes=[*probes.routes, *metrics.routes, *pages.routes],
        middleware=[Middleware(Guard)],
        exception_handlers=pages.exception_handlers,
    )
    app.state.realms = realms
    app.state.watch = watch
    app.state.metrics = metrics.Metrics(realms, watch)
    app.state.access = Access(settings)
    app.state.tries = Tries()
    app.state.flower_url = settings.flower_url
    return app
