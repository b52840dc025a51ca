"""Owns what a save finds in the rows: what it may do to each, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass

from statesync.state.characters import Character

__all__ = [
    "Accepted",
    "Busy",
    "CharacterDecision",
    "CharacterResult",
    "Deleted",
    "HeldBack",
    "Incomplete",
    "Raced",
    "Refused",
    "Saved",
    "SessionDecision",
    "SessionResult",
]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The row is older than the snapshot, or there is none: the save may write it."""

    new: bool = False
    """Whether there is no row yet."""


@dataclass(frozen=True, slots=True)
class Saved:
    """The row holds the state of the snapshot."""

    version: int
    """The row's version."""
    changed: bool
    """False if the row held the same state before this save and was not touched."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The row is not older than the snapshot and holds another state."""

    version: int
    """The row's version."""


@dataclass(frozen=True, slots=True)
class Incomplete:
    """The row holds fields that the snapshot lacks, and that saving it would lose."""

    row: Character


@dataclass(frozen=True, slots=True)
class Deleted:
    """The character is deleted; nothing is saved."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Another transaction has locked the row."""


@dataclass(frozen=True, slots=True)
class HeldBack:
    """It could be saved, but another member of its group could not; a group is saved whole."""


CharacterResult = Saved | Refused | Incomplete | Deleted | Busy | HeldBack
"""What became of one character in a save."""

CharacterDecision = CharacterResult | Accepted
"""What a save may do to one character, before it writes."""

SessionResult = Saved | Refused | Busy | HeldBack
"""What became of one session in a save."""

SessionDecision = Saved | Refused | Busy | Accepted
"""What a save may do to one session, before it writes."""


class Raced(Exception):
    """Another worker made the row between two statements; begin the transaction again."""
