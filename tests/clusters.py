"""Owns a Redis Cluster for the tests: three masters, each with a replica, on loopback."""

from __future__ import annotations

import itertools
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
from redis.cluster import ClusterNode

from statesync.embedded.child import Child
from statesync.embedded.servers import valkey_binary

__all__ = ["Cluster", "cluster"]

_MASTERS = 3
_PASSWORD = "p@ss/word"
_SLOTS = 16384
_NODE_TIMEOUT_MS = 2000
"""After so long without an answer a node counts as dead, and its replica takes its place."""
_HIGHEST_PORT = 55_000
"""Each node takes another port as well, which is 10,000 higher."""
_CONFIG = f"""
bind 127.0.0.1
cluster-enabled yes
requirepass {_PASSWORD}
masterauth {_PASSWORD}
cluster-node-timeout {_NODE_TIMEOUT_MS}
cluster-require-full-coverage no
cluster-replica-validity-factor 0
repl-diskless-sync-delay 0
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


class Cluster:
    """Six nodes, by their ports; at first, the first three are the masters."""

    def __init__(self, folder: Path) -> None:
        self.nodes = {port: _node(folder, port) for port in _free_ports(2 * _MASTERS)}

    @property
    def url(self) -> str:
        """The URL of the setting: one node is enough, another one in case it is gone."""
        first, *_, last = self.nodes
        login = f":{quote(_PASSWORD, safe='')}@"
        return f"cluster://{login}127.0.0.1:{first},127.0.0.1:{last}"

    def client(self, **options: Any) -> Any:
        """Return a client that knows nothing of statesync."""
        nodes = [ClusterNode("127.0.0.1", port) for port in self.nodes]  # type: ignore[no-untyped-call]
        return redis.RedisCluster(startup_nodes=nodes, password=_PASSWORD, **options)

    def flush(self) -> None:
        """Delete all keys."""
        with self.client() as client:
            client.flushall(target_nodes="primaries")

    def ask(self, port: int, *words: Any) -> Any:
        """Send one node a command."""
        with self.node(port, decode_responses=True) as client:
            return client.execute_command(*words)

    def node(self, port: int, **options: Any) -> Any:
        """Return a client of one node."""
        return redis.Redis(port=port, password=_PASSWORD, socket_timeout=5, **options)

    def start(self) -> None:
        """Start all nodes, make them one cluster, and wait until each replica has its master."""
        for port, child in self.nodes.items():
            child.start()
            child.wait_ready(lambda port=port: self._answers(port))  # type: ignore[misc]
        masters, replicas = [*self.nodes][:_MASTERS], [*self.nodes][_MASTERS:]
        per_master = -(-_SLOTS // _MASTERS)
        for number, port in enumerate(masters):
            last = min(_SLOTS, (number + 1) * per_master) - 1
            self.ask(port, "CLUSTER", "ADDSLOTSRANGE", number * per_master, last)
            self.ask(port, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for port in [*self.nodes][1:]:
            self.ask(port, "CLUSTER", "MEET", "127.0.0.1", masters[0])
        self._wait(lambda: all(self._knows_all(port) for port in self.nodes))
        for replica, master in zip(replicas, masters, strict=True):
            self.ask(replica, "CLUSTER", "REPLICATE", self.ask(master, "CLUSTER", "MYID"))
        self.wait_whole()

    def stop(self) -> None:
        """Kill all nodes."""
        for child in self.nodes.values():
            child.kill()

    def master_of(self, key: str) -> int:
        """Return the port of the master of a key, as the nodes that are alive know it."""
        with self.client() as client:
            return int(client.get_node_from_key(key).port)

    def fail_over(self, key: str) -> None:
        """Let the replica of a key's master take its place; nothing is lost."""
        self.wait_whole()
        replica = self.replica_of(self.master_of(key))
        self.ask(replica, "CLUSTER", "FAILOVER")
        name = self.ask(replica, "CLUSTER", "MYID")
        self._wait(lambda: all(self._is_master(name, asked) for asked in self.nodes))

    def masters(self) -> list[int]:
        """Return the ports of the masters."""
        with self.client() as client:
            return [int(node.port) for node in client.get_primaries()]

    def replica_of(self, master: int) -> int:
        """Return the port of a master's replica."""
        (line,) = self.ask(master, "CLUSTER", "REPLICAS", self.ask(master, "CLUSTER", "MYID"))
        return int(line.split()[1].partition("@")[0].rpartition(":")[2])

    @contextmanager
    def cut_off(self, key: str) -> Iterator[None]:
        """Keep what is written meanwhile from the replica of a key, and kill its master then.

        At the end the replica is the master, and the one that was killed is its replica.
        """
        self.wait_whole()
        master = self.master_of(key)
        replica = self.replica_of(master)
        self.ask(replica, "CONFIG", "SET", "masterauth", "wrong")
        self.ask(master, "CLIENT", "KILL", "TYPE", "replica")
        yield
        self.nodes[master].kill()
        self._wait(lambda: self._is_master_of(replica, key))
        self.ask(replica, "CONFIG", "SET", "masterauth", _PASSWORD)
        self.restart(master)

    def _is_master(self, name: str, asked: int) -> bool:
        """Return whether one node knows another one as a master, with its slots."""
        (node,) = (
            line.split()
            for line in self.ask(asked, "CLUSTER", "NODES").splitlines()
            if line.startswith(name)
        )
        return "-" in node[-1]  # a replica's line ends with its state, a master's with its slots

    def _is_master_of(self, port: int, key: str) -> bool:
        with suppress(redis.RedisError, redis.exceptions.RedisClusterException):
            return self.master_of(key) == port
        return False

    def restart(self, port: int) -> None:
        """Start a node that was killed, and wait until the cluster is whole."""
        child = self.nodes[port]
        child.start()
        child.wait_ready(lambda: self._answers(port))
        self.wait_whole()

    def wait_whole(self) -> None:
        """Wait until all slots have a master, and every other node is in step with its master."""
        self._wait(self.is_whole)

    def is_whole(self) -> bool:
        """Return whether all slots are served, and each master has a replica in step with it."""
        with suppress(redis.RedisError, OSError):
            for port in self.nodes:
                if "cluster_state:ok" not in str(self.ask(port, "CLUSTER", "INFO")):
                    return False
                if self._is_out_of_step(self.ask(port, "INFO", "replication")):
                    return False
            return True
        return False

    @staticmethod
    def _is_out_of_step(info: dict[str, Any]) -> bool:
        if info["role"] == "master":
            return bool(info["connected_slaves"] != 1)
        return bool(info["master_link_status"] != "up")

    def _answers(self, port: int) -> bool:
        with suppress(redis.RedisError):
            return bool(self.ask(port, "PING"))
        return False

    def _knows_all(self, port: int) -> bool:
        known = f"cluster_known_nodes:{len(self.nodes)}"
        return known in str(self.ask(port, "CLUSTER", "INFO")).replace("'", "").replace(" ", "")

    def _wait(self, condition: Any) -> None:
        running = next(child for child in self.nodes.values() if child.running)
        running.wait_ready(condition)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Run a cluster, which is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="statesync-cluster-"))
    running = Cluster(folder)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _node(folder: Path, port: int) -> Child:
    data = folder / str(port)
    data.mkdir()
    config = data / "config"
    config.write_text(f"{_CONFIG}port {port}\ndir {data}\n")
    return Child(f"Valkey {port}", [str(valkey_binary()), str(config)], data / "log", cwd=data)


def _free_ports(number: int) -> list[int]:
    """Return ports that nobody listens on, nor on those that are 10,000 higher."""
    start = 20_000 + time.monotonic_ns() % 20_000
    free = (port for port in itertools.count(start) if port < _HIGHEST_PORT and _is_free(port))
    return list(itertools.islice(free, number))


def _is_free(port: int) -> bool:
    with suppress(OSError):
        for one in (port, port + 10_000):
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", one))
        return True
    return False
