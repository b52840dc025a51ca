"""Owns the threads of the pages: what waits for a server that is frozen holds up nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["PageRoute"]

_AT_ONCE = 3
"""Pages of a route that are made at once: all together they use the connections of a pool."""


class PageRoute(Route):
    """A route of pages that ask servers. It has threads of its own; further requests wait."""

    def __init__(
        self, path: str, handler: Callable[[Request], Response], *, methods: Sequence[str]
    ) -> None:
        limiter = CapacityLimiter(_AT_ONCE)

        async def answer(request: Request) -> Response:
            return await to_thread.run_sync(handler, request, limiter=limiter)

        super().__init__(path, answer, methods=methods)
