"""Network namespaces: processes of their own network, which can be cut off from the servers.

A gate on the address of each namespace's host passes connections on to the sockets of the embedded
servers. Nothing of it is reached from outside of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.acceptance.world import Proxy

__all__ = ["Namespace", "namespace", "unavailable"]

_NET = "10.231.77"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def unavailable() -> str:
    """Return why there are no namespaces here; "" if there are."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    if not shutil.which("ip"):
        return "there is no `ip` (package iproute2)"
    try:
        _ip("link", "add", "statesync-h", "type", "veth", "peer", "name", "statesync-g")
        _ip("link", "del", "statesync-h")
    except subprocess.CalledProcessError as error:
        return f"no network namespaces: {error.stderr.strip()}"
    return ""


class _Gate(Proxy):
    """Passes connections on to the sockets of the servers, from an address of the host."""

    def __init__(self, address: str, sockets: Path) -> None:
        self.address = address
        self.ports: dict[str, int] = {}
        super().__init__(sockets, sockets)

    async def _serve(self, accept: Any, name: str) -> asyncio.Server:
        server = await asyncio.start_server(accept, self.address, 0)
        self.ports[name] = server.sockets[0].getsockname()[1]
        return server


class Namespace:
    """A network of its own, with one way to the servers."""

    def __init__(self, number: int, sockets: Path) -> None:
        self.name = f"statesync-{os.getpid()}-{number}"
        self._host, self._guest = f"ss{os.getpid() % 100_000}h{number}", "gate"
        self._address = f"{_NET}.{4 * number + 1}"
        self._guest_address = f"{_NET}.{4 * number + 2}"
        self._sockets = sockets
        self._gate: _Gate | None = None

    @property
    def prefix(self) -> list[str]:
        """What comes before a command that is to run in it."""
        return ["ip", "netns", "exec", self.name]

    def urls(self) -> dict[str, str]:
        """Return the settings with which a worker in it reaches the servers."""
        assert self._gate
        redis, postgresql = (self._gate.ports[name] for name in ("valkey.sock", ".s.PGSQL.5432"))
        return {
            "redis_url": f"redis://{self._address}:{redis}/0",
            "database_url": f"postgresql://postgres@{self._address}:{postgresql}/postgres",
        }

    def cut_off(self) -> None:
        """Let no packet through, and tell nobody."""
        _ip("link", "set", self._host, "down")

    def let_in(self) -> None:
        """Let packets through again."""
        _ip("link", "set", self._host, "up")

    def open(self) -> None:
        """Make it, with its gate."""
        _ip("netns", "add", self.name)
        _ip("link", "add", self._host, "type", "veth", "peer", "name", self._guest)
        _ip("link", "set", self._guest, "netns", self.name)
        _ip("addr", "add", f"{self._address}/30", "dev", self._host)
        _ip("link", "set", self._host, "up")
        inside = ("-n", self.name)
        _ip(*inside, "addr", "add", f"{self._guest_address}/30", "dev", self._guest)
        _ip(*inside, "link", "set", self._guest, "up")
        _ip(*inside, "link", "set", "lo", "up")
        self._gate = _Gate(self._address, self._sockets)

    def close(self) -> None:
        """End the gate and delete it."""
        if self._gate:
            self._gate.close()
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "del", self._host)
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("netns", "del", self.name)


@contextlib.contextmanager
def namespace(number: int, sockets: Path) -> Iterator[Namespace]:
    """Run a namespace with a gate to the servers behind ``sockets``."""
    made = Namespace(number, sockets)
    try:
        made.open()
        yield made
    finally:
        made.close()
