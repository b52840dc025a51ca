"""Owns those who visit the operator's page in tests: from here or elsewhere, logged in or not."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import unescape
from typing import Any

from starlette.applications import Starlette
from starlette.testclient import TestClient

__all__ = ["HERE", "OPERATOR", "VIEWER", "Visitor"]

HERE = "http://127.0.0.1:9180"
VIEWER = ("eve", "a viewer's password")
OPERATOR = ("olga", "an operator's password")


@dataclass
class Visitor:
    """A browser that fills in forms; ``peer`` is its address, ``base`` what it calls the server."""

    app: Starlette
    peer: str = "127.0.0.1"
    base: str = HERE
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client = TestClient(
            self.app,
            base_url=self.base,
            client=(self.peer, 50_000),
            follow_redirects=False,
            headers=self.headers,
        )

    def get(self, path: str) -> Any:
        """Load a page."""
        return self.client.get(path)

    def text(self, path: str) -> str:
        """Return a page that is there, without its tags."""
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        return unescape(" ".join(re.sub(r"<[^>]*>", " ", answer.text).split()))

    def post(self, path: str, origin: str | None = "", **form: str) -> Any:
        """Send a form; its origin is this server unless another one is given, or None."""
        headers = {} if origin is None else {"Origin": origin or self.base}
        return self.client.post(path, data=form, headers=headers)

    def log_in(self, name: str, password: str, **form: str) -> Any:
        """Log in."""
        return self.post("/login", name=name, password=password, **form)

    def csrf_token(self, path: str = "/quarantine") -> str:
        """Return the token in the forms of a page."""
        found = re.search(r'name="csrf_token" value="([^"]+)"', self.get(path).text)
        assert found
        return found[1]

    def act(self, path: str, **form: str) -> Any:
        """Send a form with its token."""
        return self.post(path, csrf_token=self.csrf_token(), **form)
