"""Owns what operators send to Redis: one function per operation, as in ``commands``. No I/O."""

from __future__ import annotations

from typing import NamedTuple

from statesync.codec import check_char_id
from statesync.command import Command, Raw, load_script
from statesync.keys import Keys

__all__ = ["Pending", "PendingList", "pending"]


class Pending(NamedTuple):
    """Somebody with unsaved changes."""

    name: str
    """A char_id, or what somebody took for one."""
    age_ms: int | None
    """Since the first unsaved change; None where a bare writer's mark was never claimed."""
    marks: tuple[str, ...]
    """Of ``dirty``, ``claimed`` and ``quarantined`` those that it has."""


class PendingList(NamedTuple):
    """How many have unsaved changes, by their marks, and who has had them for longest."""

    dirty: int
    claimed: int
    quarantined: int
    characters: list[Pending]


_pending = load_script("pending")


def pending(keys: Keys, limit: int, char_id: int | None = None, /) -> Command[PendingList]:
    """Read up to ``limit`` of those with unsaved changes, oldest first; or of one alone."""

    def parse(reply: Raw) -> PendingList:
        rows = zip(reply[3::3], reply[4::3], reply[5::3], strict=True)
        listed = [
            Pending(
                name.decode(errors="backslashreplace"),
                int(age) if age else None,
                tuple(marks.decode().split()),
            )
            for name, age, marks in rows
        ]
        dirty, claimed, quarantined = reply[:3]
        return PendingList(dirty, claimed, quarantined, listed)

    args = (limit, "" if char_id is None else check_char_id(char_id))
    on = (keys.dirty, keys.claimed, keys.since, keys.quarantine)
    return Command(_pending, on, args, parse, char_id or 0)
