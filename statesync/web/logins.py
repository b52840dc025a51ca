"""Owns the pages by which operators log in and out."""

from __future__ import annotations

import logging
import re

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from statesync.web.access import (
    COOKIE,
    DEVICE_COOKIE,
    DEVICE_SECONDS,
    LOGIN_SECONDS,
    Access,
    is_direct,
)
from statesync.web.guard import LOGIN, LOGOUT
from statesync.web.rendering import render
from statesync.web.tries import Tries

__all__ = ["log_in", "log_out", "routes", "show_login"]

log = logging.getLogger(__name__)

_OWN_PATH = re.compile(r"/(?:[A-Za-z0-9][A-Za-z0-9/_.-]*)?(?:\?[A-Za-z0-9=&%_.+-]*)?")
"""A page of ours: a login leads nowhere else."""


def show_login(request: Request) -> Response:
    """Show the form."""
    return render(request, "login.html", next="/")


def log_in(request: Request) -> Response:
    """Log in, and go to the page that was asked for."""
    state, form = request.app.state, request.state.form
    access: Access = state.access
    tries: Tries = state.tries
    target = form.get("next", "/")
    next_page = target if _OWN_PATH.fullmatch(target) else "/"
    address = request.client.host if request.client else "nowhere"
    device = request.cookies.get(DEVICE_COOKIE)
    # A proxy on this machine has its address too: guessing through it locks nobody out here.
    key = access.key_of_tries("this machine" if is_direct(request) else address, device)
    if not tries.may_try(key):
        wait = tries.rest_seconds(key)
        _tell_failure(tries, "too many attempts", address)
        problem = f"Too many attempts from {address}: wait {wait} s."
        answer = render(request, "login.html", status_code=429, next=next_page, problem=problem)
        answer.headers["Retry-After"] = str(wait)
        return answer
    token = access.log_in(form.get("name", ""), form.get("password", ""))
    login = access.login(token)
    if token is None or login is None:
        _tell_failure(tries, "wrong name or password", address)
        problem = "Name or password is wrong."
        return render(request, "login.html", status_code=403, next=next_page, problem=problem)
    log.info("login: %s (%s) from %s", login.name, login.role, address)
    access.log_out(request.cookies.get(COOKIE))
    done = RedirectResponse(next_page, status_code=303)
    _set_cookie(request, done, COOKIE, token, LOGIN_SECONDS)
    if not access.knows_device(device):
        _set_cookie(request, done, DEVICE_COOKIE, access.new_device(), DEVICE_SECONDS)
    return done


def _tell_failure(tries: Tries, why: str, address: str) -> None:
    """Write a line, as seldom as one address may try: a stranger does not fill the disk."""
    if tries.may_try(f"lines of {why}"):
        log.warning("login refused: %s, from %s", why, address)


def _set_cookie(request: Request, answer: Response, name: str, value: str, seconds: int) -> None:
    answer.set_cookie(
        name,
        value,
        max_age=seconds,
        httponly=True,
        samesite="strict",
        secure=_is_https(request),
    )


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
