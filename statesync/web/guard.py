"""Owns what every request has to pass, and what every answer tells the browser.

Whatever route there is, it is closed unless it is named here: reading takes a login or a direct
request, and whatever is no reading takes an operator's login, its token, and a form of ours.
"""

from __future__ import annotations

import hmac
from urllib.parse import parse_qsl, quote

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from statesync.web.access import COOKIE, Access, Login, is_direct, is_same_origin
from statesync.web.rendering import render

__all__ = ["LOGIN", "LOGOUT", "Guard"]

LOGIN, LOGOUT = "/login", "/logout"
_OPEN = ("/live", "/ready", "/metrics", LOGIN)
_OPEN_FOLDER = "/static/"
_LARGEST_FORM = 16 * 1024
_HEADERS = {
    # Nothing from elsewhere, no script or style in the text of a page, and in nobody's frame.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer": a browser would then not say where a form comes from.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Lets requests through; those behind it find ``login`` and ``form`` in ``request.state``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            refusal = await _refusal(request)
        except ClientDisconnect:
            return
        await (refusal or self._app)(scope, receive, send_with_headers)


async def _refusal(request: Request) -> Response | None:
    """Return the answer to a request that is not let through."""
    access: Access = request.app.state.access
    login = request.state.login = access.login(request.cookies.get(COOKIE))
    request.state.form = {}
    path = request.scope["path"]
    if request.method not in ("GET", "HEAD"):
        return await _refusal_of_form(request)
    if path in _OPEN or path.startswith(_OPEN_FOLDER) or login or is_direct(request):
        return None
    return render(request, "login.html", status_code=401, next=_path_and_query(request))


async def _refusal_of_form(request: Request) -> Response | None:
    """Return the answer to what is no reading, unless it is let through."""
    if not is_same_origin(request):
        return _refused(request, "This form does not come from a page of this server.")
    form = await _read_form(request)
    if form is None:
        return _refused(request, "This form is too large, or no form.", 413)
    request.state.form = form
    if request.scope["path"] == LOGIN:
        return None
    if request.state.login is None:
        return render(request, "login.html", status_code=401, next="/", must_act=True)
    return _refusal_of_login(request, request.state.login)


def _refusal_of_login(request: Request, login: Login) -> Response | None:
    given = request.state.form.get("csrf_token", "").encode(errors="replace")
    if not hmac.compare_digest(given, login.csrf_token.encode()):
        return _refused(request, "This form is of another login: go back, reload, and try again.")
    if request.scope["path"] != LOGOUT and not login.may_act:
        return _refused(request, f"{login.name} may only read: acting takes an operator's login.")
    return None


def _refused(request: Request, why: str, status_code: int = 403) -> Response:
    return render(request, "refused.html", status_code=status_code, why=why)


async def _read_form(request: Request) -> dict[str, str] | None:
    """Return the fields of a form; None if it is none, or too large."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LARGEST_FORM:
            return None
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/x-www-form-urlencoded":
        return None
    try:
        return dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=20))
    except ValueError:
        return None


def _path_and_query(request: Request) -> str:
    query = request.scope["query_string"].decode("latin-1")
    return quote(request.scope["path"]) + (f"?{query}" if query else "")
