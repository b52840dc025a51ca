"""Owns what a save finds in the rows: what it may do to each, and what became of it."""

from __future__ import annotations

from msgspec import Struct

from statesync.state.characters import Character

__all__ = [
    "Accepted",
    "Behind",
    "Busy",
    "CharacterDecision",
    "CharacterResult",
    "Deleted",
    "HeldBack",
    "Incomplete",
    "Raced",
    "Saved",
    "SessionDecision",
    "SessionResult",
    "Unknown",
    "WentBack",
]


class Accepted(Struct, frozen=True):
    """The row is older than the snapshot, or there is none: the save may write it."""

    new: bool = False
    """Whether there is no row yet."""


class Saved(Struct, frozen=True):
    """The row holds the state of the snapshot."""

    version: int
    """The row's version."""
    changed: bool
    """False if the row held the same state before this save and was not touched."""
    seal: int | None = None
    """The row's seal."""


class Unknown(Struct, frozen=True):
    """The row is of a history that Redis has forgotten, or another worker has saved since."""

    version: int
    """The row's version."""
    seal: int | None
    """The row's seal."""
    same: bool = False
    """Whether the row holds the state of the snapshot all the same."""
    is_deleted: bool = False


class Behind(Struct, frozen=True):
    """The row's version is not older, although the snapshot descends from it."""

    version: int
    """The row's version."""


class WentBack(Struct, frozen=True):
    """PostgreSQL holds an older state than it once did, or has lost the row."""

    row: Unknown | None
    """The row; None if it is gone."""
    is_certain: bool
    """Whether Redis knows by a seal that it was saved; if not, a writer may have copied numbers."""


class Incomplete(Struct, frozen=True):
    """The row holds fields that the snapshot lacks, and that saving it would lose."""

    row: Character
    is_stump: bool = False
    """Whether a bare writer has made the core while its character was not loaded."""


class Deleted(Struct, frozen=True):
    """The character is deleted; nothing is saved."""


class Busy(Struct, frozen=True):
    """Another transaction has locked the row."""


class HeldBack(Struct, frozen=True):
    """It could be saved, but another member of its group could not; a group is saved whole."""


CharacterResult = Saved | Unknown | Behind | WentBack | Incomplete | Deleted | Busy | HeldBack
"""What became of one character in a save."""

CharacterDecision = CharacterResult | Accepted
"""What a save may do to one character, before it writes."""

SessionResult = Saved | Unknown | Behind | WentBack | Busy | HeldBack
"""What became of one session in a save."""

SessionDecision = Saved | Unknown | Behind | WentBack | Busy | Accepted
"""What a save may do to one session, before it writes."""


class Raced(Exception):
    """Another worker made the row between two statements; begin the transaction again."""
