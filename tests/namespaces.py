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
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Namespace", "namespace", "unavailable"]

_NET = "10.231.77"
_SOCKETS = {"redis": "valkey.sock", "postgresql": ".s.PGSQL.5432"}


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


class Namespace:
    """A network of its own, with one way to the servers."""

    def __init__(self, number: int, sockets: Path) -> None:
        self.name = f"statesync-{os.getpid()}-{number}"
        self._host, self._guest = f"ss{os.getpid() % 100_000}h{number}", "gate"
        self._address = f"{_NET}.{4 * number + 1}"
        self._guest_address = f"{_NET}.{4 * number + 2}"
        self._sockets = sockets
        self.ports: dict[str, int] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def prefix(self) -> list[str]:
        """What comes before a command that is to run in it."""
        return ["ip", "netns", "exec", self.name]

    def urls(self) -> dict[str, str]:
        """Return the settings with which a worker in it reaches the servers."""
        redis = f"redis://{self._address}:{self.ports['redis']}"
        return {
            "redis_url": f"{redis}/0",
            "database_url": f"postgresql://postgres@{self._address}:{self.ports['postgresql']}"
            "/postgres",
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
        self._thread.start()
        for name, socket in _SOCKETS.items():
            listening = asyncio.run_coroutine_threadsafe(self._listen(socket), self._loop)
            self.ports[name] = listening.result(10)

    def close(self) -> None:
        """End the gate and delete it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "del", self._host)
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("netns", "del", self.name)

    async def _listen(self, socket: str) -> int:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                server = await asyncio.open_unix_connection(str(self._sockets / socket))
            except OSError:
                writer.transport.abort()
                return
            await asyncio.gather(_pass(reader, server[1]), _pass(server[0], writer))

        server = await asyncio.start_server(accept, self._address, 0)
        port: int = server.sockets[0].getsockname()[1]
        return port


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def namespace(number: int, sockets: Path) -> Iterator[Namespace]:
    """Run a namespace with a gate to the servers behind ``sockets``."""
    made = Namespace(number, sockets)
    try:
        made.open()
        yield made
    finally:
        made.close()
