"""Owns the web application: which routes it has, and what they find in its state."""

from __future__ import annotations

from starlette.applications import Starlette

from statesync.lifecycle.realms import Realms
from statesync.web import metrics, probes
from statesync.web.watch import Watch

__all__ = ["make_app"]


def make_app(realms: Realms, watch: Watch) -> Starlette:
    """Return the application. Its routes find both in ``request.app.state``.

    The caller starts the watch, and closes both.
    """
    app = Starlette(routes=[*probes.routes, *metrics.routes])
    app.state.realms = realms
    app.state.watch = watch
    return app
