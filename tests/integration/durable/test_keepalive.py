"""A connection over TCP whose other end is gone is over soon: the options that say so are set."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
from sqlalchemy import make_url

from statesync import Settings
from statesync.durable import database

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the options are those of Linux")

OPTIONS = {
    "SO_KEEPALIVE": (socket.SOL_SOCKET, 1),
    "TCP_KEEPIDLE": (socket.IPPROTO_TCP, 10),
    "TCP_KEEPINTVL": (socket.IPPROTO_TCP, 5),
    "TCP_KEEPCNT": (socket.IPPROTO_TCP, 3),
    "TCP_USER_TIMEOUT": (socket.IPPROTO_TCP, 15_000),
}


@pytest.fixture
def over_tcp(settings: Settings) -> Iterator[Settings]:
    """The test's settings, with a way over TCP to the server's socket file."""
    url = make_url(settings.database_url)
    path = f"{url.query['host']}/.s.PGSQL.5432"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener, path), daemon=True).start()
        port = listener.getsockname()[1]
        relayed = url.set(host="127.0.0.1", port=port, query={})
        yield replace(settings, database_url=relayed.render_as_string(hide_password=False))


def accept(listener: socket.socket, path: str) -> None:
    """Join each connection with one to the socket file."""
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            server = socket.socket(socket.AF_UNIX)
            server.connect(path)
            for ends in ((client, server), (server, client)):
                threading.Thread(target=pass_on, args=ends, daemon=True).start()


def pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def test_options_of_a_connection(over_tcp: Settings) -> None:
    engine = database.connect(over_tcp)
    with engine.connect() as connection:
        driver_connection = connection.connection.dbapi_connection
        assert driver_connection
        with socket.socket(fileno=os.dup(driver_connection.fileno())) as found:
            options = {
                name: found.getsockopt(level, getattr(socket, name))
                for name, (level, _) in OPTIONS.items()
            }
    engine.dispose()
    assert options == {name: expected for name, (_, expected) in OPTIONS.items()}
