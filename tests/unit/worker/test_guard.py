"""Which paths of Flower are open, wherever a proxy has put it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import Application, RequestHandler

from statesync.worker.guard import guarded


class Plain(Application):
    """What Flower's application has, without Flower."""

    options = SimpleNamespace(url_prefix=None, basic_auth=["bob:secret"])

    def __init__(self, **settings: Any) -> None:
        super().__init__([(r".*", RequestHandler)], **settings)


@pytest.mark.parametrize(
    ("prefix", "path", "is_open"),
    [
        (None, "/metrics", True),
        (None, "/metrics/", False),
        (None, "/flower/metrics", False),
        ("flower", "/flower/metrics", True),
        ("/a/b/", "/a/b/healthcheck?x=/workers", True),
        ("flower", "/metrics", False),
        ("flower", "/flower/workers?/metrics", False),
        (None, "http://h/metrics", False),
    ],
)
def test_open_paths_are_below_the_prefix(
    prefix: str | None, path: str, is_open: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Plain.options, "url_prefix", prefix)
    line = RequestStartLine("GET", path, "HTTP/1.1")
    request = HTTPServerRequest(start_line=line, headers=HTTPHeaders({"Host": "h"}))
    found = guarded(Plain, "")().find_handler(request)
    assert (found.handler_class is RequestHandler) is is_open
