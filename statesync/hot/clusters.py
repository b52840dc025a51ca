"""Owns where a realm is in a Redis Cluster: all its keys have one tag, so they are in one slot.

redis-py's client asks the nodes which of them has the slot. What is sent goes over our own pool,
which keeps to the deadline of each call.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from redis.cluster import ClusterNode, NodesManager
from redis.connection import parse_url
from redis.crc import key_slot
from redis.exceptions import AskError, RedisClusterException
from redis.exceptions import ConnectionError as RedisConnectionError

__all__ = ["ClusterMaster"]

_NODE_SECONDS = 1.0
"""How long one node may take to tell where the slots are, at most: the next one may be well."""

Address = tuple[str, int]


class ClusterMaster:
    """The node that has the slot of a prefix. Threads and processes may share it."""

    def __init__(self, url: str, prefix: str) -> None:
        parts = urlsplit(url)
        login, at, nodes = parts.netloc.rpartition("@")
        self._nodes = {_node(node) for node in nodes.split(",")}
        self._slot = key_slot(prefix.encode())
        self._tail = f"{login}{at}", f"?{parts.query}" if parts.query else ""
        self._scheme = "rediss" if parts.scheme == "clusters" else "redis"
        self.address: Address | None = None
        """Where it was when it was last asked for."""
        self._told: Address | None = None

    def url_at(self, host: str, port: int) -> str:
        """Return the URL of the node if it is at this address."""
        login, query = self._tail
        return f"{self._scheme}://{login}{host}:{port}/0{query}"

    def moved(self, error: AskError) -> None:
        """Take in what a node says that has the slot no more: where it is now."""
        self._told = self.address = (error.host, error.port) if error.host else None

    def find(self, seconds: float) -> Address:
        """Ask for the address, for about half of ``seconds``. Raises redis-py's ConnectionError."""
        self.address = self._told or self._ask(seconds)
        self._told = None
        return self.address

    async def find_async(self, seconds: float) -> Address:
        """Ask for the address, as ``find`` does."""
        return await asyncio.to_thread(self.find, seconds)

    def _ask(self, seconds: float) -> Address:
        share = min(_NODE_SECONDS, seconds / 2 / len(self._nodes))
        limits = {"socket_timeout": share, "socket_connect_timeout": share, "protocol": 2}
        options = parse_url(self.url_at("localhost", 1)) | limits  # type: ignore[no-untyped-call]
        for name in ("host", "port", "db"):
            del options[name]
        known: Any = None
        try:
            nodes = [ClusterNode(*node) for node in self._nodes]  # type: ignore[no-untyped-call]
            known = NodesManager(nodes, from_url=True, **options)
            node = known.get_node_from_slot(self._slot)
        except RedisClusterException as error:
            raise RedisConnectionError(
                f"no node tells where the slots are: {_root(error)}"
            ) from None
        finally:
            if known:
                known.close()
        self._nodes |= {(one.host, one.port) for one in known.nodes_cache.values()}
        return node.host, node.port


def _root(error: BaseException) -> BaseException:
    """Return the first cause: redis-py says of a right that is missing that this is no cluster."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error


def _node(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)
