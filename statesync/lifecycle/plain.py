"""Owns the backup of plain characters, those in no session and no tie: a batch in columns.

The steps are those of groups, and so are the guarantees. Whatever is not as most are (a new
character, a row of another history, a field that cannot be saved, a row that is locked) is left as
it was, for the backup of groups.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy import Engine

from statesync import durable
from statesync.durable import database
from statesync.durable.columns import rows_of
from statesync.durable.plain import PlainSaved
from statesync.durable.results import Raced
from statesync.durable.rows import CoreRows
from statesync.errors import CorruptState, ServerUnavailable, StatesyncError
from statesync.hot.commands.acknowledge import GroupAck
from statesync.hot.commands.claims import Claim
from statesync.hot.commands.plain import PLAIN_STEP, Plain
from statesync.hot.commands.seals import Withdrawn
from statesync.hot.histograms import observe_save
from statesync.hot.store import HotStore, unwrap
from statesync.lifecycle.claims import acknowledge
from statesync.lifecycle.commit import ConnectionLost, noting_loss
from statesync.lifecycle.failpoints import failpoint
from statesync.state.outcomes import BackupOutcome
from statesync.state.seals import new_seal
from statesync.state.sessions import unknown_references

__all__ = ["PlainReport", "backup_plain"]

T = TypeVar("T")


@dataclass(slots=True)
class PlainReport:
    """What became of the plain ones among some claimed characters."""

    outcomes: dict[BackupOutcome, dict[int, int]] = field(default_factory=dict)
    """By outcome, of each character that is decided: the version that PostgreSQL holds."""
    known_members: dict[int, frozenset[str]] = field(default_factory=dict)
    """Of those that are left: the members of their group, as far as their cores name them."""


def backup_plain(hot: HotStore, engine: Engine, claims: Sequence[Claim]) -> PlainReport:
    """Save those claimed characters that are plain. Raises ServerUnavailable."""
    batch = _Batch(hot, new_seal())
    batch.take_snapshots(claims)
    failpoint("snapshot")
    if batch.rows:
        batch.acknowledge(batch.commit(engine))
        failpoint("acknowledged")
    batch.withdraw()
    return batch.report


class _Batch:
    """Plain characters under way, in columns."""

    def __init__(self, hot: HotStore, seal: int) -> None:
        self.hot = hot
        self.seal = seal
        self.at_ms = 0
        self.claims: list[Claim] = []
        self.rows: list[CoreRows] = []
        self.entries: list[str] = []
        self.nonces: list[str] = []
        self.observed: Counter[str] = Counter()
        """What its transaction adds to the histograms."""
        self.withdrawn: list[Claim] = []
        """May have a snapshot, of which nothing is committed for certain."""
        self.report = PlainReport()

    def take_snapshots(self, claims: Sequence[Claim]) -> None:
        """Read those that are plain, and decode them."""
        snapshot = self.hot.commands.snapshot_plain
        replies = self.hot.run_many([snapshot(part, seal=self.seal) for part in _parts(claims)])
        for plain in replies:
            if not isinstance(plain, StatesyncError):  # if it is, that of a group says so too
                self.at_ms = self.at_ms or plain.at_ms
                self.report.known_members |= plain.known_members
                self.withdrawn += plain.in_doubt
                self.decode(plain)

    def decode(self, plain: Plain) -> None:
        """Add the rows of what has been read; what cannot be saved is left."""
        columns = zip(plain.claims, plain.versions, plain.cores, plain.entries, strict=True)
        for (claim, version, core, entry), nonces in zip(columns, plain.nonces, strict=True):
            try:
                rows = rows_of(claim.char_id, version, self.seal, core)
            except CorruptState:  # the snapshot of its group says so too
                rows = None
            if rows is None or (rows.row.extra and unknown_references(rows.row.extra)):
                self.withdrawn.append(claim)
            else:
                self.claims.append(claim)
                self.rows.append(rows)
                self.entries.append(entry)
                self.nonces.append(nonces)

    def commit(self, engine: Engine) -> PlainSaved:
        """Save in one transaction what may be. If PostgreSQL refuses it, nothing is saved.

        Raises ServerUnavailable, after withdrawing what was certainly not committed.
        """
        in_doubt = False
        saved = PlainSaved((), ())
        began = time.perf_counter()
        try:
            with database.transaction(engine) as connection, noting_loss():
                found = durable.plain.save(connection, self.rows, self.entries, self.nonces)
                failpoint("written")
                in_doubt = True  # until PostgreSQL answers to the commit
            saved = found
            self.observed = observe_save(len(self.rows), time.perf_counter() - began)
            failpoint("committed")
        except (database.Rejected, Raced, ConnectionLost):
            pass
        except ServerUnavailable:
            if not in_doubt:
                self.withdrawn += self.claims
            with suppress(ServerUnavailable):
                self.withdraw()
            raise
        decided = {*saved.places()}
        if len(decided) < len(self.rows):
            self.withdrawn += [c for i, c in enumerate(self.claims) if i not in decided]
        return saved

    def acknowledge(self, saved: PlainSaved) -> None:
        """End the claims of what PostgreSQL holds, report and count it."""
        written = {(row := self.rows[i].row).id: row.version for i in saved.written}
        unchanged = {(row := self.rows[i].row).id: row.version - 1 for i in saved.unchanged}
        found = {BackupOutcome.SAVED: written, BackupOutcome.UNCHANGED: unchanged}
        self.report.outcomes = {
            outcome: versions for outcome, versions in found.items() if versions
        }
        counts: dict[str, int] = {o: len(found) for o, found in self.report.outcomes.items()}
        acks = [self.ack(part, written | unchanged) for part in _parts(saved.places())]
        counting = [self.hot.commands.count(counts, self.observed)] if counts else []
        acknowledge(self.hot, acks, counting)

    def ack(self, places: Sequence[int], durable_versions: Mapping[int, int]) -> GroupAck:
        """Return what acknowledges some of those that PostgreSQL holds."""
        claims = [self.claims[i] for i in places]
        versions = [self.rows[i].row.version for i in places]
        durable = [durable_versions[char_id] for char_id, _ in claims]
        same = [n for n, version in enumerate(versions) if version != durable[n]]
        seals = {n: int(self.entries[places[n]]) for n in same}
        nonces = {n: self.nonces[i] for n, i in enumerate(places) if self.nonces[i]}
        return GroupAck(self.at_ms, self.seal, claims, versions, durable, seals, nonces)

    def withdraw(self) -> None:
        """Withdraw the seals of snapshots of which nothing is committed."""
        withdraw = self.hot.commands.withdraw
        parts = _parts(self.withdrawn)
        for reply in self.hot.run_many([withdraw([Withdrawn(self.seal, part)]) for part in parts]):
            unwrap(reply)


def _parts(items: Sequence[T]) -> list[Sequence[T]]:
    """Return items as one script takes them."""
    return [items[i : i + PLAIN_STEP] for i in range(0, len(items), PLAIN_STEP)]
