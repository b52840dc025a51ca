"""Owns a running `statesync serve`, and how tests read what it answers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import HTTPError, URLError

from statesync import Settings
from tests.acceptance.command_line import STATESYNC
from tests.acceptance.conftest import wait_until
from tests.integration.web.scrape import Scrape
from tests.ports import free_port

__all__ = ["Serve", "serving", "up"]


class Serve:
    """A running process, and what it answers."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def get(self, path: str) -> tuple[int, str]:
        """Return the status and the text of a page; status 0 if nobody listens yet."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()
        except URLError:
            assert self.process.poll() is None
            return 0, ""

    def status_of(self, request: str) -> int:
        """Return the status of the answer to a request as it goes over the wire."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(request.replace("\n", "\r\n").encode())
            return int(connection.makefile().readline().split()[1])

    def scrape(self) -> Scrape:
        """Return the metrics."""
        status, text = self.get("/metrics")
        assert status == 200
        return Scrape(text)

    def end(self, number: signal.Signals) -> int:
        """Tell it to end, and return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(30)


@contextmanager
def serving(settings: Settings, *options: str) -> Iterator[Serve]:
    """Run the process until the end of a block, once it listens."""
    port = free_port()
    process = subprocess.Popen(
        [*STATESYNC, "serve", "--port", str(port), *options],
        env=os.environ | settings.to_env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        serve = Serve(process, f"http://127.0.0.1:{port}")
        try:
            wait_until(lambda: serve.get("/live")[0] == 200)
            yield serve
        finally:
            process.kill()


def up(serve: Serve, realm: str = "") -> dict[str, float]:
    """Return which servers answer."""
    return serve.scrape().by("up", "server", realm)
