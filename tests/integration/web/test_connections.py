"""Connections of strangers take neither the probes away nor the disk of the log."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import uvicorn
from sqlalchemy import Engine
from starlette.applications import Starlette

from statesync.web import connections, server
from statesync.web.connections import Seldom, raise_limit

BEGUN = b"GET /live HTTP/1.1\r\nHost: evil\r\nX: a"
WHOLE = b"GET /live HTTP/1.1\r\nHost: evil\r\n\r\n"
FORM = b"POST /login HTTP/1.1\r\nHost: a\r\nOrigin: http://a\r\nContent-Length: 9\r\n\r\na"
OTHERS = ("/live", "/metrics", "/static/style.css", "/", "/login", "/quarantine")
Connect = Callable[[bytes], socket.socket]


@pytest.fixture
def connect(app: Starlette) -> Iterator[Connect]:
    """Connect to the application in a server, and send something."""
    listening = server.listen("127.0.0.1", 0)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    running = uvicorn.Server(server.configuration(app))
    thread = threading.Thread(target=running.run, args=([listening],))
    with ExitStack() as stack:

        def make(sent: bytes) -> socket.socket:
            made = stack.enter_context(socket.socket())
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            made.settimeout(10)
            made.connect(listening.getsockname())
            made.sendall(sent)
            return made

        thread.start()
        try:
            yield make
        finally:
            stack.close()
            running.should_exit = True
            thread.join()


def is_ended(connection: socket.socket) -> bool:
    """Return whether the other end ends a connection, once it does something."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def answer(connection: socket.socket) -> bytes:
    """Return the beginning of an answer."""
    return connection.recv(12)


@pytest.mark.parametrize("sent", [b"", BEGUN, FORM])
def test_a_request_that_does_not_end_is_ended(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connections, "_REQUEST_SECONDS", 0.1)
    assert is_ended(connect(sent))


def test_the_second_request_has_to_end_too(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_REQUEST_SECONDS", 0.5)
    connection = connect(WHOLE)
    whole = b""
    while not whole.endswith(b"live\n"):
        whole += connection.recv(1000)
    connection.sendall(BEGUN)
    assert is_ended(connection)


def test_who_does_not_read_the_answer_is_ended(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_REQUEST_SECONDS", 1000)
    monkeypatch.setattr(connections, "_EXCHANGE_SECONDS", 0.2)
    connection = connect(b"")
    with pytest.raises(ConnectionError):
        while True:
            connection.sendall(WHOLE.replace(b"/live", b"/static/style.css") * 1000)


def test_too_many_connections_end_the_oldest_and_not_a_probe(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_most_connections", lambda: 3)
    monkeypatch.setattr(connections, "_REQUEST_SECONDS", 1000)
    held = [connect(BEGUN) for _ in range(6)]
    assert answer(connect(WHOLE)) == b"HTTP/1.1 200"
    assert all(is_ended(connection) for connection in held[:4])


def test_half_of_the_descriptors_are_for_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"limits": (1024, 524_288)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: given["limits"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: given.update(limits=limits))
    assert connections._most_connections() == 448
    raise_limit()
    assert given["limits"] == (4096, 524_288)
    assert connections._most_connections() == 500
    given["limits"] = (200, 200)
    raise_limit()
    assert (given["limits"], connections._most_connections()) == ((200, 200), 36)


def test_what_is_no_request_writes_no_line(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    upgrade = b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert answer(connect(b"nonsense\r\n\r\n")) == b"HTTP/1.1 400"
    assert answer(connect(WHOLE.replace(b"\r\n\r\n", b"\r\n" + upgrade))) == b"HTTP/1.1 200"
    assert caplog.text == ""


def test_a_lack_of_descriptors_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("asyncio")
    seldom = Seldom()
    logger.addFilter(seldom)
    loop = asyncio.new_event_loop()
    lack = {
        "message": "socket.accept() out of system resource",
        "exception": OSError(errno.EMFILE, "Too many open files"),
    }
    try:
        for number in range(3):
            loop.call_exception_handler(lack)
            loop.call_exception_handler({"message": f"something else {number}"})
    finally:
        logger.removeFilter(seldom)
        loop.close()
    assert caplog.text.count("out of system resource") == 1
    assert caplog.text.count("something else") == 3


def test_a_frozen_postgresql_holds_up_nothing_else(connect: Connect, engine: Engine) -> None:
    asked = [f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for path in OTHERS]
    with engine.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE state_conflicts")
        waiting = [
            connect(b"GET /conflicts HTTP/1.1\r\nHost: localhost\r\n\r\n") for _ in range(41)
        ]
        assert {answer(connect(request)) for request in asked} == {b"HTTP/1.1 200"}
        assert not select.select(waiting, [], [], 0)[0], "they wait until now"
    assert {answer(connection) for connection in waiting} == {b"HTTP/1.1 200"}
