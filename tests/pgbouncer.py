"""Owns a PgBouncer in transaction mode before the PostgreSQL of the tests, if it is installed.

It listens on a socket file in a folder of its own. Few connections serve all clients, so that
whoever relies on a session meets that of another client.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from statesync.embedded.child import Child

__all__ = ["PgBouncer", "pgbouncer"]

_PORT = 6432
_POOL = 4

_INI = """
[databases]
{databases} = host={server}

[pgbouncer]
listen_addr =
listen_port = {port}
unix_socket_dir = {folder}
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {pool}
server_login_retry = 1
ignore_startup_parameters = {ignored}
"""


def _program() -> str:
    found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if not found:
        pytest.skip("pgbouncer is not installed")
    return found


class PgBouncer:
    """A PgBouncer that can be killed and started again."""

    def __init__(self, folder: Path, program: str, user: str | None) -> None:
        command = [program, str(folder / "pgbouncer.ini")]
        self.child = Child("PgBouncer", command, folder / "log", cwd=folder, user=user)
        self.folder = folder
        self._socket = folder / f".s.PGSQL.{_PORT}"

    def url(self, name: str, user: str = "postgres") -> str:
        """Return the URL of a database behind it."""
        return f"postgresql+psycopg2://{user}@/{name}?host={self.folder}&port={_PORT}"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self._socket.unlink(missing_ok=True)
        (self.folder / "pid").unlink(missing_ok=True)
        self.child.start()
        self.child.wait_ready(self._is_ready)

    def _is_ready(self) -> bool:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self._socket))
            return True
        return False


@contextmanager
def pgbouncer(server: Path, *, databases: str = "*", ignored: str = "") -> Iterator[PgBouncer]:
    """Run PgBouncer before the server in the folder ``server``; skip the test if there is none.

    ``databases`` names one that it serves, or all; ``ignored`` are the start-up parameters that it
    takes and drops.
    """
    program = _program()
    folder = Path(tempfile.mkdtemp(prefix="statesync-pgbouncer-", dir="/tmp"))
    ini, users = folder / "pgbouncer.ini", folder / "users"
    user = "nobody" if os.geteuid() == 0 else None  # it refuses to run as root
    places = {"server": server, "folder": folder, "port": _PORT, "pool": _POOL}
    ini.write_text(_INI.format(**places, databases=databases, ignored=ignored))
    users.write_text('"postgres" ""\n')
    if user:
        for made in (folder, ini, users):
            shutil.chown(made, user)
    running = PgBouncer(folder, program, user)
    running.start()
    try:
        yield running
    finally:
        running.child.stop()
        shutil.rmtree(folder, ignore_errors=True)
