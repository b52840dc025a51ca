"""Owns the URLs of servers: which are accepted, and how they are shown without secrets."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlunsplit

from statesync.sentinels import SENTINEL_URL_IS, SentinelUrl, is_sentinel, split_url

__all__ = [
    "broker_of",
    "check_broker_url",
    "check_database_url",
    "check_redis_url",
    "database_of",
    "is_cluster",
    "mask_or_hide",
    "mask_url",
    "without_secrets",
]

_REDIS_SCHEMES = ("redis", "rediss", "unix")
_CLUSTER_SCHEMES = ("cluster", "clusters")
_REDIS_OF_KOMBU = (*_REDIS_SCHEMES, *_CLUSTER_SCHEMES, "redis+socket", "sentinel")
_NEXT_URL = re.compile(r";(?=[A-Za-z+]+://)")
"""Kombu takes several URLs, such as those of sentinels."""
_SECRET = re.compile(r"passw(or)?d|secret|token", re.IGNORECASE)
"""Names in a query: ``password``, ``ssl_password``, ``sslpassword``, ``oauth_client_secret``."""
_WHOLE_IN_QUERY = frozenset({"db", "health_check_interval", "max_connections", "protocol"})
_NUMBER_IN_QUERY = frozenset({"socket_connect_timeout", "socket_timeout", "timeout"})
_WHOLE_FOR_LIBPQ = frozenset(
    {
        *("connect_timeout", "tcp_user_timeout", "keepalives"),
        *("keepalives_count", "keepalives_idle", "keepalives_interval"),
    }
)
_DATABASE_URL_IS = "postgresql://user:password@host:port/database"
_REDIS_URL_IS = (
    "redis://[user:password@]host:port/db, rediss://…, unix:///path?db=0, "
    f"{SENTINEL_URL_IS}, or of a Redis Cluster "
    "cluster://[user:password@]host:port,host:port, clusters://… with TLS"
)
_BROKER_URL_IS = (
    "a URL that Celery knows, such as redis://host:port/1, amqp://user:password@host:port/vhost or "
    f"{SENTINEL_URL_IS}; a Redis Cluster is none: take a single Redis, one with Sentinel, or "
    "RabbitMQ"
)
_NODES = re.compile(r"[^,:@\s]+:[0-9]{1,5}(,[^,:@\s]+:[0-9]{1,5})*")


def mask_url(url: str) -> str:
    """Return ``url`` with ``***`` for each secret, in the login and in the query.

    Raises ValueError if it is too broken to find the password in.
    """
    return ";".join(map(_mask_one, _NEXT_URL.split(url)))


def mask_or_hide(url: str) -> str:
    """Return ``url`` masked, or nothing of it if it is too broken to find the password in."""
    try:
        return mask_url(url)
    except ValueError:
        return "(a URL that cannot be read)"


def _mask_one(url: str) -> str:
    parts = split_url(url)
    netloc = parts.netloc
    if "@" in netloc:
        user, _, host = netloc.rpartition("@")
        name, colon, _ = user.partition(":")
        if not colon and parts.scheme in _REDIS_OF_KOMBU:
            name = "***"  # Redis has no users without a password: it is one, misplaced
        netloc = f"{name}{':***' if colon else ''}@{host}"
    if "@" in parts.path + parts.fragment or ("@" in url and "@" not in netloc):
        raise ValueError("a / or # in the password, which must be percent-encoded, ends the host")
    query = urlencode(
        [(k, "***" if _SECRET.search(k) else v) for k, v in parse_qsl(parts.query)], safe="*/:"
    )
    tail = f"?{query}" if query else ""
    return f"{parts.scheme}://{netloc}{parts.path}{tail}"


def without_secrets(text: str, url: str) -> str:
    """Return ``text`` with ``***`` for each secret of ``url`` that it holds."""
    secrets = re.findall(r"://[^:@]*:(.*)@|://([^:@]+)@", url)
    secrets += [(v, "") for k, v in parse_qsl(split_url(url).query) if _SECRET.search(k)]
    for secret in sorted({part for pair in secrets for part in pair if part}, key=len)[::-1]:
        for spelling in (secret, unquote(secret), quote(secret)):
            text = text.replace(spelling, "***")
    return text


def check_redis_url(text: str) -> str:
    """Return the URL of a Redis as redis-py takes it. Raises ValueError: what is accepted."""
    parts = split_url(text)
    if parts.scheme in _CLUSTER_SCHEMES:
        nodes = parts.netloc.rpartition("@")[2]
        if not _NODES.fullmatch(nodes) or parts.path not in ("", "/", "/0"):
            raise ValueError(_REDIS_URL_IS)
        _check_query(parts.query)
        return parts.scheme + text[len(parts.scheme) :]
    if parts.scheme == "sentinel":
        _check_query(parts.query)
        return str(SentinelUrl.parse(text))
    if parts.scheme not in _REDIS_SCHEMES or not (parts.netloc or parts.path):
        raise ValueError(_REDIS_URL_IS)
    _ = parts.port  # raises ValueError if the port is no number
    if parts.scheme != "unix" and not re.fullmatch(r"/?[0-9]*", parts.path):
        raise ValueError(_REDIS_URL_IS)  # redis-py would take database 0
    _check_query(parts.query)
    return parts.scheme + text[len(parts.scheme) :]  # redis-py knows no capitals


def _check_query(query: str) -> None:
    for name, value in parse_qsl(query, keep_blank_values=True):
        whole, number = name in _WHOLE_IN_QUERY, name in _NUMBER_IN_QUERY
        if (whole or number) and not re.fullmatch(r"[0-9]+" if whole else r"[0-9.]+", value):
            raise ValueError(_REDIS_URL_IS)


def is_cluster(url: str) -> bool:
    """Return whether a URL is of a Redis Cluster."""
    return split_url(url).scheme in _CLUSTER_SCHEMES


def database_of(redis_url: str) -> int:
    """Return the number of the database that the URL of a Redis names."""
    if is_sentinel(redis_url):
        return SentinelUrl.parse(redis_url).db
    parts = split_url(redis_url)
    given = dict(parse_qsl(parts.query)).get("db", "")
    if not given and parts.scheme != "unix":
        given = parts.path.strip("/")
    return int(given or 0)


def check_broker_url(text: str) -> str:
    """Return the URL of a broker or of results. Raises ValueError: what is accepted."""
    if "://" not in text or is_cluster(text):
        raise ValueError(_BROKER_URL_IS)
    return str(SentinelUrl.parse(text)) if is_sentinel(text) else text


def check_database_url(text: str) -> str:
    """Return the URL of a PostgreSQL for SQLAlchemy. Raises ValueError: what is accepted."""
    parts = split_url(text)
    if parts.scheme not in ("postgresql", "postgres", "postgresql+psycopg2"):
        raise ValueError(_DATABASE_URL_IS)
    _ = parts.port
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in _WHOLE_FOR_LIBPQ and not re.fullmatch(r"[0-9]{1,9}", value):
            raise ValueError(_DATABASE_URL_IS)
    return (
        urlunsplit(parts._replace(scheme="postgresql+psycopg2"))
        if parts.netloc
        # urlunsplit drops an empty authority, which SQLAlchemy needs: postgresql:///db?host=/path
        else (f"postgresql+psycopg2://{parts.path}" + (f"?{parts.query}" if parts.query else ""))
    )


def broker_of(redis_url: str, db: int) -> str:
    """Return the URL of database ``db`` on the server of ``redis_url``, as kombu spells it."""
    if is_sentinel(redis_url):
        return str(SentinelUrl.parse(redis_url).with_db(db))
    parts = split_url(redis_url)
    query = {k: v for k, v in parse_qsl(parts.query) if k != "db"}
    if parts.scheme == "rediss":
        query = {"ssl_cert_reqs": "required"} | query  # Celery wants to be told
    if parts.scheme != "unix":
        return urlunsplit(parts._replace(path=f"/{db}", query=urlencode(query)))
    query["virtual_host"] = str(db)
    login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return f"redis+socket://{login}{quote(unquote(parts.path))}?{urlencode(query)}"
