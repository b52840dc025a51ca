"""Owns what a Command is: one atomic operation on Redis, as a value, and what its replies mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from importlib.resources import files
from itertools import chain
from typing import Any, Generic, TypeVar

import msgspec

from statesync import errors
from statesync.state.fields import MAX_CORE_BYTES

__all__ = [
    "SCRIPT_MEMBERS",
    "SOURCES",
    "Command",
    "Raw",
    "Script",
    "corrupt",
    "error_of",
    "flat",
    "load_script",
    "not_loaded",
    "pack",
    "packed",
    "pairs",
    "session_of",
]

SCRIPT_MEMBERS = 32
"""How many characters and sessions one script reads or writes: less than a millisecond."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")
Raw = Any
"""What redis-py makes of a reply: bytes, int, or a list of these."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the name by which Redis caches it."""

    source: bytes
    sha: str
    name: str
    """That of its file."""


SOURCES: dict[str | bytes | int, bytes] = {}
"""The scripts by the names by which Redis caches them."""


def load_script(name: str) -> Script:
    """Read a script, with the shared parts that its ``-- Uses:`` line names before it."""
    lua = files("statesync.hot.commands")
    source = (lua / f"{name}.lua").read_bytes()
    if used := _USES.search(source):
        shared = [lua / "shared" / f"{part.strip()}.lua" for part in used[1].decode().split(",")]
        source = b"".join([*(part.read_bytes() for part in shared), source])
    # Redis itself names a script so; it protects no secret.
    sha = sha1(source, usedforsecurity=False).hexdigest()
    SOURCES[sha] = source
    return Script(source, sha, name)


@dataclass(frozen=True, slots=True)
class Command(Generic[T_co]):
    """One atomic operation: which script to run on what, and how to read the reply.

    A script declares every key that it touches. If it finds that it needs others, it does nothing
    and says which; then ``parse`` returns the Command to run instead.
    """

    script: Script = field(repr=False)
    keys: Sequence[str]
    args: Iterable[str | int | bytes]
    parse: Callable[[Raw], T_co | Command[T_co]]
    char_id: int = 0
    saves: Sequence[int] | None = None
    """If the change is to be durable before the operation returns: the characters to save."""
    nonce: str | None = None
    """The change's own id, if it has one: PostgreSQL has it as soon as the change."""
    repeatable: bool = False
    """Whether it may be sent again if its reply is lost: to run it twice does no harm, whatever
    others have written in between. So for what only reads."""

    def then(self, convert: Callable[[T_co], U]) -> Command[U]:
        """Return the Command whose result is what ``convert`` makes of this one's."""

        def parse(reply: Raw) -> U | Command[U]:
            result = self.parse(reply)
            return result.then(convert) if isinstance(result, Command) else convert(result)

        return Command(
            self.script,
            self.keys,
            self.args,
            parse,
            self.char_id,
            saves=self.saves,
            nonce=self.nonce,
            repeatable=self.repeatable,
        )

    def read(self, reply: Raw) -> T_co | Command[T_co] | errors.StatesyncError:
        """Return what a reply means, as ``parse``, or the error of ours that it raises."""
        try:
            return self.parse(reply)
        except errors.StatesyncError as error:
            return error

    def error(self, message: str) -> errors.StatesyncError | None:
        """Return the error that a script's error reply means; None if it is none of ours."""
        return error_of(message, self.keys, self.char_id) if _CODE.search(message) else None


def error_of(message: str, keys: Sequence[str], char_id: int) -> errors.StatesyncError:
    """Return the error that one of our codes means, in a script for ``char_id``."""
    found = _CODE.search(message)
    assert found  # noqa: S101
    key = keys[int(found[2]) - 1] if found[2] else keys[0]
    return _ERRORS[found[1]](char_id, key, found[3])


def _char_id(key: str, otherwise: int) -> int:
    """Return the id of the character whose core ``key`` is, if it is one."""
    head, _, text = key.rpartition(":")
    return int(text) if head.endswith("ac") and text.isdigit() else otherwise


def not_loaded(char_id: int, key: str) -> errors.CharacterNotLoaded:
    """Return the error for a character whose core, ``key``, is absent; it names the realm."""
    tag = _TAG.match(key)
    return errors.CharacterNotLoaded(char_id, tag[1] if tag else "")


