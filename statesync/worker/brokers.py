"""Owns what Celery is told of a broker and of the results, by the kind of server that they are.

It imports Celery's libraries only when it needs them: games use it as well.
"""

from __future__ import annotations

import inspect
import json
import re
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from statesync.errors import SettingsError
from statesync.sentinels import SentinelUrl, is_sentinel
from statesync.settings import PREFIX, Settings

__all__ = ["is_rabbitmq", "reach", "reach_broker", "reach_results", "sender_settings"]

_RABBITMQ = ("amqp://", "amqps://", "pyamqp://")
_CERTIFICATES = {
    "ssl_ca_certs": "ca_certs",
    "ssl_certfile": "certfile",
    "ssl_keyfile": "keyfile",
}
"""What a URL of RabbitMQ may have in its query, as that of Redis has, and how py-amqp calls it."""
_SENTINEL_SECONDS = 1

_DECLARED_BY_NAME: dict[str, Any] = {
    "task_default_queue_type": "quorum",
    "task_create_missing_queue_type": "quorum",
    "task_create_missing_queue_exchange_type": "topic",
}
"""Makes an application declare queues of RabbitMQ as ours are, if it knows their names alone."""


_RETRIES = frozenset(
    {"max_retries", "interval_start", "interval_step", "interval_max", "connect_retries_timeout"}
)
"""Options that kombu has for every transport."""


def is_rabbitmq(url: str) -> bool:
    """Return whether a broker is RabbitMQ."""
    return url.lower().startswith(_RABBITMQ)


def sender_settings(settings: Settings, *, seconds: int) -> dict[str, Any]:
    """Return the settings of a Celery application that sends tasks by name."""
    broker_url, broker = reach_broker(settings, seconds=seconds)
    result_url, results = reach_results(settings, seconds=seconds)
    return {
        "broker_url": broker_url,
        "broker_transport_options": broker,
        "result_backend": result_url,
        "result_backend_transport_options": results,
        **(_DECLARED_BY_NAME if is_rabbitmq(broker_url) else {}),
    }


def reach(url: str, *, seconds: int) -> tuple[str, dict[str, Any]]:
    """Return a URL as Celery spells it, and its transport options: an answer takes ``seconds``."""
    limits = {"socket_connect_timeout": 5, "socket_timeout": seconds}
    if is_rabbitmq(url):
        # Without a confirmation nobody knows whether a message has arrived.
        options = {"confirm_publish": True, "read_timeout": seconds, "write_timeout": seconds}
        has_tls = url.lower().startswith("amqps://")
        return _apart_from_tls(url, options) if has_tls else (url, options)
    if is_sentinel(url):
        behind = SentinelUrl.parse(url)
        return _as_kombu(behind), limits | _of_sentinels(behind)
    return url, limits


def _apart_from_tls(url: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a URL without its certificates, and the options with them.

    Kombu would pass them on by names that its library does not know, and check no host name.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    given = {option: query.pop(name) for name, option in _CERTIFICATES.items() if name in query}
    bare = urlunsplit(parts._replace(query=urlencode(query)))
    return bare, options | {"ssl": {"server_hostname": parts.hostname, **given}}


def reach_broker(settings: Settings, *, seconds: int) -> tuple[str, dict[str, Any]]:
    """Return what ``reach`` does of the broker, with the options that are set.

    Raises SettingsError if the transport does not have one of them: it would ignore it.
    """
    url, options = reach(settings.broker_url, seconds=seconds)
    given = json.loads(settings.broker_options or "{}")
    if given:
        _check_options(url, given)
    return url, options | given


def reach_results(settings: Settings, *, seconds: int) -> tuple[str, dict[str, Any]]:
    """Return what ``reach`` does of the results; of several URLs only the first has the login.

    Celery reads it there alone, and there alone it masks it in what workers tell of their settings.
    """
    url, options = reach(settings.result_url, seconds=seconds)
    first, *others = url.split(";") if is_sentinel(url) else [url]
    return ";".join((first, *(re.sub(r"//[^/]*@", "//", other) for other in others))), options


def _check_options(url: str, given: dict[str, Any]) -> None:
    known = _known_options(url)
    if known and (unknown := sorted(given.keys() - known)):
        raise SettingsError(
            f"{PREFIX}BROKER_OPTIONS: this broker has no option {unknown[0]!r}; it has "
            + ", ".join(sorted(known))
        )


def _known_options(url: str) -> frozenset[str]:
    """Return the names of the options of a broker; none if it does not tell them."""
    from kombu.transport import get_transport_cls

    transport: Any = get_transport_cls(url.partition("://")[0].lower())
    if is_rabbitmq(url):
        names = {*inspect.signature(transport.Connection.__init__).parameters} - {"self", "kwargs"}
    else:
        names = {*getattr(getattr(transport, "Channel", None), "from_transport_options", ())}
    return _RETRIES | names if names else frozenset()


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
