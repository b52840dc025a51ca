"""Owns what a Command is: one atomic operation on Redis, as a value, and what its replies mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files
from typing import Any, Generic, NamedTuple, TypeVar

from statesync import codec, errors

__all__ = [
    "Claim",
    "Command",
    "Marks",
    "QuarantineEntry",
    "Raw",
    "Script",
    "Snapshot",
    "Status",
    "load_script",
]

T = TypeVar("T")
Raw = Any
"""What redis-py makes of a reply: bytes, int, or a list of these."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the name by which Redis caches it."""

    source: bytes
    sha: str


def load_script(name: str) -> Script:
    source = (files("statesync") / "lua" / f"{name}.lua").read_bytes()
    # How Redis itself names a script; nothing secret hangs on it.
    return Script(source, sha1(source, usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Command(Generic[T]):
    """One atomic operation: which script to run on what, and how to read the reply."""

    script: Script
    keys: Sequence[str]
    args: Iterable[str | int]
    parse: Callable[[Raw], T]
    char_id: int = 0

    def error(self, message: str) -> errors.StatesyncError | None:
        """Return the error that a script's error reply means; None if it is none of ours."""
        found = _CODE.search(message)
        return _ERRORS[found[1]](self.char_id, found[2]) if found else None


_ERRORS: dict[str, Callable[[int, str], errors.StatesyncError]] = {
    "NOTLOADED": lambda char_id, _: errors.CharacterNotLoaded(char_id),
    "EXISTS": lambda char_id, _: errors.CharacterExists(char_id),
    "LEASELOST": lambda char_id, _: errors.LeaseLost(char_id),
    "BADVERSION": lambda char_id, _: errors.CorruptState(
        char_id, "version", "must be an integer from 0 to 2^53-1"
    ),
    "WRONGTYPE": lambda char_id, _: errors.CorruptState(
        char_id, "(key)", "the core's key is not a hash"
    ),
    "TOOLARGE": lambda char_id, rest: errors.CorruptState(
        char_id,
        rest.partition(" ")[2],
        f"the core is {rest.partition(' ')[0]} bytes, most of it here; "
        f"at most {codec.MAX_CORE_BYTES} can be saved",
    ),
}


# Redis 6.2 puts the place in the script before an error that the script did not catch.
_CODE = re.compile(rf"(?:^|: )({'|'.join(_ERRORS)})\b ?(.*)")


class Claim(NamedTuple):
    """A lease on one character; ``token`` is its deadline in µs of Redis' clock."""

    char_id: int
    token: int


class Snapshot(NamedTuple):
    """What Redis held of a character at ``at_ms``; ``raw`` is empty where the core is gone."""

    at_ms: int
    raw: dict[bytes, bytes]


class QuarantineEntry(NamedTuple):
    """Why a character could not be saved, and since when (Unix seconds)."""

    name: str
    error: str
    field: str | None
    attempts: int
    first_at: float
    last_at: float


class Marks(NamedTuple):
    """The marks of one character."""

    dirty: bool
    token: int | None
    since_ms: int | None
    quarantine: QuarantineEntry | None


class Status(NamedTuple):
    """How much is unsaved, and the shared counters."""

    dirty: int
    claimed: int
    expired: int
    """Of the claimed ones, those whose lease has ended."""
    quarantined: int
    oldest_ms: int | None
    """Age of the oldest unsaved change."""
    counters: dict[str, int]
