"""The fence: which snapshot may be written over which row, and what it means if it may not."""

from __future__ import annotations

import pytest

from statesync.durable.fence import Head, RowHead, Verdict, judge, judge_session
from statesync.state.seals import BARE, CREATED, DELETED, LOST, Seals

OWN, KNOWN, OTHER = 9, 7, 5
KNOWS = (str(KNOWN),)


def head(version: int, saved_version: int | None, *words: str, bare: bool = False) -> Head:
    """Make the head of a snapshot; ``bare`` if Redis has no entry at all."""
    return Head(version, saved_version, Seals(OWN, None if bare else words))


def row(version: int, seal: int | None, *, is_ended: bool = False) -> RowHead:
    return RowHead(version, seal, version, is_ended)


UNSEALED = RowHead(4, KNOWN, 3)
"""The row that a worker from before seals has written over one with a seal."""

CASES: list[tuple[str, Head, RowHead | None, Verdict]] = [
    ("new", head(1, None, CREATED), None, Verdict.NEW),
    ("new, of a bare writer", head(1, None, bare=True), None, Verdict.NEW),
    ("saved, and its row is gone", head(5, 4, *KNOWS), None, Verdict.WENT_BACK),
    ("saved before seals, and its row is gone", head(5, 4, bare=True), None, Verdict.NEW),
    ("newer", head(5, 4, *KNOWS), row(4, KNOWN), Verdict.NEWER),
    ("at the row's number", head(4, 4, *KNOWS), row(4, KNOWN), Verdict.BEHIND),
    ("below the row's number", head(2, 4, *KNOWS), row(4, KNOWN), Verdict.BEHIND),
    ("repeated", head(4, 3, *KNOWS), row(4, OWN), Verdict.REPEATED),
    ("its seal under another number", head(4, 3, *KNOWS), row(5, OWN), Verdict.UNKNOWN),
    ("a seal that Redis forgot", head(9, 4, *KNOWS), row(5, OTHER), Verdict.UNKNOWN),
    ("that forgot what Redis saved", head(9, 6, *KNOWS), row(5, OTHER), Verdict.WENT_BACK),
    ("created, and the id was there", head(9, None, CREATED), row(5, OTHER), Verdict.UNKNOWN),
    ("created, over a row from before seals", head(9, None, CREATED), RowHead(5), Verdict.UNKNOWN),
    ("created, not acknowledged", head(3, None, CREATED, *KNOWS), row(2, KNOWN), Verdict.NEWER),
    ("made over a row by a bare writer", head(3, None, bare=True), row(2, OTHER), Verdict.STUMP),
    ("the same, seen before", head(3, None, BARE), row(2, OTHER), Verdict.STUMP),
    ("the same, saved before", head(3, None, BARE, *KNOWS), row(2, KNOWN), Verdict.NEWER),
    ("the same, after a loss", head(3, None, BARE, LOST), row(2, OTHER), Verdict.UNKNOWN),
    ("from before seals", head(5, 4, bare=True), row(4, OTHER), Verdict.NEWER),
    ("from before seals, and passed", head(5, 3, bare=True), row(4, OTHER), Verdict.UNKNOWN),
    ("over a row from before seals", head(5, 4, *KNOWS), UNSEALED, Verdict.NEWER),
    ("behind a row from before seals", head(4, 3, *KNOWS), UNSEALED, Verdict.UNKNOWN),
    ("over an older row from before seals", head(9, 6, *KNOWS), UNSEALED, Verdict.WENT_BACK),
    ("no seals at all", head(9, 6, bare=True), RowHead(4), Verdict.NEWER),
    (
        "deleted, and known",
        head(5, 4, DELETED, *KNOWS),
        row(4, KNOWN, is_ended=True),
        Verdict.DELETED,
    ),
    ("deleted, and forgotten", head(5, 4, *KNOWS), row(4, KNOWN, is_ended=True), Verdict.UNKNOWN),
    (
        "made again over a deleted row",
        head(1, None, CREATED),
        row(4, KNOWN, is_ended=True),
        Verdict.DELETED,
    ),
]

SESSIONS: list[tuple[str, Head, RowHead | None, Verdict]] = [
    ("new", head(1, None, bare=True), None, Verdict.NEW),
    ("newer", head(5, None, *KNOWS), row(4, KNOWN), Verdict.NEWER),
    ("at the row's number", head(4, None, *KNOWS), row(4, KNOWN), Verdict.BEHIND),
    ("repeated", head(4, None, *KNOWS), row(4, OWN), Verdict.REPEATED),
    ("its seal under another number", head(4, None, *KNOWS), row(5, OWN), Verdict.UNKNOWN),
    ("a seal that Redis forgot", head(9, None, *KNOWS), row(5, OTHER), Verdict.UNKNOWN),
    ("of a bare writer", head(5, None, bare=True), row(4, OTHER), Verdict.NEWER),
    ("of a bare writer, and behind", head(4, None, bare=True), row(4, OTHER), Verdict.UNKNOWN),
    ("over a row from before seals", head(5, None, *KNOWS), UNSEALED, Verdict.NEWER),
    (
        "opened under the id of a closed one",
        head(2, None, bare=True),
        row(4, OTHER, is_ended=True),
        Verdict.BEHIND,
    ),
    ("saved before, and the row is gone", head(5, 4, *KNOWS), None, Verdict.WENT_BACK),
    ("saved before, and the row is older", head(9, 6, *KNOWS), row(5, OTHER), Verdict.WENT_BACK),
    ("saved before, and the row is newer", head(9, 6, *KNOWS), row(7, OTHER), Verdict.UNKNOWN),
    ("closed, and forgotten", head(9, None, *KNOWS), row(4, OTHER, is_ended=True), Verdict.UNKNOWN),
]


@pytest.mark.parametrize(
    ("snapshot", "found", "verdict"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_character(snapshot: Head, found: RowHead | None, verdict: Verdict) -> None:
    assert judge(snapshot, found) is verdict


@pytest.mark.parametrize(
    ("snapshot", "found", "verdict"), [c[1:] for c in SESSIONS], ids=[c[0] for c in SESSIONS]
)
def test_session(snapshot: Head, found: RowHead | None, verdict: Verdict) -> None:
    assert judge_session(snapshot, found) is verdict
