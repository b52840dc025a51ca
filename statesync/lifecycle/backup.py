"""Owns the way from Redis to PostgreSQL: snapshot -> commit -> acknowledge, for claimed characters.

Each step is atomic. A crash between two of them leaves claims: when their lease ends, a sweep makes
the characters dirty again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy import Engine

from statesync.durable import database
from statesync.durable.results import Busy, Raced, Refused
from statesync.errors import CorruptState, LeaseLost, StatesyncError
from statesync.hot.command import SCRIPT_MEMBERS, Command, packed
from statesync.hot.commands.backup import CoreAck, GroupAck, Later, NeedsKeys, RawSnapshot
from statesync.hot.commands.claims import Claim
from statesync.hot.members import Members
from statesync.hot.store import HotStore, unwrap
from statesync.lifecycle import groups
from statesync.lifecycle.claims import release
from statesync.lifecycle.conflicts import reconcile
from statesync.lifecycle.failpoints import failpoint
from statesync.lifecycle.groups import GroupResult
from statesync.lifecycle.reports import BackupReport, saved_report
from statesync.lifecycle.snapshots import (
    Snapshot,
    acknowledgement,
    add,
    decode,
    merge,
    read_logs,
)
from statesync.sessions.base import SessionOrchestrator
from statesync.state.outcomes import BackupOutcome

__all__ = ["Backup"]

log = logging.getLogger(__name__)

_PLAYED_ON = (
    "the character is deleted in PostgreSQL, so nothing of it is saved: delete it again, "
    "or move what it holds to another id"
)

_RECONCILE_ROUNDS = 4
"""How many times one backup tries to save a character, bringing its core up to its row between."""


class Backup:
    """Saves claimed characters, each with its group; safe to share by threads."""

    def __init__(
        self,
        hot: HotStore,
        engine: Engine,
        types: Mapping[str, SessionOrchestrator],
        *,
        lease_us: int,
        batch_size: int,
    ) -> None:
        self.hot = hot
        self.engine = engine
        self.types = types
        self.lease_us = lease_us
        self.batch_size = batch_size

    def run(
        self,
        claims: Sequence[Claim],
        clean: Collection[int] = frozenset(),
        deleting: Collection[int] = frozenset(),
    ) -> list[BackupReport]:
        """Save claimed characters; ``clean`` are those that had no unsaved changes.

        ``deleting`` are those that a deletion is about to remove from Redis. Raises
        ServerUnavailable, after giving back every claim.
        """
        reports: dict[int, BackupReport] = {}
        for start in range(0, len(claims), self.batch_size):
            end = start + self.batch_size
            batch = _Batch(self, claims[start:end], clean, deleting)
            try:
                batch.run()
            except BaseException:  # whatever ends it, no claim has to wait for its lease
                release(self.hot, [*batch.pending.values(), *claims[end:]])
                raise
            reports |= batch.reports
        return [reports[char_id] for char_id in dict.fromkeys(claim.char_id for claim in claims)]


class _Batch:
    """One batch under way; ``pending`` are the claims on characters that are not decided yet."""

    def __init__(
        self,
        backup: Backup,
        claims: Sequence[Claim],
        clean: Collection[int],
        deleting: Collection[int],
    ) -> None:
        self.hot, self.engine, self.types = backup.hot, backup.engine, backup.types
        self.commands = backup.hot.commands
        self.lease_us = backup.lease_us
        self.batch_size = backup.batch_size
        self.pending = {claim.char_id: claim for claim in claims}
        self.uncounted = set(self.pending)
        """Characters asked for whose outcome is not counted yet."""
        self.clean = clean
        self.deleting = deleting
        self.reports: dict[int, BackupReport] = {}
        self.conflicts: set[int | UUID] = set()
        """Characters and sessions whose rows were ahead of Redis."""
        self.known_members: dict[int, frozenset[str]] = {}
        """By character: the members of its group that are known so far."""

    def run(self) -> None:
        """Save the claimed characters in rounds; give back those that stay locked."""
        failpoint("claimed")
        for round_number in range(_RECONCILE_ROUNDS):
            snapshots = self.take_snapshots()
            failpoint("snapshot")
            read_logs(self.hot, self.engine, self.types, snapshots, self.conflicts)
            self.commit_all(snapshots, wait=round_number > 0)
            self.acknowledge(snapshots)
            failpoint("acknowledged")
            refused = [snapshot for snapshot in snapshots if snapshot.refused]
            all_locked = refused and all(map(_is_locked, refused))
            if not self.pending or (round_number > 0 and all_locked):
                break
            self.conflicts |= reconcile(self.hot, self.engine, self.types, refused, self.pending)
            for snapshot in refused:
                self.quarantine_if_corrupt(snapshot)
        release(self.hot, self.pending.values())
        self.reports |= {i: BackupReport(i, BackupOutcome.RELEASED) for i in self.pending}
        self.pending = {}
        self.hot.run_many(self.count())

    # Snapshot

    def take_snapshots(self) -> list[Snapshot]:
        """Take one snapshot of each group that a pending claim is on.

        Adds the claims on the other characters of a group to ``pending``. Reports, and drops from
        ``pending``, the characters of which there is nothing to save.
        """
        snapshots: dict[int | UUID, Snapshot] = {}
        lost_claims = []
        for claim, reply in self.try_snapshots():
            try:
                self.accept(claim, unwrap(reply), snapshots)
            except LeaseLost:
                lost_claims.append(claim.char_id)
            except CorruptState as error:
                group = Members(self.known_members.get(claim.char_id, frozenset()))
                self.quarantine({claim.char_id, *group.characters}, error)
        # Characters included in another of our snapshots are still ours.
        self.report_superseded([i for i in lost_claims if i not in snapshots])
        return list(dict.fromkeys(snapshots.values()))

    def try_snapshots(self) -> Iterator[tuple[Claim, RawSnapshot | StatesyncError]]:
        """Give the snapshot of each group, or why there is none, with a claim on the group.

        Only the script sees all members of a group, so each try may add members that the next try
        has to know. Of several claims that turn out to be on one group, one goes on for all.
        """
        untried = {i: self.known_members.get(i, frozenset()) for i in self.pending}
        while untried:  # ends with the whole group, or with the lease
            merged = merge({i: names for i, names in untried.items() if i in self.pending})
            tries = [(self.pending[i], names) for i, names in merged.items()]
            parts = packed(tries, lambda one_try: len(one_try[1]) or 1, SCRIPT_MEMBERS)
            replies = self.hot.run_many(
                [self.commands.try_snapshots(part, lease_us=self.lease_us) for part in parts]
            )
            untried = {}
            results = (result for reply in replies for result in unwrap(reply))
            for (claim, known), result in zip(tries, results, strict=True):
                if isinstance(result, Later):
                    untried[claim.char_id] = known
                elif isinstance(result, NeedsKeys):
                    self.known_members[claim.char_id] = result.members
                    untried[claim.char_id] = result.members
                else:
                    yield claim, result

    def accept(self, claim: Claim, raw: RawSnapshot, snapshots: dict[int | UUID, Snapshot]) -> None:
        """Add a snapshot and its claims; report its character if the core is gone from Redis."""
        if not raw.cores[claim.char_id]:
            self.report_missing(claim, raw)
            return
        self.pending |= raw.claims
        self.known_members |= dict.fromkeys(raw.claims, raw.members())
        add(snapshots, Snapshot(claim.char_id, raw, decode(raw)))

    # Commit

    def commit_all(self, snapshots: Sequence[Snapshot], *, wait: bool) -> None:
        """Save snapshots, up to ``batch_size`` characters in a transaction.

        A locked row holds up no other: only with ``wait`` is it waited for, when the others are
        acknowledged.
        """
        valid = [snapshot for snapshot in snapshots if not snapshot.corrupt]
        for part in packed(valid, lambda item: len(item.group.characters), self.batch_size):
            self.commit(part, wait=wait)

    def commit(
        self, snapshots: Sequence[Snapshot], *, wait: bool, short_wait: bool = False
    ) -> None:
        """Save snapshots in one transaction; if PostgreSQL refuses it, find out because of which.

        After one wait for a lock in vain, ``short_wait`` makes the others short.
        """
        if not snapshots:
            return
        try:
            results = self.write(snapshots, wait=wait, short_wait=short_wait)
        except Raced:
            self.commit(snapshots, wait=wait, short_wait=short_wait)
        except database.Rejected as error:
            self.isolate(snapshots, error, wait=wait, short_wait=short_wait)
        else:
            for snapshot, result in zip(snapshots, results, strict=True):
                snapshot.result = result

    def write(
        self, snapshots: Sequence[Snapshot], *, wait: bool, short_wait: bool
    ) -> list[GroupResult]:
        """Run one transaction. Raises Raced, Rejected, or ServerUnavailable."""
        with database.transaction(self.engine) as connection:
            if short_wait:
                connection.exec_driver_sql("SET LOCAL lock_timeout = '100ms'")
            to_save = [snapshot.group for snapshot in snapshots]
            results = groups.save(connection, to_save, self.types, wait=wait)
            failpoint("written")
        failpoint("committed")
        return results

    def isolate(
        self,
        snapshots: Sequence[Snapshot],
        error: database.Rejected,
        *,
        wait: bool,
        short_wait: bool,
    ) -> None:
        """Save the two halves of a refused batch, so that in the end only the culprit is refused.

        Note the reason if one snapshot is left, or if a lock was waited for already.
        """
        if error.locked and (wait or len(snapshots) == 1):
            for snapshot in snapshots:
                locked = {char_id: Busy() for char_id in snapshot.group.characters}
                snapshot.result = GroupResult(saved=False, characters={**locked}, sessions={})
        elif len(snapshots) == 1:
            snapshots[0].corrupt = CorruptState(snapshots[0].anchor, "", str(error))
        else:
            middle = len(snapshots) // 2
            for half in (snapshots[:middle], snapshots[middle:]):
                self.commit(half, wait=wait, short_wait=short_wait or error.locked)

    # Acknowledge

    def acknowledge(self, snapshots: Sequence[Snapshot]) -> None:
        """Report and acknowledge what is decided; what is to be reconciled stays ``pending``."""
        acks = []
        for snapshot in snapshots:
            self.quarantine_if_corrupt(snapshot)
            if not snapshot.corrupt and snapshot.result and snapshot.result.saved:
                self.report_saved(snapshot, snapshot.result)
                acks.append(acknowledgement(snapshot, snapshot.result, self.deleting))
        acks += self.report_stale([snapshot for snapshot in snapshots if snapshot.refused])
        parts = list(packed(acks, GroupAck.size, SCRIPT_MEMBERS))
        commands: list[Command[Any]] = [self.commands.acknowledge_many(part) for part in parts]
        replies = self.hot.run_many([*commands, *self.count()])
        for part, reply in zip(parts, replies, strict=False):
            if isinstance(reply, StatesyncError):  # when the leases end, they are saved again
                ids = [core.claim.char_id for group in part for core in group.cores]
                log.error("characters %s are saved, not acknowledged: %s", ids, reply)
        for snapshot in snapshots:
            self.quarantine_deleted(snapshot)

    def count(self) -> list[Command[None]]:
        """Return what counts the outcomes of characters that are reported and not counted yet."""
        reported = self.uncounted & self.reports.keys()
        self.uncounted -= reported
        counted = Counter[str](self.reports[char_id].outcome for char_id in reported)
        return [self.commands.count(counted)] if counted else []

    # Reports: each drops the character from ``pending``

    def report_saved(self, snapshot: Snapshot, result: GroupResult) -> None:
        """Report the characters of a group that PostgreSQL holds."""
        for char_id in result.characters:
            report = saved_report(snapshot, result, char_id, conflicts=self.conflicts)
            if report.error:
                log.warning("character %d: %s", char_id, report.error)
            self.reports[char_id] = report
            if report.outcome is not BackupOutcome.DELETED or char_id in self.deleting:
                self.pending.pop(char_id, None)

    def quarantine_deleted(self, snapshot: Snapshot) -> None:
        """Quarantine characters that are played although PostgreSQL holds them as deleted."""
        for char_id in snapshot.group.characters:
            report = self.reports.get(char_id)
            claim = self.pending.get(char_id)
            if snapshot.saved and claim and report and report.outcome is BackupOutcome.DELETED:
                log.error("character %d is quarantined: %s", char_id, _PLAYED_ON)
                self.hot.quarantine(claim, error=_PLAYED_ON, field="")
                del self.pending[char_id]
                self.reports[char_id] = replace(report, error=_PLAYED_ON)

    def report_stale(self, refused: Sequence[Snapshot]) -> list[GroupAck]:
        """Report characters that another worker has saved since; return what acknowledges them.

        Their rows are newer than the snapshots, and Redis is at the row's version or has no core.
        """
        newer_rows = [
            (snapshot, char_id, result.version)
            for snapshot in refused
            if snapshot.result
            for char_id, result in snapshot.result.characters.items()
            if isinstance(result, Refused)
            and result.version > snapshot.group.characters[char_id].version
        ]
        peeks = self.hot.run_many([self.commands.peek(char_id) for _, char_id, _ in newer_rows])
        acks = []
        for (snapshot, char_id, row_version), reply in zip(newer_rows, peeks, strict=True):
            core = unwrap(reply)
            if (core is None or core.version >= row_version) and char_id in self.pending:
                acks.append(GroupAck(snapshot.raw.at_ms, [CoreAck(self.pending.pop(char_id))]))
                self.reports[char_id] = BackupReport(char_id, BackupOutcome.STALE, row_version)
        return acks

    def report_superseded(self, char_ids: Iterable[int]) -> None:
        """Report characters whose claims have passed to other workers."""
        for char_id in char_ids:
            if self.pending.pop(char_id, None):
                self.reports[char_id] = BackupReport(char_id, BackupOutcome.SUPERSEDED)

    def report_missing(self, claim: Claim, raw: RawSnapshot) -> None:
        """Report a character whose core is gone; if it was dirty, quarantine it: changes are lost.

        The other characters of the snapshot are saved in the next round.
        """
        char_id = claim.char_id
        self.pending |= raw.claims
        error = "not in Redis: nothing to save"
        if char_id in self.clean:
            self.hot.acknowledge(claim, snapshot_version=0, durable_version=0, at_ms=raw.at_ms)
            self.uncounted.discard(char_id)
        else:
            error = "the character was dirty, but its core is gone from Redis: changes were lost"
            log.error("character %d: %s", char_id, error)
            self.hot.quarantine(claim, error=error, field="")
        del self.pending[char_id]
        self.reports[char_id] = BackupReport(char_id, BackupOutcome.MISSING, error=error)

    def quarantine_if_corrupt(self, snapshot: Snapshot) -> None:
        """Quarantine the characters of a snapshot that cannot be saved."""
        if snapshot.corrupt:
            self.quarantine(snapshot.group.characters, snapshot.corrupt)

    def quarantine(self, char_ids: Iterable[int], error: CorruptState) -> None:
        """Quarantine a group whole: a part of it alone was never the state at one instant."""
        for char_id in char_ids:
            claim = self.pending.pop(char_id, None)
            if claim is None:
                continue
            reason = error.reason
            if error.char_id != char_id:
                reason = f"belongs together with character {error.char_id}: {reason}"
            log.error("character %d is quarantined: %s: %s", char_id, error.field, reason)
            self.hot.quarantine(claim, error=reason, field=error.field)
            self.reports[char_id] = BackupReport(
                char_id, BackupOutcome.QUARANTINED, error=reason, field=error.field
            )


def _is_locked(snapshot: Snapshot) -> bool:
    if snapshot.result is None:
        return False
    results = [*snapshot.result.characters.values(), *snapshot.result.sessions.values()]
    return any(isinstance(result, Busy) for result in results)
