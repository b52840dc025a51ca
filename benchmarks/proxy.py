"""Owns a proxy that delays what passes to the embedded servers and back, as a network would.

It is a process of its own, so that it takes no time from what is measured:
``python -m benchmarks.proxy DELAY_MS LISTEN_FOLDER SERVER_FOLDER``.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.environment import child_env
from statesync.embedded.child import Child
from statesync.embedded.servers import Servers

__all__ = ["in_front_of"]

_SOCKETS = ("valkey.sock", ".s.PGSQL.5432")


@contextlib.contextmanager
def in_front_of(servers: Servers, delay_ms: float) -> Iterator[Servers]:
    """Give the same servers, so far away that a round trip takes ``delay_ms`` longer."""
    with tempfile.TemporaryDirectory(prefix="statesync-", dir="/tmp") as folder:
        words = [str(delay_ms), folder, str(servers.sockets)]
        command = [sys.executable, "-m", __name__, *words]
        log = servers.folder / "proxy.log"
        child = Child("proxy", command, log, env=child_env(), cwd=servers.folder)
        child.start()
        try:
            child.wait_ready(lambda: all((Path(folder) / name).exists() for name in _SOCKETS))
            yield replace(servers, sockets=Path(folder))
        finally:
            child.stop()


async def _forward(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float
) -> None:
    """Forward each piece after the delay: it costs time, never bandwidth."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            loop.call_later(seconds, writer.write, data)
    loop.call_later(seconds, writer.close)


async def _serve(socket: Path, server_socket: Path, seconds: float) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(str(server_socket))
        await asyncio.gather(
            _forward(reader, server_writer, seconds), _forward(server_reader, writer, seconds)
        )

    server = await asyncio.start_unix_server(accept, str(socket))
    await server.serve_forever()


async def _main(delay_ms: str, listen_folder: str, server_folder: str) -> None:
    seconds = float(delay_ms) / 2000  # half of it each way
    await asyncio.gather(
        *(
            _serve(Path(listen_folder) / name, Path(server_folder) / name, seconds)
            for name in _SOCKETS
        )
    )


def _loop() -> asyncio.AbstractEventLoop:
    # epoll, the default, rounds every wait up to a whole millisecond; select does not.
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_loop) as runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(_main(*sys.argv[1:]))
