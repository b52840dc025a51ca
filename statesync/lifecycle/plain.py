"""Owns the save of plain snapshots, of characters in no session and no tie: a batch in columns.

The guarantees are those of groups. What is not as most are (a row of another history, a field that
cannot be saved, a row that is locked) is left, for the commit of groups.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Self

from sqlalchemy import Engine

from statesync import durable
from statesync.durable import database
from statesync.durable.columns import rows_of
from statesync.durable.plain import PlainSaved
from statesync.durable.results import Raced
from statesync.durable.rows import CoreRows
from statesync.errors import CorruptState
from statesync.hot.commands.acknowledge import GroupAck
from statesync.hot.commands.backup import Plain
from statesync.hot.commands.seals import Withdrawn
from statesync.hot.histograms import observe_save
from statesync.lifecycle.commit import ConnectionLost, noting_loss
from statesync.lifecycle.failpoints import failpoint
from statesync.state.outcomes import BackupOutcome
from statesync.state.sessions import unknown_references

__all__ = ["PlainSave", "PlainSnapshot"]


class PlainSnapshot(NamedTuple):
    """A plain snapshot, decoded."""

    raw: Plain
    rows: CoreRows | None
    """What is to be saved; None if that needs a closer look."""

    @classmethod
    def of(cls, raw: Plain) -> Self:
        """Decode a snapshot."""
        try:
            rows = rows_of(raw.claim.char_id, raw.version, raw.head.seal, raw.core)
        except CorruptState:  # the snapshot of its group says so too
            return cls(raw, None)
        is_odd = rows.absent or (rows.row.extra and unknown_references(rows.row.extra))
        return cls(raw, None if is_odd else rows)


class PlainSave:
    """A save of plain snapshots."""

    def __init__(self, snapshots: Sequence[PlainSnapshot]) -> None:
        self.left = [snapshot.raw for snapshot in snapshots]
        """Those that are not saved."""
        self.observed: Counter[str] = Counter()
        """What its transaction adds to the histograms."""
        self._snapshots: list[Plain] = []
        self._rows: list[CoreRows] = []
        self._in_doubt = False
        """Whether the commit is under way or ended without an answer, so that it may be made."""
        for raw, rows in snapshots:
            if rows:
                self._snapshots.append(raw)
                self._rows.append(rows)

    def commit(self, engine: Engine) -> PlainSaved:
        """Save in one transaction what may be. If PostgreSQL refuses it, nothing is saved.

        Raises ServerUnavailable.
        """
        saved = PlainSaved((), ())
        if not self._rows:
            return saved
        entries = [snapshot.entry for snapshot in self._snapshots]
        nonces = [snapshot.nonces for snapshot in self._snapshots]
        began = time.perf_counter()
        try:
            with database.transaction(engine) as connection, noting_loss():
                found = durable.plain.save(connection, self._rows, entries, nonces)
                failpoint("written")
                self._in_doubt = True  # until PostgreSQL answers to the commit
            saved = found
            self.observed = observe_save(len(self._rows), time.perf_counter() - began)
            failpoint("committed")
        except (database.Rejected, Raced, ConnectionLost):
            pass
        self._in_doubt = False
        decided = {self._snapshots[place].claim for place in saved.places()}
        self.left = [snapshot for snapshot in self.left if snapshot.claim not in decided]
        return saved

    def withdrawn(self) -> list[Withdrawn]:
        """Return what withdraws the seals of those of which nothing is saved for certain."""
        left = () if self._in_doubt else self.left
        return [Withdrawn(snapshot.head.seal, [snapshot.claim]) for snapshot in left]

    def outcomes(self, saved: PlainSaved) -> dict[BackupOutcome, dict[int, int]]:
        """Return by outcome the versions that PostgreSQL holds, of each character that is saved."""
        rows = [rows.row for rows in self._rows]
        found = {
            BackupOutcome.SAVED: {rows[i].id: rows[i].version for i in saved.written},
            BackupOutcome.UNCHANGED: {rows[i].id: rows[i].version - 1 for i in saved.unchanged},
        }
        return {outcome: versions for outcome, versions in found.items() if versions}

    def acknowledgements(self, saved: PlainSaved) -> list[GroupAck]:
        """Return what acknowledges those that PostgreSQL holds: one for each script."""
        durable_versions = {i: self._rows[i].version for i in saved.written}
        durable_versions |= {i: self._rows[i].version - 1 for i in saved.unchanged}
        by_seal: dict[int, list[int]] = {}
        for place in durable_versions:
            by_seal.setdefault(self._snapshots[place].head.seal, []).append(place)
        return [self._acknowledgement(part, durable_versions) for part in by_seal.values()]

    def _acknowledgement(self, places: Sequence[int], durable_versions: dict[int, int]) -> GroupAck:
        snapshots = [self._snapshots[place] for place in places]
        versions = [snapshot.version for snapshot in snapshots]
        durable_ = [durable_versions[place] for place in places]
        return GroupAck(
            snapshots[0].head.at_ms,
            snapshots[0].head.seal,
            [snapshot.claim for snapshot in snapshots],
            versions,
            durable_,
            {
                n: int(snapshots[n].entry)
                for n, version in enumerate(versions)
                if version != durable_[n]
            },
            {n: one.nonces for n, one in enumerate(snapshots) if one.nonces},
        )
