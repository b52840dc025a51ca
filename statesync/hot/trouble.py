"""Owns what it means that Redis refuses to work, or that the connection to it breaks."""

from __future__ import annotations

import re

from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

__all__ = ["is_refused", "is_replica", "tell", "tells_full"]

_SENTENCES = {
    "READONLY": "it is a replica now and takes no changes",
    "LOADING": "it is still loading its data",
    "MASTERDOWN": "it is a replica that has lost its master",
    "OOM": "it is out of memory (maxmemory) and takes no changes",
    "NOREPLICAS": "it has too few replicas (min-replicas-to-write) and takes no changes",
    "TIMEOUT": "it does not answer in time",
    "CLUSTERDOWN": "the cluster has no master for its keys",
    "TRYAGAIN": "its slot of the cluster is being moved",
    "ASK": "its slot of the cluster is being moved",
    "MOVED": "another node has its slot: a cluster needs a cluster:// URL and STATESYNC_REALMS",
    "MISCONF": "it cannot save to its disk and takes no changes",
}
_CLASSES = {
    ReadOnlyError: "READONLY",
    BusyLoadingError: "LOADING",
    MasterDownError: "MASTERDOWN",
    ClusterDownError: "CLUSTERDOWN",
    TryAgainError: "TRYAGAIN",
    MovedError: "MOVED",
    AskError: "ASK",
    OutOfMemoryError: "OOM",
    RedisTimeoutError: "TIMEOUT",
    TimeoutError: "TIMEOUT",
}
_REFUSALS = (BusyLoadingError, AskError, TryAgainError, ClusterDownError)
# Redis 6.2 puts the line of the script before an error, and a minus before the code.
_CODE = re.compile(rf"(?:^|: )-?({'|'.join(_SENTENCES)})\b")


def is_refused(reply: object) -> bool:
    """Return whether Redis has done nothing, and a new try may help.

    It starts, or is a replica; or another node of its cluster has the keys, or will soon.
    """
    return isinstance(reply, _REFUSALS) or is_replica(reply)


def is_replica(reply: object) -> bool:
    """Return whether Redis refused a change since it is no master any more."""
    return isinstance(reply, ResponseError) and _code(reply) == "READONLY"


def tell(error: Exception) -> str:
    """Return what is wrong with Redis, in a sentence if we have one."""
    shown = f"{type(error).__name__}: {error}"
    code = _code(error)
    return f"{_SENTENCES[code]} ({shown})" if code else shown


def tells_full(error: Exception) -> bool:
    """Return whether an error of ours says that Redis is out of memory."""
    return _SENTENCES["OOM"] in str(error)


def _code(error: Exception) -> str:
    for error_class, code in _CLASSES.items():
        if isinstance(error, error_class):
            return code
    found = _CODE.search(str(error))
    return found[1] if found else ""
