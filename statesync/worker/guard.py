"""Owns what stands before Flower's pages: a stranger gets two of them, and a link leads to ours."""

from __future__ import annotations

import hmac
from base64 import b64decode
from typing import Any

from tornado.escape import xhtml_escape
from tornado.httputil import HTTPServerRequest
from tornado.web import Application, RequestHandler, TemplateModule

__all__ = ["guarded"]

_OPEN_PAGES = ("/metrics", "/healthcheck")
"""They tell nothing that is secret, and who asks for them often has no password."""


def guarded(flower: type[Application], web_url: str) -> type[Application]:
    """Return Flower's application behind its password, all of it.

    Flower itself asks handler by handler: its error pages, ``/logout`` and files answer anybody.
    ``web_url`` is where the operator's page is; "" if that is not known.
    """

    class Guarded(flower):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more, ui_modules={"Template": _linked(web_url)})

        def find_handler(self, request: HTTPServerRequest, **more: Any) -> Any:
            """Return what answers a request."""
            prefix = f"/{url_prefix.strip('/')}" if (url_prefix := self.options.url_prefix) else ""
            is_open = request.path in [prefix + page for page in _OPEN_PAGES]
            if is_open or _is_let_in(request, self.options.basic_auth):
                return super().find_handler(request, **more)
            return self.get_handler_delegate(request, _Refusal)

    return Guarded


class _Refusal(RequestHandler):
    """Asks for a password, whatever was asked."""

    def check_xsrf_cookie(self) -> None:
        """Refuse a request without a password before one without a token."""

    def prepare(self) -> None:
        """End the request."""
        self.set_status(401)
        self.set_header("WWW-Authenticate", 'Basic realm="flower"')
        self.finish("Access denied")


def _is_let_in(request: HTTPServerRequest, logins: list[str]) -> bool:
    """Tell whether a request has one of the logins, ``user:password``; without logins, it may."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    try:
        given = b64decode(encoded, validate=True) if scheme == "Basic" else b""
    except ValueError:
        return False
    # All are compared: the time that it takes tells nothing.
    matches = [hmac.compare_digest(login.encode(), given) for login in logins or []]
    return any(matches) or not logins


def _linked(web_url: str) -> type[TemplateModule]:
    """Return what puts a link to the operator's page below Flower's navigation."""
    words = f'<a href="{xhtml_escape(web_url)}">statesync: what is unsaved, and why</a>'
    link = f'<p class="container-fluid mt-2 mb-0">{words}</p>'

    class Linked(TemplateModule):
        def render(self, path: str, **more: Any) -> bytes:
            """Return a part of a page."""
            rendered = super().render(path, **more)
            return rendered + link.encode() if web_url and path == "navbar.html" else rendered

    return Linked
