"""Owns the web server: it runs the application until it is told to end."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from statesync import logs
from statesync.lifecycle.realms import Realms
from statesync.settings import Settings
from statesync.web.app import make_app
from statesync.web.connections import BACKLOG, Connection, Seldom, raise_limit
from statesync.web.watch import Watch

__all__ = ["configuration", "listen", "serve"]

_ANSWER_SECONDS = 2.0
"""How long an operation on Redis waits: nobody plays here, and somebody looks at the page."""
_DATABASE_SECONDS = 10.0
"""How long each statement in PostgreSQL waits: conflicts may be many."""
_END_SECONDS = 3
"""How long requests may still run at the end."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def serve(
    settings: Settings, listening: socket.socket, *, say: Callable[[str], object] = print
) -> None:
    """Serve until SIGINT or SIGTERM; says once where, and for whom. Raises SettingsError."""
    logs.configure(settings.log_format)
    # It has two lines for each time that the revision of the tables is asked for.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("asyncio").addFilter(Seldom())
    raise_limit()
    host, port = listening.getsockname()[:2]
    patience = {"answer_seconds": _ANSWER_SECONDS, "database_seconds": _DATABASE_SECONDS}
    with Realms(settings, **patience) as realms, Watch(realms) as watch:
        app = make_app(realms, watch)
        say(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
        for note in app.state.access.notes():
            say(note)
        uvicorn.Server(configuration(app)).run(sockets=[listening])


def configuration(app: ASGIApp) -> uvicorn.Config:
    """Return how uvicorn serves the application."""
    return uvicorn.Config(
        app,
        # Who asks is who is connected: a header may say anything.
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        # Its warnings are of strangers: one for each request that is none.
        log_level="error",
        lifespan="off",
        http=Connection,
        ws="none",
        backlog=BACKLOG,
        timeout_graceful_shutdown=_END_SECONDS,
    )
