"""Owns what a backup reports of a character."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import overload
from uuid import UUID

from statesync.durable.results import Saved
from statesync.lifecycle.groups import GroupResult
from statesync.lifecycle.snapshots import Snapshot
from statesync.state.outcomes import BackupOutcome, SessionOutcome
from statesync.state.references import SessionRef

__all__ = ["BackupReport", "Reports", "saved_report", "tell_left_to_others"]

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


def saved_report(snapshot: Snapshot, result: GroupResult, char_id: int) -> BackupReport:
    """Return the report on one character of a group that PostgreSQL holds."""
    saved = result.characters[char_id]
    if not isinstance(saved, Saved):
        return BackupReport(char_id, BackupOutcome.DELETED)
    refs = [SessionRef(*pair) for pair in snapshot.group.references[char_id].items()]
    sessions = {ref.session_type: _session_outcome(snapshot, result, ref) for ref in refs}
    if saved.changed or any(_is_changed(result, ref) for ref in refs):
        outcome = BackupOutcome.SAVED
    else:
        outcome = BackupOutcome.UNCHANGED
    missing = [ref.label for ref in refs if sessions[ref.session_type] is SessionOutcome.MISSING]
    error = None
    if missing:
        error = f"gone from Redis: {', '.join(missing)}; what PostgreSQL has stays"
    return BackupReport(char_id, outcome, saved.version, error, sessions=sessions)


def _session_outcome(snapshot: Snapshot, result: GroupResult, ref: SessionRef) -> SessionOutcome:
    session_id = UUID(ref.id)
    saved = result.sessions.get(session_id)
    if not isinstance(saved, Saved):
        return SessionOutcome.MISSING
    if snapshot.group.sessions[session_id].closed:
        return SessionOutcome.CLOSED
    return SessionOutcome.SAVED if saved.changed else SessionOutcome.UNCHANGED


def _is_changed(result: GroupResult, ref: SessionRef) -> bool:
    saved = result.sessions.get(UUID(ref.id))
    return isinstance(saved, Saved) and saved.changed


def tell_left_to_others(unknown_types: Mapping[str, int]) -> None:
    """Log how many characters wait for a worker that knows their session type, by type."""
    counts = ", ".join(f"{name!r} ({count})" for name, count in sorted(unknown_types.items()))
    log.warning(
        "characters in sessions of types that are not registered in this worker are left to one "
        "that knows them: %s",
        counts,
    )
