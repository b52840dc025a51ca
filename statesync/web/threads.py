"""Owns the threads in which requests wait: a server that is frozen holds up nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["ThreadedRoute"]

_AT_ONCE = 3
"""Pages of a route that are made at once: all together they use the connections of a pool."""


class ThreadedRoute(Route):
    """A route of what asks servers, or takes long. It has threads of its own; others wait."""

    def __init__(
        self,
        path: str,
        handler: Callable[[Request], Response],
        *,
        methods: Sequence[str],
        at_once: int = _AT_ONCE,
    ) -> None:
        limiter = CapacityLimiter(at_once)

        async def answer(request: Request) -> Response:
            return await to_thread.run_sync(handler, request, limiter=limiter)

        super().__init__(path, answer, methods=methods)
