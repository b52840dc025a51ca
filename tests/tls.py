"""Owns TLS before the servers of the tests: a throwaway authority, and an end of TLS for each.

The servers from wheels have none built in. In production it is theirs, or that of such a proxy.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

__all__ = ["Authority", "encrypted"]

_SSL_REQUEST = bytes.fromhex("0000000804d2162f")
"""What a client of PostgreSQL sends before TLS; the server answers S."""

Dial = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class Authority:
    """Signs the certificate of a server on 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        if not shutil.which("openssl"):
            pytest.skip("openssl is not installed")
        self.certificate = folder / "ca.pem"
        self._folder = folder
        self._make("ca", "/CN=throwaway authority")
        signed_by = ["-CA", str(self.certificate), "-CAkey", str(folder / "ca.key")]
        names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
        self._make("server", "/CN=localhost", *signed_by, *names)

    def server_context(self) -> ssl.SSLContext:
        """Return what a server shows to its clients."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / "server.pem", self._folder / "server.key")
        return context

    def _make(self, name: str, subject: str, *more: str) -> None:
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
        files = ["-keyout", str(self._folder / f"{name}.key"), "-out"]
        command = ["openssl", "req", "-x509", "-days", "2", *curve, *files]
        command += [str(self._folder / f"{name}.pem"), "-subj", subject, *more]
        subprocess.run(command, check=True, capture_output=True)


@contextmanager
def encrypted(authority: Authority, dial: Dial, *, postgresql: bool = False) -> Iterator[int]:
    """Run an end of TLS before the server that ``dial`` connects to; yields its port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    context = authority.server_context()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            if postgresql:
                assert await reader.readexactly(8) == _SSL_REQUEST
                writer.write(b"S")
                await writer.start_tls(context)
            server_reader, server_writer = await dial()
            await asyncio.gather(_pass(reader, server_writer), _pass(server_reader, writer))
        writer.transport.abort()

    async def listen() -> asyncio.Server:
        at_once = None if postgresql else context
        return await asyncio.start_server(accept, "127.0.0.1", 0, ssl=at_once)

    server = asyncio.run_coroutine_threadsafe(listen(), loop).result(10)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
