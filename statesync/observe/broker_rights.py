"""Owns the question to a Redis that is the broker: which commands may our user not run?"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["COMMANDS", "lacking_rights"]

_CHANNEL = ("publish", "psubscribe", "punsubscribe")
_OTHERS = {
    "evalsha": ("evalsha", "", "0"),
    "script|load": ("script", "load", ""),
    **{name: (name,) for name in ("exec", "info", "multi", "ping", "time", "unwatch")},
}
_ON_KEYS = (
    *("brpop", "del", "exists", "get", "hdel", "hget", "hset", "llen", "lpush", "pexpire", "rpop"),
    *("rpush", "sadd", "set", "smembers", "srem", "watch", "zadd", "zrange", "zrangebyscore"),
    "zrem",
)
COMMANDS = (*_ON_KEYS, *_CHANNEL, *_OTHERS)
"""What Celery sends to a broker, or runs there in scripts; docs/rights.md also has the results'."""

# Redis 6.2 cannot tell.
_SCRIPT = """
if not redis.acl_check_cmd then return nil end
local lacking = {}
for rule, words in pairs(cjson.decode(ARGV[1])) do
  if not redis.acl_check_cmd(unpack(words)) then lacking[#lacking + 1] = rule end
end
return lacking
"""


def lacking_rights(client: Any, *, queue: str, channel: str) -> list[str] | None:
    """Return the rules that the user of a connection lacks, as ACL SETUSER takes them.

    None if the server cannot tell, which is so before Redis 7. A lack of rights on ``queue``, or of
    those that the question itself takes, raises what redis-py does.
    """
    asked: dict[str, tuple[str, ...]] = {
        **{name: (name, queue, queue) for name in _ON_KEYS},
        **{name: (name, channel) for name in _CHANNEL},
        **_OTHERS,
    }
    names = client.evalsha(client.script_load(_SCRIPT), 1, queue, json.dumps(asked))
    return None if names is None else sorted(f"+{_text(name)}" for name in names)


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
