"""Owns who may read the operator's page and who may act on it: users, logins, direct requests.

A login is a random token in a cookie, and lives in this process alone: a restart ends it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import threading
import time
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from statesync.settings import Settings

__all__ = [
    "COOKIE",
    "DEVICE_COOKIE",
    "DEVICE_SECONDS",
    "LOGIN_SECONDS",
    "Access",
    "Login",
    "Role",
    "is_direct",
    "is_same_origin",
]

Kept = TypeVar("Kept")

COOKIE = "statesync_login"
DEVICE_COOKIE = "statesync_device"
DEVICE_SECONDS = 90 * 86_400
LOGIN_SECONDS = 8 * 3600
"""A login ends after a shift, whether the page is used or not."""
_KEPT_LOGINS = 1000
"""If there are more, the oldest ends; of devices, too."""
_SITE_BITS = 64
"""One site has all addresses of IPv6 that begin with so many bits."""


class Role(StrEnum):
    """What a user may do."""

    VIEWER = "viewer"
    """Read."""
    OPERATOR = "operator"
    """Read and act."""


class Login(NamedTuple):
    """Who is logged in, as what, and until when."""

    name: str
    role: Role
    csrf_token: str
    """Every form of this login holds it: another site cannot know it."""
    ends_at: float
    """By the monotonic clock."""

    @property
    def may_act(self) -> bool:
        """Whether it may do more than read."""
        return self.role is Role.OPERATOR


class Access:
    """The users of the page and their logins; safe to share by threads."""

    def __init__(self, settings: Settings) -> None:
        given = {Role.OPERATOR: settings.web_operator, Role.VIEWER: settings.web_viewer}
        self._users = {
            role: (text.partition(":")[0], _digest(text)) for role, text in given.items() if text
        }
        self._logins: dict[str, Login] = {}
        self._devices: dict[str, None] = {}
        self._lock = threading.Lock()

    @property
    def roles(self) -> frozenset[Role]:
        """The roles that have a user."""
        return frozenset(self._users)

    def notes(self) -> list[str]:
        """Return lines on who may read and who may act, for whoever starts the process."""
        readers = (
            "whoever logs in" if self._users else "nobody: set STATESYNC_WEB_VIEWER=name:password"
        )
        actors = "whoever logs in as operator"
        if Role.OPERATOR not in self._users:
            actors = "nobody: set STATESYNC_WEB_OPERATOR=name:password"
        return [
            f"reading: this machine, without a password; from elsewhere {readers}",
            "a proxy on this machine has to send X-Forwarded-For: or it is taken for this machine",
            f"acting: {actors}",
        ]

    def login(self, token: str | None) -> Login | None:
        """Return the login that a cookie names; None if there is none, or it has ended."""
        with self._lock:
            login = self._logins.get(token or "")
        return login if login and login.ends_at > time.monotonic() else None

    def log_in(self, name: str, password: str) -> str | None:
        """Return the token of a new login; None if there is no such user or password."""
        given = _digest(f"{name}:{password}")
        # All are compared, in constant time: how long it takes tells nothing.
        matching = [
            (role, own_name)
            for role, (own_name, digest) in self._users.items()
            if hmac.compare_digest(digest, given)
        ]
        if not matching:
            return None
        role, own_name = matching[0]
        token, csrf_token = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        ends_at = time.monotonic() + LOGIN_SECONDS
        with self._lock:
            _keep(self._logins, token, Login(own_name, role, csrf_token, ends_at))
        return token

    def log_out(self, token: str | None) -> None:
        """End a login."""
        with self._lock:
            self._logins.pop(token or "", None)

    def new_device(self) -> str:
        """Return the token of a browser that somebody has logged in with."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            _keep(self._devices, token, None)
        return token

    def knows_device(self, token: str | None) -> bool:
        """Return whether somebody has logged in with a browser since this process began."""
        with self._lock:
            return token in self._devices

    def key_of_tries(self, address: str, device: str | None) -> str:
        """Return what attempts to log in are counted by.

        A browser that has logged in before counts by itself: nobody else at its address, which may
        be that of a proxy, can use up its attempts.
        """
        return f"device {device}" if self.knows_device(device) else _site(address)


def _keep(kept: dict[str, Kept], token: str, value: Kept) -> None:
    """Add a token; if there are too many, the oldest goes."""
    while len(kept) >= _KEPT_LOGINS:
        del kept[next(iter(kept))]
    kept[token] = value


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


_PROXY_HEADERS = re.compile(
    r"(x-)?forwarded.*|via|cdn-loop|(.*-)?client-ip|(.*-)?(real|connecting)-ip"
    r"|x-(original|envoy|remote|scheme|proxy|amzn|azure|appengine|vercel|nf)\b.*|(cf|fly|fastly)-.*"
)
"""What proxies, and clouds before them, say of those who ask."""


def is_direct(request: HTTPConnection) -> bool:
    """Return whether a request comes straight from a process of this machine.

    What comes through a proxy on this machine does not, as far as it can be told, nor does what
    the page of another site asks for, also if its name leads to 127.0.0.1 (DNS rebinding).
    """
    # nginx, unless told otherwise, speaks HTTP/1.0 and says nothing of itself. No browser does so.
    if request.scope.get("http_version") == "1.0":
        return False
    is_proxied = any(map(_PROXY_HEADERS.fullmatch, request.headers))
    peer = request.client.host if request.client else ""
    is_here = _is_loopback(peer) and _is_loopback(_host_name(request))
    return is_here and not is_proxied and not _is_asked_for_elsewhere(request)


def _is_asked_for_elsewhere(request: HTTPConnection) -> bool:
    """Return whether a page that is not of this machine asks; a link from there is no question."""
    headers = request.headers
    is_cross_site = headers.get("sec-fetch-site") == "cross-site"
    if is_cross_site and headers.get("sec-fetch-mode") == "navigate":
        return False
    pages = [*headers.getlist("origin"), *headers.getlist("referer")]
    return is_cross_site or not all(_is_loopback(_host_of(page)) for page in pages)


def _host_of(url: str) -> str:
    with suppress(ValueError):
        return urlsplit(url).hostname or ""
    return ""


def _host_name(request: HTTPConnection) -> str:
    hosts = request.headers.getlist("host")
    return _host_of(f"//{hosts[0]}") if len(hosts) == 1 else ""


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or bool(address and address.is_loopback)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    with suppress(ValueError):
        address = ipaddress.ip_address(text)
        return getattr(address, "ipv4_mapped", None) or address
    return None


def _site(address: str) -> str:
    """Return whose address it is: of IPv6, who has one has all that begin alike."""
    found = _address(address)
    if found is None or found.version == 4:
        return str(found or address)
    return str(ipaddress.ip_network((int(found), _SITE_BITS), strict=False))


def is_same_origin(request: HTTPConnection) -> bool:
    """Return whether a form comes from a page of ours, as the browser tells.

    The scheme is not compared: a proxy may speak TLS in our place.
    """
    origins, hosts = request.headers.getlist("origin"), request.headers.getlist("host")
    if len(origins) != 1 or len(hosts) != 1:
        return False
    with suppress(ValueError):
        origin = urlsplit(origins[0])
        return origin.scheme in ("http", "https") and origin.netloc == hosts[0]
    return False
