"""The servers of a world, of each topology, and what may happen to them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import redis
from kombu import Connection

from statesync.embedded.servers import Servers
from statesync.observe.queues import count_messages
from statesync.urls import broker_of
from statesync.worker.brokers import reach
from tests.clusters import Cluster, cluster
from tests.pgbouncer import PgBouncer, pgbouncer
from tests.rabbitmq import RabbitMQ, rabbitmq_server
from tests.sentinels import Trio, sentinel_trio

__all__ = ["BehindPgBouncer", "BehindSentinels", "InCluster", "Topology", "topology"]

_QUEUES = ("restore", "sync", "backup")


class Topology:
    """One Redis, which is the broker as well."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers

    def urls(self) -> dict[str, str]:
        """Return the settings in which it differs from the embedded servers."""
        return {}

    def client(self, db: int = 0) -> Any:
        """Return a client of a database of Redis."""
        return redis.Redis.from_url(self.servers.redis_url(db), decode_responses=True)

    def waiting(self, queue: str) -> int:
        """Return how many messages wait in a queue."""
        with self._broker() as connection:
            return count_messages(connection, queue)

    def empty_broker(self) -> None:
        """Have the broker and the results forget everything."""
        for db in (1, 2):
            with self.client(db) as client:
                client.flushdb()

    def double_messages(self, queue: str) -> None:
        """Deliver some of the messages of a queue twice: all would double the queue each time."""
        with self.client(1) as client:
            if waiting := client.lrange(queue, 0, 9):
                client.lpush(queue, *waiting)

    def kill_broker(self) -> None:
        """Kill the broker and start it again."""
        self.servers.valkey.kill()
        self.servers.start_valkey()

    def _broker(self) -> Connection:
        url, options = reach(self.servers.settings(**self.urls()).broker_url, seconds=30)
        return Connection(url, transport_options=options)


class BehindSentinels(Topology):
    """A master with a replica and three Sentinels: state, broker and results."""

    def __init__(self, servers: Servers, trio: Trio) -> None:
        super().__init__(servers)
        self.trio = trio

    def urls(self) -> dict[str, str]:
        return {"redis_url": self.trio.url()}

    def client(self, db: int = 0) -> Any:
        return self.trio.master_client(db, decode_responses=True)

    def kill_broker(self) -> None:
        """Kill the master. Once its replica is the master, it comes back as a replica."""
        self.trio.wait_whole()
        self._fail_over()
        self.trio.wait_whole()

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[None]:
        """Keep from the replica what is written meanwhile, and kill the master at the end."""
        self.trio.wait_whole()
        self.trio.cut_off_replica()
        yield
        self._fail_over()
        self.trio.let_in_replicas()
        self.trio.wait_whole()

    def freeze_master(self) -> None:
        """Stop the master until another one is elected; then it goes on, until it is told."""
        self.trio.wait_whole()
        frozen = self.trio.servers[self.trio.master()]
        frozen.send(signal.SIGSTOP)
        self.trio.wait_master(other_than=frozen)
        frozen.send(signal.SIGCONT)

    def _fail_over(self) -> None:
        """Kill the master and start it again: there are two, until the trio is whole again.

        It comes back as a master for some ten seconds, and a Sentinel that has not heard of the
        other one names it.
        """
        killed = self.trio.kill_master()
        self.trio.wait_master(other_than=killed)
        killed.start()


class InCluster(Topology):
    """A realm in a Redis Cluster; broker and results are the embedded Redis."""

    def __init__(self, servers: Servers, nodes: Cluster) -> None:
        super().__init__(servers)
        self.nodes = nodes

    def urls(self) -> dict[str, str]:
        urls = {"realms": "bank", "realm": "bank", "redis_url": self.nodes.url}
        urls["broker_url"] = broker_of(self.servers.redis_url(), 1)
        return urls | {"result_url": broker_of(self.servers.redis_url(), 2)}

    def client(self, db: int = 0) -> Any:
        return super().client(db) if db else self.nodes.client(decode_responses=True)

    def cut_off(self) -> contextlib.AbstractContextManager[None]:
        """Keep what is written meanwhile from the replica, and kill its master at the end."""
        return self.nodes.cut_off("{bank}:")


class WithRabbitMQ(Topology):
    """One Redis, and RabbitMQ as the broker."""

    def __init__(self, servers: Servers, rabbitmq: RabbitMQ) -> None:
        super().__init__(servers)
        self.rabbitmq = rabbitmq

    def urls(self) -> dict[str, str]:
        return {"broker_url": self.rabbitmq.url}

    def empty_broker(self) -> None:
        super().empty_broker()
        self.rabbitmq.empty(*_QUEUES)

    def double_messages(self, queue: str) -> None:
        with self.rabbitmq.connect() as connection:
            channel = connection.channel()
            for _ in range(10):
                if not (message := channel.basic_get(queue, no_ack=True)):
                    return
                for _ in range(2):
                    channel.basic_publish(message, routing_key=queue)

    def kill_broker(self) -> None:
        self.rabbitmq.child.kill()
        self.rabbitmq.start()


class BehindPgBouncer(Topology):
    """One Redis, and PgBouncer before PostgreSQL."""

    def __init__(self, servers: Servers, pooler: PgBouncer) -> None:
        super().__init__(servers)
        self.pooler = pooler

    def urls(self) -> dict[str, str]:
        return {"database_url": self.pooler.url("postgres")}

    def kill_pooler(self) -> None:
        """Kill PgBouncer, which ends all connections, and start it again."""
        self.pooler.child.kill()
        self.pooler.start()


def topology(name: str, servers: Servers, exits: contextlib.ExitStack) -> Topology:
    """Run what a topology needs besides the embedded servers."""
    if name == "sentinel":
        return BehindSentinels(servers, exits.enter_context(sentinel_trio()))
    if name == "cluster":
        return InCluster(servers, exits.enter_context(cluster()))
    if name == "rabbitmq":
        return WithRabbitMQ(servers, exits.enter_context(rabbitmq_server()))
    if name == "pgbouncer":
        return BehindPgBouncer(servers, exits.enter_context(pgbouncer(servers.sockets)))
    return Topology(servers)
