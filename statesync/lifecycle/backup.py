"""Owns the way from Redis to PostgreSQL: snapshot -> commit -> acknowledge, for claimed characters.

Each step is atomic; a crash between two of them leaves claims, whose lease brings the characters
back to the dirty set.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as with_default
from uuid import UUID

from sqlalchemy import Engine

from statesync.durable import database
from statesync.durable.characters import Busy, Raced, Refused, Saved
from statesync.errors import (
    CorruptState,
    LeaseLost,
    ServerUnavailable,
    StatesyncError,
)
from statesync.hot.command import SCRIPT_MEMBERS, packed
from statesync.hot.commands.backup import CoreAck, GroupAck, NeedsKeys, RawSnapshot, SessionAck
from statesync.hot.commands.claims import Claim
from statesync.hot.members import Members
from statesync.hot.store import HotStore, unwrap
from statesync.lifecycle import groups
from statesync.lifecycle.conflicts import reconcile
from statesync.lifecycle.failpoints import failpoint
from statesync.lifecycle.groups import Outcome
from statesync.lifecycle.snapshots import Snapshot, add, decode, merge, read_logs
from statesync.sessions.base import SessionOrchestrator

__all__ = ["Backup", "BackupReport"]

log = logging.getLogger(__name__)

ROUNDS = 4
"""How often a backup brings a core up to its row, in one call."""


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What became of one backup."""

    char_id: int
    outcome: str
    """``saved``, ``unchanged``, ``stale``, ``superseded``, ``conflict``, ``quarantined``,
    ``missing``, ``deleted``; or ``released``: given back to the dirty set, a later sweep saves it.
    """
    version: int | None = None
    """The version that is durable."""
    error: str | None = None
    field: str | None = None
    sessions: dict[str, str] = with_default(default_factory=dict)
    """By type: ``saved``, ``unchanged``, ``closed``; ``missing`` where the core points at a session
    that is gone from Redis: then what PostgreSQL has of it stays."""


class Backup:
    """Saves claimed characters, and whom sessions tie to them; safe to share by threads."""

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
        self, claims: Sequence[Claim], clean: Collection[int] = frozenset()
    ) -> list[BackupReport]:
        """Save claimed characters; ``clean`` are those that had no unsaved changes.

        Raises ServerUnavailable, after giving back every claim.
        """
        reports: dict[int, BackupReport] = {}
        for start in range(0, len(claims), self.batch_size):
            end = start + self.batch_size
            batch = _Batch(self, claims[start:end], clean)
            try:
                batch.run()
            except BaseException:  # whatever it is, nobody has to wait for the leases
                self.release([*batch.pending.values(), *claims[end:]])
                raise
            reports |= batch.reports
        reports = {held.char_id: reports[held.char_id] for held in claims}
        self.hot.count(Counter(report.outcome for report in reports.values()))
        return list(reports.values())

    def release(self, claims: Iterable[Claim]) -> None:
        """Give claims back; where Redis is away too, their lease does it later."""
        try:
            self.hot.run_many([self.hot.commands.release(claim) for claim in claims])
        except ServerUnavailable as error:
            log.warning("claims could not be given back, their lease will end: %s", error)


