"""Owns what a backup reports of a character."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import overload

from statesync.durable.results import Saved, SessionResult
from statesync.lifecycle.snapshots import GroupResult, Snapshot
from statesync.state.outcomes import BackupOutcome, SessionOutcome
from statesync.state.references import SessionRef

__all__ = ["BackupReport", "Reports", "saved_reports", "tell_left_to_others"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What became of one character in a backup."""

    char_id: int
    outcome: BackupOutcome
    version: int | None = None
    """The version that PostgreSQL holds."""
    error: str | None = None
    field: str | None = None
    sessions: dict[str, SessionOutcome] = dataclass_field(default_factory=dict)
    """By type: what became of each session that the core points at."""


class Reports(Sequence[BackupReport]):
    """The reports of a backup, in the order of its characters.

    Of most characters there is no more to say than their version: their reports are made when
    somebody asks for them.
    """

    def __init__(self, char_ids: Iterable[int]) -> None:
        self._char_ids = [*dict.fromkeys(char_ids)]
        self._reports: dict[int, BackupReport] = {}
        self._versions: dict[BackupOutcome, dict[int, int]] = {}

    def add(
        self,
        reports: Mapping[int, BackupReport],
        versions: Mapping[BackupOutcome, Mapping[int, int]],
    ) -> None:
        """Add reports, and by outcome the versions of characters without one."""
        self._reports |= reports
        for outcome, of_outcome in versions.items():
            self._versions.setdefault(outcome, {}).update(of_outcome)

    def counts(self) -> Counter[BackupOutcome]:
        """Return how many characters had each outcome."""
        counts = Counter(self._reports[i].outcome for i in self._char_ids if i in self._reports)
        counts.update({outcome: len(versions) for outcome, versions in self._versions.items()})
        return counts

    def of(self, char_id: int) -> BackupReport:
        """Return the report on one character."""
        for outcome, versions in self._versions.items():
            if char_id in versions:
                return BackupReport(char_id, outcome, versions[char_id])
        return self._reports[char_id]

    def __len__(self) -> int:
        return len(self._char_ids)

    @overload
    def __getitem__(self, index: int) -> BackupReport: ...
    @overload
    def __getitem__(self, index: slice) -> list[BackupReport]: ...
    def __getitem__(self, index: int | slice) -> BackupReport | list[BackupReport]:
        if isinstance(index, slice):
            return [self.of(char_id) for char_id in self._char_ids[index]]
        return self.of(self._char_ids[index])


def saved_reports(snapshot: Snapshot, result: GroupResult) -> dict[int, BackupReport]:
    """Return the reports on the characters of a group that PostgreSQL holds."""
    sessions = {
        session.ref.id: (session.closed, result.sessions[session_id])
        for session_id, session in snapshot.sessions.items()
    }
    return {
        char_id: BackupReport(char_id, BackupOutcome.DELETED)
        if not isinstance(saved, Saved)
        else _saved_report(char_id, saved, snapshot.references(char_id), sessions)
        for char_id, saved in result.characters.items()
    }


def _saved_report(
    char_id: int,
    saved: Saved,
    references: Mapping[str, str],
    sessions: Mapping[str, tuple[bool, SessionResult]],
) -> BackupReport:
    is_changed = saved.changed
    outcomes, missing = {}, []
    for session_type, session_id in references.items():
        closed, row = sessions.get(session_id, (False, None))
        if not isinstance(row, Saved):
            outcomes[session_type] = SessionOutcome.MISSING
            missing.append(SessionRef(session_type, session_id).label)
            continue
        is_changed = is_changed or row.changed
        unless_closed = SessionOutcome.SAVED if row.changed else SessionOutcome.UNCHANGED
        outcomes[session_type] = SessionOutcome.CLOSED if closed else unless_closed
    error = None
    if missing:
        error = f"gone from Redis: {', '.join(missing)}; what PostgreSQL has stays"
    outcome = BackupOutcome.SAVED if is_changed else BackupOutcome.UNCHANGED
    return BackupReport(char_id, outcome, saved.version, error, sessions=outcomes)


def tell_left_to_others(unknown_types: Mapping[str, int]) -> None:
    """Log how many characters wait for a worker that knows their session type, by type."""
    counts = ", ".join(f"{name!r} ({count})" for name, count in sorted(unknown_types.items()))
    log.warning(
        "characters in sessions of types that are not registered in this worker are left to one "
        "that knows them: %s",
        counts,
        extra={"counts": dict(unknown_types)},
    )
