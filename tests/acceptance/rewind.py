"""Servers that go back in time, as crashes, failovers and restored backups make them do.

Each class remembers the moment at which it is made; ``go_back`` brings its server back to it, under
a living game. Whatever was accepted before the moment is kept, for certain.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import redis

from statesync.embedded.child import Child, run_as
from statesync.embedded.servers import Servers, postgres_bin
from tests.acceptance.conftest import WAIT_SECONDS, wait_until
from tests.ports import free_port

__all__ = [
    "REDIS_WAYS",
    "BackUpPostgres",
    "CutTail",
    "LoadSnapshot",
    "Moment",
    "PromoteReplica",
    "client",
]


class CutTail:
    """Valkey is killed, and the end of its AOF was not on the disk yet (``appendfsync everysec``).

    With ``spare``, a random part of what was written since is on the disk: the log may end in the
    middle of a command or of a script.
    """

    def __init__(self, servers: Servers, spare: random.Random | None = None) -> None:
        self.servers = servers
        self.spare = spare
        with client(servers) as valkey:
            valkey.config_set("auto-aof-rewrite-percentage", 0)  # it would begin another file
            valkey.config_set("appendfsync", "everysec")
            # Whatever was answered before this write is in the file when it is.
            valkey.set("moment", 1)
            valkey.execute_command("WAITAOF", 1, 0, 0)
        self.file = _log_file(servers)
        self.size = self.file.stat().st_size

    def go_back(self) -> None:
        self.servers.valkey.kill()
        size = self.file.stat().st_size
        assert size > self.size
        os.truncate(self.file, self.spare.randint(self.size, size) if self.spare else self.size)
        self.servers.start_valkey()


class PromoteReplica:
    """Valkey is killed, and a replica that was cut off before is promoted, at the same address."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        number = sum(1 for _ in servers.folder.glob("valkey*.conf"))
        self.config = servers.folder / f"valkey-{number}.conf"
        self.socket = servers.sockets / f"valkey-{number}.sock"
        self.replica = self._make(number)
        self.replica.start()
        try:
            self._follow_until_now()
        except BaseException:
            self.replica.kill()
            raise

    def go_back(self) -> None:
        self.servers.valkey.kill()
        with redis.Redis(unix_socket_path=str(self.socket)) as valkey:
            valkey.replicaof("NO", "ONE")
        self.socket.rename(self.servers.sockets / "valkey.sock")
        # When it is started again, it is the master at this address.
        self.config.write_text(self.config.read_text().replace(self.socket.name, "valkey.sock"))
        self.servers.valkey = self.replica

    def _make(self, number: int) -> Child:
        """Return the replica, not started, configured as the master is."""
        master = self.servers.valkey
        folder = self.servers.folder / f"valkey-{number}"
        folder.mkdir()
        program, config = master.command
        text = Path(config).read_text()
        with client(self.servers) as valkey:
            old_folder = valkey.config_get("dir")["dir"]
        text = text.replace(f"dir {old_folder}", f"dir {folder}")
        self.config.write_text(text.replace("valkey.sock", self.socket.name))
        self.config.chmod(0o644)
        if master.user:
            shutil.chown(folder, master.user)
        log = self.servers.folder / "valkey.log"
        command = [program, str(self.config)]
        return Child("Valkey", command, log, cwd=self.servers.folder, user=master.user)

    def _follow_until_now(self) -> None:
        """Connect the replica, wait until it has all that was written, and cut it off."""
        wait_until(self.socket.exists)
        port = free_port()
        with client(self.servers) as master, redis.Redis(unix_socket_path=str(self.socket)) as us:
            master.config_set("port", port)
            master.config_set("repl-diskless-sync-delay", 0)
            us.replicaof("127.0.0.1", str(port))
            wait_until(lambda: us.info("replication").get("master_link_status") == "up")
            master.set("moment", 1)
            assert master.wait(1, 0) >= 1
            us.replicaof("127.0.0.1", "1")
            master.config_set("port", 0)
            state = us.info("persistence")
            while state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"]:
                state = us.info("persistence")


class LoadSnapshot:
    """An operator stops Valkey, and starts it on an older RDB file."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        with client(servers) as valkey:
            valkey.save()
            self.folder = Path(valkey.config_get("dir")["dir"])
        self.snapshot = self.folder / "snapshot.rdb"
        (self.folder / "dump.rdb").rename(self.snapshot)

    def go_back(self) -> None:
        self.servers.valkey.kill()
        log_folder = self.folder / "appendonlydir"
        shutil.rmtree(log_folder)
        log_folder.mkdir()
        shutil.copy(self.snapshot, log_folder / "appendonly.aof.1.base.rdb")
        manifest = log_folder / "appendonly.aof.manifest"
        manifest.write_text("file appendonly.aof.1.base.rdb seq 1 type b\n")
        _give(log_folder, self.servers.valkey.user)
        self.servers.start_valkey()


class BackUpPostgres:
    """PostgreSQL crashes, and an operator starts it on an older base backup."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        number = sum(1 for _ in servers.folder.glob("backup-*"))
        self.folder = servers.folder / f"backup-{number}"
        program = postgres_bin() / "pg_basebackup"
        if servers.postgres.user:  # that user may be unable to enter the folder of the wheels
            program = Path(servers.postgres.command[0]).with_name("pg_basebackup")
        command = [str(program), "-h", str(servers.sockets), "-U", "postgres", "--no-sync"]
        command += ["-D", str(self.folder), "-c", "fast", "-X", "fetch"]
        user = run_as(servers.postgres.user)
        done = subprocess.run(command, capture_output=True, text=True, cwd=servers.folder, **user)
        assert done.returncode == 0, done.stderr

    def go_back(self) -> None:
        server = self.servers.postgres
        server.send(signal.SIGQUIT)
        assert server.process
        server.process.wait(WAIT_SECONDS)
        data = self.servers.folder / "postgres"
        shutil.rmtree(data)
        shutil.copytree(self.folder, data)
        _give(data, server.user)
        self.servers.start_postgres()


Moment = CutTail | PromoteReplica | LoadSnapshot | BackUpPostgres
REDIS_WAYS = (CutTail, PromoteReplica, LoadSnapshot)


def client(servers: Servers) -> Any:
    """Return a client of Valkey's database 15, which nothing else uses."""
    return redis.Redis(
        unix_socket_path=str(servers.sockets / "valkey.sock"), db=15, decode_responses=True
    )


def _log_file(servers: Servers) -> Path:
    """Return the file that Valkey appends its log to."""
    with client(servers) as valkey:
        wait_until(lambda: not valkey.info("persistence")["aof_rewrite_in_progress"])
        folder = Path(valkey.config_get("dir")["dir"]) / "appendonlydir"
    lines = (folder / "appendonly.aof.manifest").read_text().splitlines()
    [name] = [line.split()[1] for line in lines if line.endswith("type i")]
    return folder / name


def _give(folder: Path, user: str | None) -> None:
    """Make the server's user the owner of a folder and all that is in it."""
    if user:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, user)