class _Batch:
    """One batch on its way; ``pending`` are the claims of which nothing is decided yet."""

    def __init__(self, of: Backup, claims: Sequence[Claim], clean: Collection[int]) -> None:
        self.hot, self.engine, self.types = of.hot, of.engine, of.types
        self.commands = of.hot.commands
        self.lease_us = of.lease_us
        self.batch_size = of.batch_size
        self.release = of.release
        self.pending = {held.char_id: held for held in claims}
        self.clean = clean
        self.reports: dict[int, BackupReport] = {}
        self.conflicts: set[int | UUID] = set()
        """Characters and sessions whose rows were found ahead of Redis."""
        self.known: dict[int, frozenset[str]] = {}
        """The members of each one's group, as far as they are known."""

    def run(self) -> None:
        failpoint("claimed")
        for turn in range(ROUNDS):
            snapshots = self.snapshot()
            failpoint("snapshot")
            read_logs(self.hot, self.engine, self.types, snapshots, self.conflicts)
            # A locked row holds up nobody: it is waited for when the others are acknowledged.
            fine = [item for item in snapshots if not item.corrupt]
            for chunk in packed(fine, lambda item: len(item.group.characters), self.batch_size):
                self.commit(chunk, wait=turn > 0)
            self.settle(snapshots)
            failpoint("acknowledged")
            left = [item for item in snapshots if item.outcome and not item.outcome.saved]
            if not self.pending or (turn > 0 and left and all(map(_busy, left))):
                break
            self.conflicts |= reconcile(self.hot, self.engine, self.types, left, self.pending)
            for item in left:
                if item.corrupt:
                    self.quarantine(item.group.characters, item.corrupt)
        self.release(self.pending.values())
        self.reports |= {i: BackupReport(i, "released") for i in self.pending}
        self.pending = {}

    # RawSnapshot

    def snapshot(self) -> list[Snapshot]:
        """Take a snapshot for every pending claim; of a group that several are in, only one.

        Reports and drops from ``pending`` what has no snapshot to save, and adds the claims on
        those who came with it.
        """
        snapshots: dict[int | UUID, Snapshot] = {}
        lost = []
        for claim, reply in self.try_all():
            try:
                snapshot = unwrap(reply)
                if snapshot.cores[claim.char_id]:
                    self.pending |= snapshot.claims
                    self.known |= dict.fromkeys(snapshot.claims, snapshot.members())
                    add(snapshots, Snapshot(claim.char_id, snapshot, decode(snapshot)))
                else:
                    self.missing(claim, snapshot)
            except LeaseLost:
                lost.append(claim.char_id)
            except CorruptState as error:
                group = self.known.get(claim.char_id, frozenset())
                self.quarantine({claim.char_id, *Members(group).characters}, error)
        for char_id in lost:
            # Whom our own snapshot of somebody else took in has lost nothing.
            if char_id not in snapshots and char_id in self.pending:
                del self.pending[char_id]
                self.reports[char_id] = BackupReport(char_id, "superseded")
        return list({id(item): item for item in snapshots.values()}.values())

    def try_all(self) -> Iterator[tuple[Claim, RawSnapshot | StatesyncError]]:
        """Give each pending group's snapshot, or why there is none, with the claim that it is on.

        To whom a claimed character is tied shows only when it is tried. Of those that turn out to
        be in one group, one goes on for all.
        """
        left = {i: self.known.get(i, frozenset()) for i in self.pending}
        while left:  # every try knows more members; that ends with the group, or with the lease
            held = merge({i: known for i, known in left.items() if i in self.pending})
            todo = [(self.pending[i], known) for i, known in held.items()]
            scripts = list(packed(todo, lambda group: len(group[1]) or 1, SCRIPT_MEMBERS))
            replies = self.hot.run_many(
                [self.commands.try_snapshots(part, lease_us=self.lease_us) for part in scripts]
            )
            left = {}
            found = (reply for part in replies for reply in unwrap(part))
            for (claim, _), reply in zip(todo, found, strict=True):
                if isinstance(reply, NeedsKeys):
                    left[claim.char_id] = self.known[claim.char_id] = reply.members
                else:
                    yield claim, reply

    def missing(self, claim: Claim, snapshot: RawSnapshot) -> None:
        """Report a character that is gone from Redis; where changes went with it, be loud."""
        char_id = claim.char_id
        self.pending |= snapshot.claims  # whoever came with it is saved in the next round
        error = "not in Redis: nothing to save"
        if char_id in self.clean:
            self.hot.acknowledge(claim, snapshot_version=0, durable_version=0, at_ms=snapshot.at_ms)
        else:
            error = "the character was dirty, but its core is gone from Redis: changes were lost"
            log.error("character %d: %s", char_id, error)
            self.hot.quarantine(claim, error=error, field="")
        del self.pending[char_id]
        self.reports[char_id] = BackupReport(char_id, "missing", error=error)

    def quarantine(self, char_ids: Iterable[int], error: CorruptState) -> None:
        """Set a group aside: saved in part, it would never have been true at one moment."""
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
                char_id, "quarantined", error=reason, field=error.field
            )

    # Commit

    def commit(self, todo: Sequence[Snapshot], *, wait: bool, hurry: bool = False) -> None:
        """Save snapshots in one transaction; where PostgreSQL refuses it, halve it until the
        culprit is alone, so that the others are saved. Where a lock is the reason, ``hurry``."""
        if not todo:
            return
        try:
            with database.transaction(self.engine) as connection:
                if hurry:
                    connection.exec_driver_sql("SET LOCAL lock_timeout = '100ms'")
                groups_of = [item.group for item in todo]
                outcomes = groups.save(connection, groups_of, self.types, wait=wait)
                failpoint("written")
            failpoint("committed")
        except Raced:
            self.commit(todo, wait=wait, hurry=hurry)
        except database.Rejected as error:
            if len(todo) > 1 and not (error.locked and wait):
                half = len(todo) // 2
                for part in (todo[:half], todo[half:]):
                    self.commit(part, wait=wait, hurry=hurry or error.locked)
            elif error.locked:
                for item in todo:
                    busy = dict.fromkeys(item.group.characters, Busy())
                    item.outcome = Outcome(saved=False, characters={**busy}, sessions={})
            else:
                todo[0].corrupt = CorruptState(todo[0].anchor, "", str(error))
        else:
            for item, outcome in zip(todo, outcomes, strict=True):
                item.outcome = outcome

    # Acknowledge

    def settle(self, snapshots: Sequence[Snapshot]) -> None:
        """Acknowledge and report what is decided; what is to be reconciled stays ``pending``."""
        todo = []
        for item in snapshots:
            if item.corrupt:
                self.quarantine(item.group.characters, item.corrupt)
            elif item.outcome and item.outcome.saved:
                todo.append(self.saved(item, item.outcome))
        todo += self.stale([item for item in snapshots if item.outcome and not item.outcome.saved])
        scripts = list(packed(todo, GroupAck.size, SCRIPT_MEMBERS))
        replies = self.hot.run_many([self.commands.acknowledge_many(part) for part in scripts])
        for part, reply in zip(scripts, replies, strict=True):
            if isinstance(reply, StatesyncError):  # their leases bring them back
                ids = [ended.claim.char_id for group in part for ended in group.cores]
                log.error("characters %s are saved, not acknowledged: %s", ids, reply)

    def saved(self, item: Snapshot, outcome: Outcome) -> GroupAck:
        """Report a group that is durable; returns what acknowledges it."""
        sessions = {
            str(session_id): (item.group.sessions[session_id], result)
            for session_id, result in outcome.sessions.items()
            if isinstance(result, Saved)
        }
        shown = {
            text: "closed" if session.closed else "saved" if result.changed else "unchanged"
            for text, (session, result) in sessions.items()
        }
        acknowledged = []
        for char_id, result in outcome.characters.items():
            claim = item.raw.claims[char_id]
            if isinstance(result, Saved):
                snapshot_version = item.group.characters[char_id].version
                acknowledged.append(CoreAck(claim, snapshot_version, result.version))
                held = item.group.references[char_id]
                changed = result.changed or any(
                    sessions[text][1].changed for text in held.values() if text in sessions
                )
                name = "saved" if changed else "unchanged"
                if not self.conflicts.isdisjoint((char_id, *map(UUID, held.values()))):
                    name = "conflict"
                of_it = {
                    session_type: shown.get(text, "missing") for session_type, text in held.items()
                }
                error = _gone(char_id, held, of_it) if "missing" in of_it.values() else None
                report = BackupReport(char_id, name, result.version, error, None, of_it)
            else:
                report = BackupReport(char_id, "deleted")
                acknowledged.append(CoreAck(claim))
            self.reports[char_id] = report
            self.pending.pop(char_id, None)
        acknowledged.sort(key=lambda ended: ended.claim.char_id != item.anchor)
        away = item.raw.cores.keys() - item.raw.claims.keys()
        acknowledged += [CoreAck(Claim(char_id, 0)) for char_id in away]
        settled = [
            SessionAck(session.session_type, text, session.version, result.version, session.closed)
            for text, (session, result) in sessions.items()
        ]
        return GroupAck(item.raw.at_ms, acknowledged, settled, item.raw.ties)

    def stale(self, left: Sequence[Snapshot]) -> list[GroupAck]:
        """Report characters whose rows are newer because another worker was faster: Redis is at the
        row's version, or the core is gone. Returns what acknowledges them."""
        refused = [
            (item, char_id, result.version)
            for item in left
            if item.outcome
            for char_id, result in item.outcome.characters.items()
            if isinstance(result, Refused)
            and result.version > item.group.characters[char_id].version
        ]
        peeks = self.hot.run_many([self.commands.peek(char_id) for _, char_id, _ in refused])
        todo = []
        for (item, char_id, version), reply in zip(refused, peeks, strict=True):
            core = unwrap(reply)
            if (core is None or core.version >= version) and char_id in self.pending:
                todo.append(GroupAck(item.raw.at_ms, [CoreAck(self.pending.pop(char_id))]))
                self.reports[char_id] = BackupReport(char_id, "stale", version)
        return todo


def _gone(char_id: int, held: Mapping[str, str], of_it: Mapping[str, str]) -> str:
    gone = [
        f"{session_type}:session:{held[session_type]}"
        for session_type, o in of_it.items()
        if o == "missing"
    ]
    error = f"gone from Redis: {', '.join(gone)}; what PostgreSQL has stays"
    log.warning("character %d: %s", char_id, error)
    return error


def _busy(item: Snapshot) -> bool:
    if item.outcome is None:
        return False
    results = [*item.outcome.characters.values(), *item.outcome.sessions.values()]
    return any(isinstance(result, Busy) for result in results)
