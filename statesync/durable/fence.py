"""Owns the fence: whether a snapshot may be written over a row, by seals and versions. No I/O.

A row is overwritten only by a newer version that knew the row's seal when its snapshot was taken.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from statesync.state.seals import CREATED, DELETED, LOST, Seals

__all__ = ["Head", "RowHead", "Verdict", "judge", "judge_session"]


class RowHead(NamedTuple):
    """What the fence reads of a row."""

    version: int
    seal: int | None = None
    seal_version: int | None = None
    is_ended: bool = False
    """Whether the character is deleted, or the session closed."""

    @property
    def is_sealed(self) -> bool:
        """Whether its seal is that of its version; a worker from before seals raises that alone."""
        return self.seal is not None and self.seal_version == self.version

    @property
    def valid_seal(self) -> int | None:
        """The seal of its version, if it has one."""
        return self.seal if self.is_sealed else None


class Head(NamedTuple):
    """What the fence reads of a core or session, at a snapshot or between two."""

    version: int
    saved_version: int | None
    """None if it was never saved."""
    seals: Seals


class Verdict(StrEnum):
    """What the fence says of a snapshot and a row."""

    NEW = "new"
    """There is no row yet."""
    NEWER = "newer"
    """The snapshot descends from the row and is newer."""
    REPEATED = "repeated"
    """The row was saved from this very snapshot."""
    BEHIND = "behind"
    """The snapshot descends from the row, but a writer has put its number back."""
    STUMP = "stump"
    """A bare writer has made the core while its character was not loaded."""
    DELETED = "deleted"
    """The character is deleted, and this is known."""
    UNKNOWN = "unknown"
    """Redis has forgotten the history that the row is of: it went back in time."""
    WENT_BACK = "went_back"
    """PostgreSQL has forgotten what Redis knows to be saved: it went back in time."""


def judge(head: Head, row: RowHead | None) -> Verdict:
    """Return what may be done to a row; None if there is none."""
    if row is None:
        return _without_row(head)
    _, saved_version, seals = head
    was_saved = saved_version is not None
    if row.is_ended:
        return Verdict.UNKNOWN if was_saved and not seals.has(DELETED) else Verdict.DELETED
    if row.seal == seals.own:
        return _own(head, row)
    if seals.has(CREATED):
        if not seals.knows(row.seal):
            return Verdict.UNKNOWN
    elif not was_saved and not (seals.is_bare and seals.knows(row.seal)):
        return Verdict.UNKNOWN if seals.has(LOST) else Verdict.STUMP
    return _by_descent(head, row)


def judge_session(head: Head, row: RowHead | None) -> Verdict:
    """Return what may be done to the row of a session, as ``judge``."""
    if row is None:
        return _without_row(head)
    if row.seal == head.seals.own:
        return _own(head, row)
    if row.is_ended and head.seals.is_bare and not head.seals.knows(row.seal):
        # Its id is used again: what a closed session was is of no matter to the new one.
        return Verdict.NEWER if row.version < head.version else Verdict.BEHIND
    return _by_descent(head, row)


def _without_row(head: Head) -> Verdict:
    was_saved = head.saved_version is not None and not head.seals.is_bare
    return Verdict.WENT_BACK if was_saved else Verdict.NEW


def _own(head: Head, row: RowHead) -> Verdict:
    """Return what it means that a row has the snapshot's own seal; ``reseal`` may have given it."""
    is_repeated = row.is_sealed and row.version == head.version
    return Verdict.REPEATED if is_repeated else Verdict.UNKNOWN


def _by_descent(head: Head, row: RowHead) -> Verdict:
    version, saved_version, seals = head
    has_lost = saved_version is not None and row.version < saved_version
    is_newer = row.version < version
    if not row.is_sealed or (saved_version is None and seals.is_bare and not seals.knows(row.seal)):
        # Of one of them no seal is known: as before seals, only the numbers tell.
        if has_lost and not seals.is_bare:
            return Verdict.WENT_BACK
        return Verdict.NEWER if is_newer else Verdict.UNKNOWN
    # A core that a worker from before seals has restored or saved is as its row at that version.
    if seals.knows(row.seal) or (seals.is_bare and saved_version == row.version):
        return Verdict.NEWER if is_newer else Verdict.BEHIND
    return Verdict.WENT_BACK if has_lost else Verdict.UNKNOWN
