"""Owns the URL of a Redis behind Sentinels, which know the address of its master."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NoReturn
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

__all__ = ["SENTINEL_URL_IS", "SentinelUrl", "is_sentinel", "split_url"]

SENTINEL_URL_IS = "sentinel://[user:password@]host:port,host:port/MASTER/db"

_PORT = 26379
_NAME = re.compile(r"(?![0-9]+$)[A-Za-z0-9._-]+")
"""A number alone is a database, whose master is missing."""
_LOGIN_OF_SENTINELS = {"sentinel_username": "username", "sentinel_password": "password"}


def split_url(url: str) -> SplitResult:
    """Split a URL as ``urlsplit``, also if one of several hosts is an IPv6 address.

    Newer Pythons refuse its brackets anywhere but at the beginning of the host. Raises ValueError.
    """
    if "," not in url:
        return urlsplit(url)
    parts = urlsplit(url.translate(_HIDDEN))
    return SplitResult(*(part.translate(_SHOWN) for part in parts))


_HIDDEN = str.maketrans("[]", "\ue000\ue001")
_SHOWN = str.maketrans("\ue000\ue001", "[]")


@dataclass(frozen=True, kw_only=True)
class SentinelUrl:
    """A database of a master, by the name that its Sentinels have for it."""

    login: str
    """``user:password@`` of the master and its replicas, as in the URL, or empty."""
    hosts: tuple[tuple[str, int], ...]
    """The Sentinels."""
    master: str
    db: int
    query: dict[str, str]
    """Options of the connections to the master."""
    sentinel_login: dict[str, str]
    """What the Sentinels themselves want to know; empty if they ask for no password."""

    @classmethod
    def parse(cls, url: str) -> SentinelUrl:
        """Return what a URL says. Raises ValueError, which shows a right one."""
        parts = split_url(url)
        login, at, hosts = parts.netloc.rpartition("@")
        master, _, db = parts.path.removeprefix("/").partition("/")
        if not (hosts and _NAME.fullmatch(master) and re.fullmatch(r"[0-9]*", db)):
            _refuse()
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        sentinel_login = {
            name: query.pop(key) for key, name in _LOGIN_OF_SENTINELS.items() if key in query
        }
        return cls(
            login=login + at,
            hosts=tuple(map(_host, hosts.split(","))),
            master=master,
            db=int(db or 0),
            query=query,
            sentinel_login=sentinel_login,
        )

    def with_db(self, db: int) -> SentinelUrl:
        """Return the URL of another database of the same master."""
        return replace(self, db=db)

    def url_at(self, host: str, port: int) -> str:
        """Return the URL of the database if its master is at this address."""
        tail = f"?{urlencode(self.query)}" if self.query else ""
        return f"redis://{self.login}{_spelled(host, port)}/{self.db}{tail}"

    @property
    def spelled_hosts(self) -> list[str]:
        """The Sentinels as a URL has them."""
        return [_spelled(*host) for host in self.hosts]

    def __str__(self) -> str:
        keys = {name: key for key, name in _LOGIN_OF_SENTINELS.items()}
        query = self.query | {keys[name]: value for name, value in self.sentinel_login.items()}
        tail = f"?{urlencode(query)}" if query else ""
        hosts = ",".join(self.spelled_hosts)
        return f"sentinel://{self.login}{hosts}/{self.master}/{self.db}{tail}"


def is_sentinel(url: str) -> bool:
    """Return whether a URL names Sentinels."""
    return url.lower().startswith("sentinel://")


def _host(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        _refuse()
    return parts.hostname, parts.port or _PORT


def _spelled(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refuse() -> NoReturn:
    raise ValueError(SENTINEL_URL_IS)
