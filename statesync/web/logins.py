"""Owns the pages by which operators log in and out."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from statesync.web.access import COOKIE, LOGIN_SECONDS, Access
from statesync.web.guard import LOGIN, LOGOUT
from statesync.web.rendering import render

__all__ = ["log_in", "log_out", "routes", "show_login"]

_OWN_PATH = re.compile(r"/(?:[A-Za-z0-9][A-Za-z0-9/_.-]*)?(?:\?[A-Za-z0-9=&%_.+-]*)?")
"""A page of ours: a login leads nowhere else."""


def show_login(request: Request) -> Response:
    """Show the form."""
    return render(request, "login.html", next="/")


def log_in(request: Request) -> Response:
    """Log in, and go to the page that was asked for."""
    access: Access = request.app.state.access
    form = request.state.form
    target = form.get("next", "/")
    next_page = target if _OWN_PATH.fullmatch(target) else "/"
    address = request.client.host if request.client else ""
    if not access.may_try(address):
        wait = access.rest_seconds(address)
        problem = f"Too many attempts from {address or 'there'}: wait {wait} s."
        answer = render(request, "login.html", status_code=429, next=next_page, problem=problem)
        answer.headers["Retry-After"] = str(wait)
        return answer
    token = access.log_in(form.get("name", ""), form.get("password", ""))
    if token is None:
        problem = "Name or password is wrong."
        return render(request, "login.html", status_code=403, next=next_page, problem=problem)
    access.log_out(request.cookies.get(COOKIE))
    done = RedirectResponse(next_page, status_code=303)
    done.set_cookie(
        COOKIE,
        token,
        max_age=LOGIN_SECONDS,
        httponly=True,
        samesite="strict",
        secure=_is_https(request),
    )
    return done


def _is_https(request: Request) -> bool:
    """Return whether the browser came by https; who forges the header harms only itself."""
    return "https" in (request.scope["scheme"], request.headers.get("x-forwarded-proto"))


def log_out(request: Request) -> Response:
    """End the login."""
    access: Access = request.app.state.access
    access.log_out(request.cookies.get(COOKIE))
    done = RedirectResponse("/", status_code=303)
    done.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=_is_https(request))
    return done


routes = [
    Route(LOGIN, show_login, methods=["GET"]),
    Route(LOGIN, log_in, methods=["POST"]),
    Route(LOGOUT, log_out, methods=["POST"]),
]
