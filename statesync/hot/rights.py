"""Owns the rights that a user of ours needs in Redis, and how an administrator gives them."""

from __future__ import annotations

import re

from redis.exceptions import AuthenticationError, NoPermissionError

__all__ = ["COMMANDS", "channels", "grant", "is_refusal", "key_patterns"]

_SENT = (
    *("client|setinfo", "evalsha", "ping", "script|load", "select", "subscribe", "unsubscribe"),
)
_IN_SCRIPTS = (
    *("dbsize", "del", "dump", "exists", "get", "hdel", "hexists", "hget", "hgetall", "hincrby"),
    *("hkeys", "hlen", "hmget", "hrandfield", "hscan", "hset", "hsetnx", "info", "llen", "lrange"),
    *("mget", "persist", "pexpire", "pttl", "publish", "rename", "rpush", "sadd", "scan", "scard"),
    *("set", "sismember", "smismember", "srandmember", "srem", "sscan", "time", "type", "zadd"),
    *("zcard", "zcount", "zmscore", "zrange", "zrangebyscore", "zrem", "zscore"),
)
COMMANDS = (*_SENT, *_IN_SCRIPTS)
"""What a store sends, and what its scripts call."""

_REFUSED = re.compile(
    r"NOPERM|no permissions to|permissions to access|ACL failure|(can't|cannot) (run|access) "
)
"""How Redis 6.2 and later, and Valkey, say it of a command or of one in a script."""
_COMMAND = re.compile(r"run the '([^']+)' command")


def key_patterns(prefix: str) -> list[str]:
    """Return the rules for the keys of a game under a prefix."""
    names = ("ac:*", "*:session:*", "dirty_accounts*", "statesync:*")
    return [f"~{prefix}{name}" for name in names]


def channels(prefix: str) -> list[str]:
    """Return the rules for the channels of a game under a prefix."""
    return [f"&{prefix}statesync:reverted"]


def is_refusal(error: Exception) -> bool:
    """Return whether Redis answers, but refuses the login or lacks a right for us."""
    is_one = isinstance(error, AuthenticationError | NoPermissionError)
    return is_one or bool(_REFUSED.search(str(error)))


def grant(message: str, user: str, prefix: str) -> str:
    """Return the command that gives a user what it lacks, by what Redis has said; "" for a login.

    What it does not say, such as which key, is all that might be meant.
    """
    if found := _COMMAND.search(message):
        # Redis 6.2 names the command without its subcommand.
        rules = [f"+{one}" for one in COMMANDS if found[1] in (one, one.partition("|")[0])]
    elif not _REFUSED.search(message):
        return ""
    elif "channel" in message:
        rules = channels(prefix)
    elif "key" in message:
        rules = key_patterns(prefix)
    else:
        rules = [f"+{one}" for one in COMMANDS]
    return f"ACL SETUSER {user} {' '.join(rules)}"