def corrupt(char_id: int, key: str, field: str, reason: str) -> errors.CorruptState:
    """Return the error for a field of a core or session; of ``char_id`` unless it is a core."""
    session = _SESSION.search(key)
    if session:
        return errors.CorruptState(char_id, f"{session[0]}.{field}", reason)
    return errors.CorruptState(_char_id(key, char_id), field, reason)


def _wrong_type(char_id: int, key: str) -> errors.CorruptState:
    reason = "the key is not of the type that it must be"
    marks = _MARKS.search(key)
    if marks:  # no character's fault
        return errors.CorruptState(0, marks[0], reason)
    return corrupt(char_id, key, "(key)", reason)


def _too_large(char_id: int, key: str, rest: str) -> errors.CorruptState:
    size, _, field = rest.partition(" ")
    return corrupt(
        char_id,
        key,
        field,
        f"the hash is {size} bytes, most of it here; at most {MAX_CORE_BYTES} can be saved",
    )


def session_of(key: str) -> str:
    """Return how messages name the session of a key: ``combat:session:{uuid}``."""
    found = _SESSION.search(key)
    return found[0] if found else key


_TAG = re.compile(r"\{([^}]+)\}:")
_USES = re.compile(rb"^-- Uses: (.+)$", re.M)
_MARKS = re.compile(
    r"(dirty_accounts(:[a-z]+)?|statesync:(stats|sweep|trouble|seals|nonces|dropped|servers|once:.*))$"
)
_SESSION = re.compile(r"[a-z0-9_]+:session:[0-9a-f-]{36}(:log)?$")

_ERRORS: dict[str, Callable[[int, str, str], errors.StatesyncError]] = {
    "NOTLOADED": lambda char_id, key, _: not_loaded(_char_id(key, char_id), key),
    "EXISTS": lambda char_id, _key, _: errors.CharacterExists(char_id),
    "WENTBACK": lambda _char, _key, _: errors.DatabaseWentBack(),
    "LEASELOST": lambda char_id, _key, _: errors.LeaseLost(char_id),
    "BADVERSION": lambda char_id, key, _: corrupt(
        char_id, key, "version", "must be an integer from 0 to 2^53-1"
    ),
    "WRONGTYPE": lambda char_id, key, _: _wrong_type(char_id, key),
    "TOOLARGE": _too_large,
    "INSESSION": lambda char_id, key, _: errors.InSession(_char_id(key, char_id)),
    "SESSIONEXISTS": lambda _char, key, _: errors.SessionExists(session_of(key)),
    "SESSIONGONE": lambda _char, key, _: errors.SessionNotFound(session_of(key)),
    "SESSIONCLOSED": lambda _char, key, _: errors.SessionClosed(session_of(key)),
    "SESSIONNOTLOADED": lambda _char, key, _: errors.SessionNotLoaded(session_of(key)),
    "BADLIST": lambda char_id, key, _: corrupt(
        char_id, key, "participants", "must be a list of different character ids, such as [1,2]"
    ),
    "GROUPTOOLARGE": lambda _char, _key, ids: errors.GroupTooLarge(tuple(map(int, ids.split()))),
}


# Redis 6.2 puts the line of the script before an error that the script did not catch. The number
# is that of the key that has the error.
_CODE = re.compile(rf"(?:^|: )({'|'.join(_ERRORS)})\b ?(\d*) ?(.*)")


pack = msgspec.msgpack.Encoder().encode
"""Packs arguments into one: Redis reads one much faster than hundreds; Lua names its parts."""


def packed(items: Iterable[T], size: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Yield the items in lists whose sizes add up to at most ``most``; a larger one comes alone."""
    part: list[T] = []
    total = 0
    for item in items:
        total += size(item)
        if part and total > most:
            yield part
            part, total = [], size(item)
        part.append(item)
    if part:
        yield part


def flat(mapping: Mapping[str, str]) -> list[str]:
    """Return a mapping as field, value, field, value, …"""
    return list(chain.from_iterable(mapping.items()))


def pairs(reply: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the mapping that a script gives as field, value, field, value, …"""
    return dict(zip(reply[::2], reply[1::2], strict=True))
