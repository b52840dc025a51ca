"""A proxy that cuts a connection when Redis has run the command, before its reply comes back."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """Passes on what comes in, until it is told to cut the next script's reply."""

    def __init__(self, redis_path: str) -> None:
        self.redis_path = redis_path
        self.before_cut: Callable[[], object] | None = None
        """If set, the next script's reply is held back; then this is called, once, and cut off."""
        self.clients: list[socket.socket] = []
        self.muted: set[socket.socket] = set()
        """What comes in on these is swallowed, as on a connection that a firewall has forgotten."""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}/0"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        """Serve each connection in a thread of its own."""
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.clients.append(client)
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def close_all(self) -> None:
        """Close every connection, as a server does that ends."""
        for client in self.clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def serve(self, client: socket.socket) -> None:
        """Pass requests and replies on in turn: redis-py never sends before it has read."""
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            server.connect(self.redis_path)
            while request := client.recv(1 << 20):
                if client in self.muted:
                    continue
                server.sendall(request)
                reply = server.recv(1 << 20)
                if self.before_cut and b"EVALSHA" in request and b"NOSCRIPT" not in reply:
                    call, self.before_cut = self.before_cut, None
                    call()
                    return
                client.sendall(reply)


@contextmanager
def cutting_proxy(redis_path: str) -> Iterator[Proxy]:
    """Give a proxy before the Redis at a socket file."""
    proxy = Proxy(redis_path)
    try:
        yield proxy
    finally:
        proxy.listener.close()
