"""Owns the way from Redis to PostgreSQL: snapshot -> commit -> acknowledge, for claimed characters.

Each step is atomic. A crash between two of them leaves claims: when their lease ends, a sweep makes
the characters dirty again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from uuid import UUID

from sqlalchemy import Engine

from statesync.errors import (
    CorruptState,
    LeaseLost,
    ServerUnavailable,
    StatesyncError,
    UnknownSessionType,
)
from statesync.hot.command import SCRIPT_MEMBERS, packed
from statesync.hot.commands.backup import (
    Later,
    RawSnapshot,
    SealsFull,
)
from statesync.hot.commands.claims import Claim
from statesync.hot.commands.seals import Withdrawn
from statesync.hot.members import Members
from statesync.hot.store import HotStore, unwrap
from statesync.lifecycle.acknowledgement import acknowledgement
from statesync.lifecycle.claims import acknowledge, release
from statesync.lifecycle.commit import Commit
from statesync.lifecycle.conflicts import reconcile
from statesync.lifecycle.failpoints import failpoint
from statesync.lifecycle.gone import look_at_gone
from statesync.lifecycle.holders import holders_to_join, reasons_for_both, tie_holders
from statesync.lifecycle.lost import Lost
from statesync.lifecycle.pending import Pending
from statesync.lifecycle.plain import PlainSave, PlainSnapshot
from statesync.lifecycle.plans import Planner
from statesync.lifecycle.reports import (
    Reports,
    saved_reports,
    tell_left_to_others,
)
from statesync.lifecycle.seals import make_room
from statesync.lifecycle.snapshots import (
    GroupResult,
    Snapshot,
    add,
    decode,
    read_logs,
    unknown_sessions,
)
from statesync.lifecycle.tries import try_snapshots
from statesync.sessions.base import SessionOrchestrator
from statesync.state.fields import printable
from statesync.state.outcomes import BackupOutcome
from statesync.state.references import SessionRef

__all__ = ["Backup"]

log = logging.getLogger(__name__)

_PLAYED_ON = (
    "the character is deleted in PostgreSQL, so nothing of it is saved: delete it again, "
    "or move what it holds to another id"
)

_LOCKED = "another transaction holds a lock on its rows"

_TRANSACTION_CHARACTERS = 500
"""Upper bound on the characters of one transaction: twice as many take 7 MB more of memory."""
_RECONCILE_ROUNDS = 4
"""How many times one backup tries to save a character, bringing its core up to its row between."""


class Backup:
    """Saves claimed characters, each with its group; safe to share by threads."""

    def __init__(
        self,
        hot: HotStore,
        engine: Engine,
        types: Mapping[str, SessionOrchestrator],
        planner: Planner,
        *,
        lease_us: int,
        batch_size: int,
    ) -> None:
        self.hot = hot
        self.engine = engine
        self.types = types
        self.lost = Lost(hot, engine, types, planner)
        self.lease_us = lease_us
        self.batch_size = min(batch_size, _TRANSACTION_CHARACTERS)

    def run(
        self,
        claims: Sequence[Claim],
        clean: Collection[int] = frozenset(),
        deleting: Collection[int] = frozenset(),
    ) -> Reports:
        """Save claimed characters; ``clean`` are those that had no unsaved changes.

        ``deleting`` are those that a deletion is about to remove from Redis. Raises
        ServerUnavailable, after giving back every claim.
        """
        reports = Reports(claim.char_id for claim in claims)
        newest = {claim.char_id: claim for claim in sorted(claims, key=lambda one: one.token)}
        claims = [*newest.values()]  # a message may name one twice
        for start in range(0, len(claims), self.batch_size):
            end = start + self.batch_size
            batch = _Batch(self, claims[start:end], clean, deleting)
            try:
                batch.run()
            except BaseException:  # whatever ends it, no claim has to wait for its lease
                batch.abandon()
                release(self.hot, [*batch.pending.values(), *claims[end:]])
                raise
            reports.add(batch.pending.reports, batch.plain_outcomes)
        return reports


class _Batch:
    """One batch under way; ``pending`` are the claims on characters that are not decided yet."""

    def __init__(
        self,
        backup: Backup,
        claims: Sequence[Claim],
        clean: Collection[int],
        deleting: Collection[int],
    ) -> None:
        self.backup = backup
        self.commit = Commit(
            backup.engine,
            backup.types,
            backup.batch_size,
            key_prefix=backup.hot.keys.prefix,
            deleting=deleting,
        )
        self.pending = Pending(backup.hot, claims, clean, lease_us=backup.lease_us)
        self.deleting = deleting
        self.plain_outcomes: dict[BackupOutcome, dict[int, int]] = {}
        """By outcome: the versions that PostgreSQL holds, of those that were plain."""
        self.under_way: list[Snapshot] = []
        self.plain = PlainSave(())
        self.known_members: dict[int, frozenset[str]] = {}
        """By character: the members of its group that are known so far."""
        self.unknown_types: Counter[str] = Counter()
        """How many characters are left to workers that know their session type, by type."""

    def run(self) -> None:
        """Save the claimed characters in rounds; give back those that stay locked."""
        failpoint("claimed")
        round_number = 0
        while round_number < _RECONCILE_ROUNDS:
            refused = self.save_pending(wait=round_number > 0)
            all_locked = refused and all(snapshot.is_busy for snapshot in refused)
            if not self.pending or (round_number > 0 and all_locked):
                break
            grown = self.look_at_holders(refused)
            joining = self.backup.lost.settle(refused, self.pending)
            self.known_members |= joining
            round_number += not (grown or joining)
            reconcile(self.backup.hot, self.backup.engine, refused, self.pending)
            self.withdraw(refused)
            for snapshot in refused:
                self.refuse_played_on(snapshot)
                self.quarantine_if_corrupt(snapshot)
                if snapshot.locked:
                    self.pending.give_back(snapshot.characters, snapshot.locked)
        for snapshot in refused:
            if snapshot.is_busy:
                self.pending.give_back(snapshot.characters, _LOCKED)
        self.pending.give_back(list(self.pending))
        self.backup.hot.run_many(self.pending.count())
        if self.unknown_types:
            tell_left_to_others(self.unknown_types)

    def save_pending(self, *, wait: bool) -> list[Snapshot]:
        """Save what is pending, as much at once as Redis gives at once; return what is refused."""
        refused: list[Snapshot] = []
        waiting = list(self.pending)
        while waiting:
            self.under_way, later = self.take_snapshots(waiting)
            failpoint("snapshot")
            self.under_way += self.save_plain()
            snapshots = self.under_way
            self.backup.lost.look_at_corrupt(snapshots)
            look_at_gone(self.backup.hot, self.backup.engine, snapshots)
            read_logs(self.backup.hot, self.backup.engine, self.backup.types, snapshots)
            self.commit.run(snapshots, wait=wait)
            self.acknowledge(snapshots)
            failpoint("acknowledged")
            refused += [snapshot for snapshot in snapshots if snapshot.refused]
            tried = {member for snapshot in refused for member in snapshot.members()}
            waiting = [i for i in later if i in self.pending and i not in tried]
        return refused

    def save_plain(self) -> list[Snapshot]:
        """Save the plain snapshots in columns; return those that are left, as groups of one."""
        saved = self.plain.commit(self.backup.engine)
        outcomes = self.plain.outcomes(saved)
        for outcome, versions in outcomes.items():
            self.plain_outcomes.setdefault(outcome, {}).update(versions)
            self.pending.drop_counted(versions)
        if outcomes:
            counts: dict[str, int] = {o: len(found) for o, found in outcomes.items()}
            counting = self.backup.hot.commands.count(counts, self.plain.observed)
            acknowledge(self.backup.hot, self.plain.acknowledgements(saved), [counting])
            failpoint("acknowledged")
        left: dict[int | UUID, Snapshot] = {}
        for plain in self.plain.left:
            self.accept(decode(plain.claim.char_id, plain.raw()), left)
        self.plain = PlainSave(())
        return self.leave_unknown([*left.values()])

    def look_at_holders(self, refused: Sequence[Snapshot]) -> bool:
        """Have others seen together with the groups whose things they hold, in the next round.

        Quarantines two that both hold a thing. Returns whether any group has grown: it ends, since
        groups only grow.
        """
        grown = False
        for snapshot in refused:
            if reasons := reasons_for_both(snapshot):
                tie_holders(self.backup.hot, snapshot)
                first = next(iter(reasons.values()))
                for char_id in snapshot.characters:
                    self.pending.quarantine([char_id], reasons.get(char_id, first))
            elif holders := {*map(str, holders_to_join(snapshot))}:
                grown = True
                names = snapshot.raw.members() | holders
                self.known_members |= dict.fromkeys(snapshot.raw.claims, names)
        return grown

    # Snapshot

    def take_snapshots(self, char_ids: Sequence[int]) -> tuple[list[Snapshot], list[int]]:
        """Take one snapshot of each group that the claims on some pending characters are on.

        Those that are ``plain`` are not among them. Adds the claims on the other characters of a
        group to ``pending``. Reports, and drops from ``pending``, the characters of which there is
        nothing to save. Returns also the characters that come later, since Redis gives no more at
        once.
        """
        snapshots: dict[int | UUID, Snapshot] = {}
        plain: list[PlainSnapshot] = []
        lost_claims, later = [], []
        tries = try_snapshots(self.backup.hot, self.pending, self.known_members, char_ids)
        for claim, reply in tries:
            if isinstance(reply, PlainSnapshot) and not self.deleting:
                plain.append(reply)
            elif isinstance(reply, PlainSnapshot):
                self.accept(decode(claim.char_id, reply.raw.raw()), snapshots)
            elif isinstance(reply, Snapshot):
                self.accept(reply, snapshots)
            elif isinstance(reply, RawSnapshot):
                self.pending.report_missing(claim, reply)
            elif isinstance(reply, Later):
                later.append(claim.char_id)
            elif isinstance(reply, SealsFull):
                make_room(
                    self.backup.hot, self.backup.engine, self.pending, claim, self.members(claim)
                )
                later.append(claim.char_id)
            elif isinstance(reply, LeaseLost):  # not raised: it would keep all this alive
                lost_claims.append(claim.char_id)
            elif isinstance(reply, UnknownSessionType):
                self.leave(self.members(claim).characters, reply)
            elif isinstance(reply, CorruptState):
                self.pending.quarantine(self.members(claim).characters, reply)
            else:
                raise reply
        # Characters included in another of our snapshots are still ours.
        self.pending.report_superseded([i for i in lost_claims if i not in snapshots])
        # One that a group has taken along, or that is decided with it, is not saved alone.
        alone = [one for one in plain if self.pending.get(one.raw.claim.char_id) == one.raw.claim]
        self.plain = PlainSave(alone)
        return self.leave_unknown(list(dict.fromkeys(snapshots.values()))), later

    def accept(self, new: Snapshot, snapshots: dict[int | UUID, Snapshot]) -> None:
        """Add a snapshot and its claims."""
        self.pending |= new.raw.claims
        self.known_members |= dict.fromkeys(new.raw.claims, new.raw.members())
        add(snapshots, new)

    def members(self, claim: Claim) -> Members:
        """Return the members of the group of a claim, as far as they are known."""
        return Members(self.known_members.get(claim.char_id, ()), first=claim.char_id)

    def withdraw(self, snapshots: Sequence[Snapshot]) -> None:
        """Withdraw the seals of snapshots of which nothing is committed, if that is certain."""
        withdrawn = self.plain.withdrawn() + [
            Withdrawn(raw.seal, [*raw.claims.values()], [ref.id for ref in raw.sessions])
            for raw in (snapshot.raw for snapshot in snapshots if not snapshot.in_doubt)
        ]
        parts = packed(withdrawn, lambda one: len(one.claims), SCRIPT_MEMBERS)
        for reply in self.backup.hot.run_many(
            [self.backup.hot.commands.withdraw(part) for part in parts]
        ):
            unwrap(reply)

    def abandon(self) -> None:
        """Withdraw what an outage has ended, if Redis is there."""
        with suppress(ServerUnavailable):
            self.withdraw([snapshot for snapshot in self.under_way if not snapshot.saved])

    def leave_unknown(self, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
        """Give back the groups with a live session of a type that is not registered here.

        Saved without it, the group would be torn; a worker that knows the type saves it whole.
        Returns the other snapshots.
        """
        refs = [(item, ref) for item in snapshots for ref in unknown_sessions(item.raw)]
        if not refs:
            return list(snapshots)
        peeks = self.backup.hot.run_many(
            [self.backup.hot.commands.peek_session(*ref) for _, ref in refs]
        )
        left: dict[Snapshot, SessionRef] = {}
        for (item, ref), peek in zip(refs, peeks, strict=True):
            if isinstance(peek, StatesyncError) or peek >= 0:
                left[item] = ref
        self.withdraw([*left])
        for item, ref in left.items():
            self.leave(item.characters, UnknownSessionType(ref.label))
        return [item for item in snapshots if item not in left]

    def leave(self, char_ids: Collection[int], error: UnknownSessionType) -> None:
        """Give the claims on a group back, for a worker that knows its session type."""
        self.unknown_types[error.session_type] += len(self.pending.keys() & set(char_ids))
        self.pending.give_back(char_ids, str(error))

    # Acknowledge

    def acknowledge(self, snapshots: Sequence[Snapshot]) -> None:
        """Report and acknowledge what is decided; what is to be reconciled stays ``pending``."""
        self.withdraw([item for item in snapshots if item.corrupt])
        acks = []
        for snapshot in snapshots:
            self.quarantine_if_corrupt(snapshot)
            if not snapshot.corrupt and snapshot.result and snapshot.result.saved:
                self.report_saved(snapshot, snapshot.result)
                acks.append(acknowledgement(snapshot, snapshot.result, self.deleting))
        acknowledge(self.backup.hot, acks, self.pending.count(self.commit.take_observed()))
        for snapshot in snapshots:
            self.quarantine_deleted(snapshot)

    # Reports: each drops the character from ``pending``

    def report_saved(self, snapshot: Snapshot, result: GroupResult) -> None:
        """Report the characters of a group that PostgreSQL holds."""
        for char_id, report in saved_reports(snapshot, result).items():
            if report.error:
                of_line = {"char_id": char_id, "outcome": report.outcome, "error": report.error}
                log.warning("character %d: %s", char_id, printable(report.error), extra=of_line)
            self.pending.reports[char_id] = report
            if report.outcome is not BackupOutcome.DELETED or char_id in self.deleting:
                self.pending.pop(char_id, None)

    def refuse_played_on(self, snapshot: Snapshot) -> None:
        """Take a group for corrupt of which a deleted character is played.

        If it has gone from Redis meanwhile, the others are saved in the next round.
        """
        char_id = snapshot.played_on
        if char_id is not None and self.backup.hot.peek(char_id) is not None:
            snapshot.corrupt = CorruptState(char_id, "", _PLAYED_ON)

    def quarantine_deleted(self, snapshot: Snapshot) -> None:
        """Quarantine one that is played alone although PostgreSQL holds it as deleted."""
        for char_id in snapshot.characters:
            report = self.pending.reports.get(char_id)
            claim = self.pending.get(char_id)
            if snapshot.saved and claim and report and report.outcome is BackupOutcome.DELETED:
                of_line = {"char_id": char_id, "outcome": report.outcome, "error": _PLAYED_ON}
                log.error("character %d is quarantined: %s", char_id, _PLAYED_ON, extra=of_line)
                self.backup.hot.quarantine(claim, error=_PLAYED_ON, field="")
                del self.pending[char_id]
                self.pending.reports[char_id] = replace(report, error=_PLAYED_ON)

    def quarantine_if_corrupt(self, snapshot: Snapshot) -> None:
        """Quarantine the characters of a snapshot that cannot be saved."""
        if snapshot.corrupt:
            self.pending.quarantine(snapshot.characters, snapshot.corrupt)
