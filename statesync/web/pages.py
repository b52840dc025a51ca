"""Owns the operator's page: its routes, and what it answers if a server is away."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from statesync.durable import database
from statesync.errors import InvalidInput, StatesyncError
from statesync.web import (
    character,
    conflicts,
    logins,
    losses,
    operations,
    overview,
    quarantine,
    runbooks,
)
from statesync.web.rendering import FOLDER, render

__all__ = ["exception_handlers", "routes"]


def _tell_refusal(request: Request, error: Exception) -> Response:
    code = error.status_code if isinstance(error, HTTPException) else 500
    why = "There is no such page." if code == 404 else f"This cannot be done here ({code})."
    return render(request, "refused.html", status_code=code, why=why)


def _tell_trouble(request: Request, error: Exception) -> Response:
    return render(request, "trouble.html", status_code=503, why=str(error))


def _tell_mistake(request: Request, error: Exception) -> Response:
    return render(request, "refused.html", status_code=404, why=str(error))


exception_handlers = {
    InvalidInput: _tell_mistake,
    HTTPException: _tell_refusal,
    StatesyncError: _tell_trouble,
    database.Rejected: _tell_trouble,
}

routes: list[BaseRoute] = [
    *overview.routes,
    *logins.routes,
    *quarantine.routes,
    *conflicts.routes,
    *character.routes,
    *losses.routes,
    *operations.routes,
    *runbooks.routes,
    Mount("/static", StaticFiles(directory=FOLDER / "static")),
]
