"""Owns what Celery is told of a broker and of the results, by the kind of server that they are.

It imports no Celery: games use it as well.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from statesync.sentinels import SentinelUrl, is_sentinel

__all__ = ["DECLARED_BY_NAME", "is_rabbitmq", "reach"]

_RABBITMQ = ("amqp://", "amqps://", "pyamqp://")
_SENTINEL_SECONDS = 1

DECLARED_BY_NAME: dict[str, Any] = {
    "task_default_queue_type": "quorum",
    "task_create_missing_queue_type": "quorum",
    "task_create_missing_queue_exchange_type": "topic",
}
"""Settings of an application that sends to our queues of RabbitMQ, which it knows by name alone."""


def is_rabbitmq(url: str) -> bool:
    """Return whether a broker is RabbitMQ."""
    return url.lower().startswith(_RABBITMQ)


def reach(url: str, *, seconds: int) -> tuple[str, dict[str, Any]]:
    """Return a URL as Celery spells it, and its transport options: an answer takes ``seconds``."""
    limits = {"socket_connect_timeout": 5, "socket_timeout": seconds}
    if is_rabbitmq(url):
        # Without a confirmation nobody knows whether a message has arrived.
        return url, {"confirm_publish": True, "read_timeout": seconds, "write_timeout": seconds}
    if is_sentinel(url):
        behind = SentinelUrl.parse(url)
        return _as_kombu(behind), limits | _of_sentinels(behind)
    return url, limits


def _as_kombu(url: SentinelUrl) -> str:
    """Return a URL for each Sentinel, all of them with the database and the login of the master."""
    tail = f"?{urlencode(url.query)}" if url.query else ""
    return ";".join(f"sentinel://{url.login}{host}/{url.db}{tail}" for host in url.spelled_hosts)


def _of_sentinels(url: SentinelUrl) -> dict[str, Any]:
    limits = {"socket_timeout": _SENTINEL_SECONDS, "socket_connect_timeout": _SENTINEL_SECONDS}
    # redis-py would ask each Sentinel that is away four times.
    return {
        "master_name": url.master,
        "sentinel_kwargs": {**limits, "retry": None, **url.sentinel_login},
    }
