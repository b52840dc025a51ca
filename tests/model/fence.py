"""What a commit may do to one row, under the row's lock."""

from __future__ import annotations

from tests.model.state import BARE, CREATED, DELETED, LOST, Hash, Row

NEW, SAVED, ACCEPTED, UNCHANGED, GONE = "new", "saved", "accepted", "unchanged", "deleted"
BEHIND, STUMP, UNKNOWN, WENT_BACK, DEAD = "behind", "stump", "unknown", "went back", "dead"

SAVEABLE = {NEW, SAVED, ACCEPTED, UNCHANGED, GONE}
WRITTEN = {NEW, ACCEPTED}


def decide(read: Hash, own: int, row: Row, settling: bool, wrong: str) -> str:
    """Decide about a character; ``read.seals`` is its list before the snapshot added ``own``."""
    seals, saved = read.seals or (), read.saved
    if not row.exists:
        return WENT_BACK if saved is not None and any(word > 0 for word in seals) else NEW
    if row.deleted:
        return _decide_deleted(seals, saved, row, own)
    if row.sealed and row.seal == own:
        same = row.version == read.version or wrong == "own seal whatever its version"
        return SAVED if same else UNKNOWN
    if saved is None and not {CREATED, LOST} & set(seals):
        settling = settling and wrong != "lay stumps while settling"
        return UNKNOWN if settling else STUMP
    if row.seal in seals and (row.sealed or row.version < read.version):
        return _decide_known(read, row)
    return (
        UNKNOWN
        if LOST in seals and wrong != "no note of what was lost"
        else (_decide_strange(read, row))
    )


def _decide_deleted(seals: tuple[int, ...], saved: int | None, row: Row, own: int) -> str:
    if DELETED in seals:
        return GONE
    if row.seal in (*seals, own):
        return UNKNOWN
    return UNKNOWN if saved is not None else DEAD


def _decide_known(read: Hash, row: Row) -> str:
    """The snapshot knew of the save that made this row."""
    if row.version >= read.version:
        return BEHIND
    same = row.changes == read.changes and row.version == read.version - 1
    return UNCHANGED if same and (not row.sealed or row.seal == last_seal(read)) else ACCEPTED


def _decide_strange(read: Hash, row: Row) -> str:
    """The snapshot does not know the row's seal, or it has none."""
    saved, seals = read.saved, read.seals or ()
    bare = BARE in seals or not seals
    if row.sealed:
        if bare and saved == row.version:
            return _decide_known(read, row)
        return WENT_BACK if saved is not None and row.version < saved else UNKNOWN
    if CREATED in seals:
        return UNKNOWN
    if saved is not None and saved > row.version and not bare:
        return WENT_BACK
    return _decide_known(read, row) if row.version < read.version else UNKNOWN


def decide_session(read: Hash, own: int, row: Row, *, went_back: bool) -> str:
    """Decide about a session, which has no ``saved_version``."""
    seals = read.seals or ()
    if not row.exists:
        return NEW
    if row.sealed and row.seal == own:
        return SAVED if row.version == read.version else UNKNOWN
    if row.seal in seals:
        return _decide_known(read, row)
    if not [word for word in seals if word > 0] and row.version < read.version:
        return _decide_known(read, row)
    return ACCEPTED if went_back else UNKNOWN


def last_seal(read: Hash) -> int:
    return next((word for word in reversed(read.seals or ()) if word > 0), 0)
