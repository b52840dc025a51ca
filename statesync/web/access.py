"""Owns who may read the operator's page and who may act on it: users, logins, direct requests.

A login is a random token in a cookie, and lives in this process alone: a restart ends it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import secrets
import threading
import time
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from statesync.settings import Settings

__all__ = ["COOKIE", "LOGIN_SECONDS", "Access", "Login", "Role", "is_direct", "is_same_origin"]

COOKIE = "statesync_login"
LOGIN_SECONDS = 8 * 3600
"""A login ends after a shift, whether the page is used or not."""
_KEPT_LOGINS = 1000
"""If there are more, the oldest ends."""
_TRIES = 10
"""So many passwords may be tried at once from one address, and then one in each rest."""
_REST_SECONDS = 6.0
_KEPT_ADDRESSES = 10_000


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
        self._tries: dict[str, tuple[float, float]] = {}
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
            while len(self._logins) >= _KEPT_LOGINS:
                del self._logins[next(iter(self._logins))]
            self._logins[token] = Login(own_name, role, csrf_token, ends_at)
        return token

    def log_out(self, token: str | None) -> None:
        """End a login."""
        with self._lock:
            self._logins.pop(token or "", None)

    def may_try(self, address: str) -> bool:
        """Count an attempt to log in from an address; False if there were too many."""
        now = time.monotonic()
        with self._lock:
            tried, at = self._tries.pop(address, (0.0, now))
            tried = max(0.0, tried - (now - at) / _REST_SECONDS)
            is_one_more = tried + 1 <= _TRIES
            while len(self._tries) >= _KEPT_ADDRESSES:
                del self._tries[next(iter(self._tries))]
            self._tries[address] = (tried + is_one_more, now)
        return is_one_more

    def rest_seconds(self, address: str) -> int:
        """Return after how many seconds an address may try again."""
        with self._lock:
            tried, at = self._tries.get(address, (0.0, 0.0))
        waited = time.monotonic() - at
        return max(1, math.ceil((tried + 1 - _TRIES) * _REST_SECONDS - waited))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


_PROXY_HEADERS = ("forwarded", "via", "x-real-ip", "x-client-ip", "cf-connecting-ip")


def is_direct(request: HTTPConnection) -> bool:
    """Return whether a request comes straight from a process of this machine.

    What comes through a proxy on this machine does not, nor does the page of another site whose
    name leads to 127.0.0.1 (DNS rebinding).
    """
    # nginx, unless told otherwise, speaks HTTP/1.0 and says nothing of itself. No browser does so.
    if request.scope.get("http_version") == "1.0":
        return False
    is_proxied = any(
        name in _PROXY_HEADERS or name.startswith("x-forwarded") for name in request.headers
    )
    peer = request.client.host if request.client else ""
    return _is_loopback(peer) and not is_proxied and _is_loopback(_host_name(request))


def _host_name(request: HTTPConnection) -> str:
    hosts = request.headers.getlist("host")
    with suppress(ValueError):
        if len(hosts) == 1:
            return urlsplit(f"//{hosts[0]}").hostname or ""
    return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback
    return False


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
