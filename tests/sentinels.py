"""Owns a master with a replica, and three Sentinels that watch over them, for the tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import redis

from statesync.embedded.child import Child
from statesync.embedded.servers import valkey_binary
from tests.ports import free_port

__all__ = ["MASTER", "Trio", "sentinel_trio"]

MASTER = "game"
_PASSWORD, _SENTINEL_PASSWORD = "p@ss/word", "other?pass"
_DOWN_MS = 1000
"""After so long without an answer a Sentinel takes a server for dead."""
_SERVER = """
bind 127.0.0.1
port {port}
dir {folder}
appendonly yes
appendfsync everysec
save ""
requirepass {password}
masterauth {password}
maxmemory-policy noeviction
"""
_REPLICA = f"{_SERVER}replicaof 127.0.0.1 {{master}}"
_SENTINEL = f"""
bind 127.0.0.1
port {{port}}
dir {{folder}}
sentinel monitor {MASTER} 127.0.0.1 {{master}} 2
sentinel down-after-milliseconds {MASTER} {_DOWN_MS}
sentinel failover-timeout {MASTER} 3000
sentinel auth-pass {MASTER} {{password}}
requirepass {{sentinel_password}}
sentinel sentinel-pass {{sentinel_password}}
"""


class Trio:
    """Two servers, of which one is the master, and three Sentinels."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        first, second = free_port(), free_port()
        self.servers = {
            first: self._child(f"valkey-{first}", _SERVER, first),
            second: self._child(
                f"valkey-{second}", f"{_SERVER}replicaof 127.0.0.1 {first}", second
            ),
        }
        self.sentinels = {
            port: self._child(f"sentinel-{port}", _SENTINEL, port, "--sentinel", master=first)
            for port in (free_port() for _ in range(3))
        }

    def url(self, db: int = 0) -> str:
        """Return the URL of a database of the master, as a setting has it."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        login = f":{quote(_PASSWORD, safe='')}@"
        query = urlencode({"sentinel_password": _SENTINEL_PASSWORD})
        return f"sentinel://{login}{hosts}/{MASTER}/{db}?{query}"

    def start(self) -> None:
        """Start all, and wait until the Sentinels know all of them."""
        for port, child in (self.servers | self.sentinels).items():
            child.start()
            child.wait_ready(partial(self._answers, port))
        self.wait_whole()

    def stop(self) -> None:
        """Stop all."""
        for child in (self.sentinels | self.servers).values():
            child.kill()

    def master(self) -> int:
        """Return the port of the master, by the first Sentinel."""
        with self.client(next(iter(self.sentinels))) as client:
            return int(client.sentinel_get_master_addr_by_name(MASTER)[1])

    def master_client(self, db: int = 0, **options: Any) -> Any:
        """Return a client of the master, wherever it is."""
        sentinels = [("127.0.0.1", port) for port in self.sentinels]
        login = {"password": _SENTINEL_PASSWORD}
        made: Any = redis.Sentinel
        manager = made(sentinels, sentinel_kwargs=login, password=_PASSWORD, db=db, **options)
        return manager.master_for(MASTER)

    def kill_master(self) -> Child:
        """Kill the master: SIGKILL. Return it."""
        child = self.servers[self.master()]
        child.kill()
        return child

    def wait_master(self, other_than: Child) -> None:
        """Wait until another server is the master."""
        first, *_ = self.sentinels.values()
        first.wait_ready(lambda: self.servers[self.master()] is not other_than)

    def cut_off_replica(self) -> None:
        """Break the replica's connection to the master, until it is let in again."""
        master = self.master()
        (replica,) = self.servers.keys() - {master}
        with self.client(replica) as client:
            client.config_set("masterauth", "wrong")
        with self.client(master) as client:
            client.client_kill_filter(_type="replica")

    def let_in_replicas(self) -> None:
        """Let every server follow another one."""
        for port, child in self.servers.items():
            child.wait_ready(partial(self._answers, port))
            with self.client(port) as client:
                client.config_set("masterauth", _PASSWORD)
                client.config_rewrite()  # its promotion has written the wrong one

    def wait_whole(self) -> None:
        """Wait until every Sentinel sees a master and its replica."""
        for child in self.sentinels.values():
            child.wait_ready(self.is_whole)

    def is_whole(self) -> bool:
        """Return whether every Sentinel sees a master, its replica and two other Sentinels."""
        with suppress(redis.RedisError):
            for port in self.sentinels:
                with self.client(port) as client:
                    state: Any = client.sentinel_master(MASTER)
                    replicas: Any = client.sentinel_slaves(MASTER)
                if state["flags"] != "master" or state["num-other-sentinels"] != 2:
                    return False
                if [replica["master-link-status"] for replica in replicas] != ["ok"]:
                    return False
            return True
        return False

    def _child(self, name: str, config: str, port: int, *flags: str, **more: object) -> Child:
        folder = self._folder / name
        folder.mkdir()
        file = folder / "config"
        passwords = {"password": _PASSWORD, "sentinel_password": _SENTINEL_PASSWORD}
        file.write_text(config.format(port=port, folder=folder, **passwords, **more))
        command = [str(valkey_binary()), str(file), *flags]
        return Child(name, command, folder / "log", cwd=folder)

    def client(self, port: int) -> Any:
        """Return a client of a server or of a Sentinel."""
        password = _PASSWORD if port in self.servers else _SENTINEL_PASSWORD
        return redis.Redis(port=port, password=password, socket_timeout=5)

    def _answers(self, port: int) -> bool:
        with suppress(redis.RedisError), self.client(port) as client:
            return bool(client.ping())
        return False


@contextmanager
def sentinel_trio() -> Iterator[Trio]:
    """Run a trio."""
    folder = Path(tempfile.mkdtemp(prefix="statesync-sentinel-"))
    trio = Trio(folder)
    try:
        trio.start()
        yield trio
    finally:
        trio.stop()
        shutil.rmtree(folder, ignore_errors=True)
