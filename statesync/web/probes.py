"""Owns the probes: whether this process lives, and whether it can answer.

They wait for no thread: pages cannot hold them up.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

__all__ = ["live", "ready", "routes"]


async def live(_: Request) -> PlainTextResponse:
    """Answer that this process lives."""
    return PlainTextResponse("live\n")


async def ready(request: Request) -> PlainTextResponse:
    """Answer 200 if the watch has looked at a server lately, whatever it has found; else 503."""
    if request.app.state.watch.is_awake():
        return PlainTextResponse("ready\n")
    return PlainTextResponse("the watch has not looked at any server lately\n", status_code=503)


routes = [Route("/live", live), Route("/ready", ready)]
