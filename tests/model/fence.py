"""What a commit may do to one row, under the row's lock: the fence is the code's own."""

from __future__ import annotations

from statesync.durable.fence import Head, RowHead, Verdict, judge, judge_session
from statesync.state.seals import Seals
from tests.model.state import BARE, CREATED, DELETED, LAID, LOST, Hash, Row

ACCEPTED, BEHIND, DEAD, GONE = "accepted", "behind", "dead", "gone"
NEW, SAVED, STUMP, UNCHANGED = "new", "saved", "stump", "unchanged"
UNKNOWN, WENT_BACK = "unknown", "went back"

SAVEABLE = {NEW, SAVED, ACCEPTED, UNCHANGED, GONE}
WRITTEN = {NEW, ACCEPTED}

_NAMES = {
    Verdict.NEW: NEW,
    Verdict.NEWER: ACCEPTED,
    Verdict.REPEATED: SAVED,
    Verdict.BEHIND: BEHIND,
    Verdict.STUMP: STUMP,
    Verdict.DELETED: GONE,
    Verdict.UNKNOWN: UNKNOWN,
    Verdict.WENT_BACK: WENT_BACK,
}
_NOTES = {CREATED: "created", BARE: "bare", LOST: "lost", DELETED: "deleted", LAID: "laid"}


def decide(read: Hash, own: int, row: Row, settling: bool, wrong: str) -> str:
    """Decide about a character; ``read.seals`` is its list before the snapshot added ``own``."""
    words = read.seals or ()
    if row.seal == own and wrong == "own seal whatever its version":
        return SAVED
    if wrong == "no note of what was lost":
        words = tuple(word for word in words if word != LOST)
    verdict = _NAMES[judge(_head(read, own, words), _row_head(row))]
    if verdict == STUMP:
        return UNKNOWN if settling and wrong != "lay stumps while settling" else STUMP
    if verdict == GONE:
        return GONE if DELETED in words else DEAD
    return _unless_same(verdict, read, row)


def decide_session(read: Hash, own: int, row: Row, wrong: str) -> str:
    """Decide about a session."""
    if wrong == "no saved version of a session":
        read = read._replace(saved=None)
    verdict = _NAMES[judge_session(_head(read, own, read.seals or ()), _row_head(row))]
    return _unless_same(verdict, read, row)


def _head(read: Hash, own: int, words: tuple[int, ...]) -> Head:
    texts = tuple(_NOTES.get(word, str(word)) for word in words)
    return Head(read.version, read.saved, Seals(own, texts or None))


def _row_head(row: Row) -> RowHead | None:
    if not row.exists:
        return None
    return RowHead(row.version, row.seal or None, row.seal_version or None, row.deleted)


def _unless_same(verdict: str, read: Hash, row: Row) -> str:
    """A row one version behind with the same content is not touched."""
    same = content(read) == content(row) and row.version == read.version - 1
    known = not row.sealed or row.seal == _last_seal(read)
    return UNCHANGED if verdict == ACCEPTED and same and known else verdict


def _last_seal(read: Hash) -> int:
    return next((word for word in reversed(read.seals or ()) if word > 0), 0)


def content(one: Hash | Row) -> tuple[object, ...]:
    return (one.items, one.changes, one.in_session, one.closed)
