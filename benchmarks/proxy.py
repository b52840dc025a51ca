"""Owns the network that is not there: a proxy that delays what passes to the servers and back.

A process of its own, so that it takes no time from whoever is measured:
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

from statesync.embedded.servers import Child, Servers

__all__ = ["in_front_of"]

_SOCKETS = ("valkey.sock", ".s.PGSQL.5432")


@contextlib.contextmanager
def in_front_of(servers: Servers, delay_ms: float) -> Iterator[Servers]:
    """Give the same servers, so far away that a round trip takes ``delay_ms`` longer."""
    with tempfile.TemporaryDirectory(prefix="statesync-", dir="/tmp") as folder:
        words = [str(delay_ms), folder, str(servers.sockets)]
        log = servers.folder / "proxy.log"
        child = Child("proxy", [sys.executable, "-m", __name__, *words], log)
        child.start()
        try:
            child.wait_ready(lambda: all((Path(folder) / name).exists() for name in _SOCKETS))
            yield replace(servers, sockets=Path(folder))
        finally:
            child.stop()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """Pass on what comes, each piece after the delay: it costs time, never bandwidth."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            loop.call_later(seconds, writer.write, data)
    loop.call_later(seconds, writer.close)


async def _serve(listen: Path, there: Path, seconds: float) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(str(there))
        await asyncio.gather(_pass(reader, to_server, seconds), _pass(from_server, writer, seconds))

    server = await asyncio.start_unix_server(accept, str(listen))
    await server.serve_forever()


async def _main(delay_ms: str, listen: str, there: str) -> None:
    seconds = float(delay_ms) / 2000  # half of it each way
    await asyncio.gather(
        *(_serve(Path(listen) / name, Path(there) / name, seconds) for name in _SOCKETS)
    )


def _loop() -> asyncio.AbstractEventLoop:
    # epoll, the default, rounds every wait up to a whole millisecond; select does not.
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_loop) as runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(_main(*sys.argv[1:]))
