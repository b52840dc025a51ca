"""Owns the question to Redis which rights a user of ours lacks. No I/O."""

from __future__ import annotations

from statesync.hot import rights
from statesync.hot.command import Command, Raw, load_script, pack
from statesync.hot.keys import Keys

__all__ = ["lacking_rights"]

_lacking_rights = load_script("lacking_rights")
_ANY_UUID = "00000000-0000-4000-8000-000000000000"


def lacking_rights(keys: Keys, /) -> Command[list[str] | None]:
    """Return the rules that the user of this connection lacks, as ACL SETUSER takes them.

    None if Redis cannot tell, which is so before Redis 7. A lack of rights on keys, or of those
    that the question itself takes, raises RedisForbidden.
    """

    def parse(reply: Raw) -> list[str] | None:
        return None if reply is None else [f"+{name.decode()}" for name in reply]

    session = keys.session("combat", _ANY_UUID)
    script_keys = (keys.core(1), session, keys.dirty, keys.stats)
    args = (pack(rights.COMMANDS), keys.reverted)
    return Command(_lacking_rights, script_keys, args, parse, repeatable=True)
