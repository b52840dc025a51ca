"""The embedded servers: data that survives, and one run on one folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
import redis

from statesync.embedded.servers import Servers, servers
from statesync.errors import EmbeddedServerError
from statesync.hot.store import HotStore
from tests.conftest import FullCore


@pytest.fixture
def folder() -> Iterator[Path]:
    """A new folder; pytest's are closed to the user that the servers run as."""
    parent = Path(tempfile.mkdtemp(prefix="statesync-test-"))
    yield parent / "data"
    shutil.rmtree(parent, ignore_errors=True)


@pytest.fixture(autouse=True)
def reachable(folder: Path) -> None:
    """Let the servers' user through to the folder."""
    folder.parent.chmod(0o755)


def query(running: Servers, *statements: str) -> object:
    """Run statements; returns the first row of the last one."""
    connection = psycopg2.connect(host=str(running.sockets), user="postgres", dbname="postgres")
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchone() if cursor.description else None
    finally:
        connection.close()


def write(running: Servers) -> None:
    query(running, "CREATE TABLE kept (value int)", "INSERT INTO kept VALUES (42)")
    with redis.Redis.from_url(running.redis_url()) as client:
        client.set("kept", 42)


def check(running: Servers) -> None:
    assert query(running, "SELECT value FROM kept") == (42,)
    with redis.Redis.from_url(running.redis_url()) as client:
        assert client.get("kept") == b"42"


def processes(running: Servers) -> list[psutil.Process]:
    children = [running.postgres.process, running.valkey.process]
    roots = [psutil.Process(child.pid) for child in children if child]
    return roots + [child for root in roots for child in root.children(recursive=True)]


def internet_sockets(process: psutil.Process) -> list[object]:
    """PostgreSQL's processes for a connection come and go: one that has ended has no sockets."""
    try:
        return list(process.net_connections("inet"))
    except psutil.NoSuchProcess:
        return []
    except psutil.AccessDenied:  # so it is with a zombie, for ordinary users
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            raise
        return []


def test_servers_run_and_do_not_listen_on_any_network(embedded: Servers) -> None:
    assert embedded.postgres_ready
    assert embedded.valkey_ready
    assert query(embedded, "SHOW listen_addresses") == ("",)
    assert processes(embedded)[0].uids().real != 0
    assert not any(internet_sockets(process) for process in processes(embedded))
    assert embedded.folder.stat().st_mode & 0o077 == 0


def test_core_stays_in_one_piece_of_memory(hot: HotStore, raw: Any, full_core: FullCore) -> None:
    hot.create(1, **full_core(1))
    assert max(map(len, raw.hvals(hot.keys.core(1)))) > 64, "longer than Redis' default takes"
    assert raw.object("encoding", hot.keys.core(1)) == b"listpack"


def test_an_ended_process_has_no_sockets() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        process = psutil.Process(ended.pid)
    assert internet_sockets(process) == []


def test_data_survives_a_restart_and_a_second_run_is_refused(folder: Path) -> None:
    with servers(folder) as running:
        write(running)
        started = processes(running)
        with pytest.raises(EmbeddedServerError, match="another run is using"), servers(folder):
            pass
        check(running)
    assert psutil.wait_procs(started, timeout=30)[1] == []
    with servers(folder) as running:
        check(running)


OWNER = """
import signal, sys
from pathlib import Path
from statesync.embedded.servers import servers

with servers(Path(sys.argv[1])) as running:
    print(running.postgres.process.pid, running.valkey.process.pid, flush=True)
    sys.stdin.read()
"""


def start_owner(folder: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """Start a process that owns servers on the folder; returns it and its servers."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout
    return owner, [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]


def test_data_survives_sigkill_of_the_owner(folder: Path) -> None:
    with servers(folder) as running:
        write(running)
    owner, started = start_owner(folder)
    with owner:
        assert len(started) == 2
        owner.send_signal(signal.SIGKILL)
    if sys.platform.startswith("linux"):
        assert psutil.wait_procs(started, timeout=30)[1] == [], "servers die with their owner"
    with servers(folder) as running:
        check(running)


@pytest.mark.skipif(os.geteuid() != 0, reason="the servers change their user only as root")
def test_folder_that_the_servers_user_cannot_enter_is_refused(folder: Path) -> None:
    folder.parent.chmod(0o700)
    with pytest.raises(EmbeddedServerError, match="cannot enter"), servers(folder):
        pass
