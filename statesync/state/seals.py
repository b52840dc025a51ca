"""Owns seals: the marks by which Redis and PostgreSQL tell whether they are of the same history.

Each snapshot of a group has a random seal. Redis keeps those since the acknowledged one; a save
writes its own into the row. So a row whose seal Redis does not know was saved in a history that
Redis has forgotten. Numbers alone cannot tell: after a loss they are passed again.
"""

from __future__ import annotations

import random
import re
from typing import NamedTuple

from statesync.state.fields import MAX_ID

__all__ = [
    "BARE",
    "CREATED",
    "DELETED",
    "FULL_BYTES",
    "LAID",
    "LOST",
    "Seals",
    "new_seal",
    "seals_of",
]

CREATED = "created"
"""The note that a core was made as a new one: it knows no row."""
BARE = "bare"
"""The note that nothing was known of a core or session at its first snapshot: a bare writer has
made it, or a worker from before seals."""
DELETED = "deleted"
"""The note that a deletion of the character has begun."""
LOST = "lost"
"""The note that a core was there, and nothing was known of it, when Redis had gone back in time."""
LAID = "laid"
"""The note that a core which a bare writer made is laid over its row, and not saved since."""
_SEAL, _SAVED_AT = re.compile("[1-9][0-9]{0,18}"), re.compile("v[0-9]{1,16}")

FULL_BYTES = 32 * 20
"""An entry in Redis that is longer has no room for another seal: some 32 snapshots ended without
an answer from PostgreSQL."""


class Seals(NamedTuple):
    """What the snapshot of a core or session knew of its history."""

    own: int
    """The seal of the snapshot itself."""
    words: tuple[str, ...] | None = None
    """Its entry in Redis before that, oldest first; None if there was none."""

    def has(self, note: str) -> bool:
        """Return whether a note is among the words."""
        return self.words is not None and note in self.words

    def knows(self, seal: int | None) -> bool:
        """Return whether the snapshot descends from what was saved under a seal."""
        return seal is not None and self.words is not None and str(seal) in self.words

    @property
    def is_bare(self) -> bool:
        """Whether nothing was known of it when its first snapshot was taken."""
        return self.words is None or BARE in self.words

    @property
    def saved_version(self) -> int | None:
        """The version at which a session was saved; a core has a field for it."""
        notes = [word for word in self.words or () if _SAVED_AT.fullmatch(word)]
        return int(notes[-1][1:]) if notes else None

    @property
    def is_full(self) -> bool:
        """Whether the entry has no room for another seal."""
        return len(" ".join(self.words or ())) > FULL_BYTES

    @property
    def last(self) -> int | None:
        """The newest seal before the snapshot's own."""
        numbers = self.numbers
        return numbers[-1] if numbers else None

    @property
    def numbers(self) -> list[int]:
        """The seals among the words, oldest first."""
        seals = [int(word) for word in self.words or () if _SEAL.fullmatch(word)]
        return [seal for seal in seals if seal <= MAX_ID]


def new_seal() -> int:
    """Return a random seal, from 1 to 2^63-1."""
    return random.randrange(1, 2**63)  # noqa: S311 - no secret; reseeded in each fork


def seals_of(own: int, entry: str | None) -> Seals:
    """Return what an entry in Redis says, without the snapshot's own seal: it may be sent twice."""
    if entry is None:
        return Seals(own)
    own_word = str(own)
    return Seals(own, tuple([word for word in entry.split() if word != own_word]))
