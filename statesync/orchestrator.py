"""Owns the life cycle of a character: the only one that knows both Redis and PostgreSQL.

claim -> snapshot -> commit -> acknowledge, each one atomic; a crash between two of them leaves
a claim, whose lease brings the character back to the dirty set.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Engine

from statesync import codec, database, durable
from statesync.codec import Character, check_char_id
from statesync.command import Claim, Snapshot
from statesync.errors import (
    CharacterNotSaved,
    CorruptState,
    DatabaseUnavailable,
    LeaseLost,
    ServerUnavailable,
    StatesyncError,
)
from statesync.hot import HotStore
from statesync.settings import Settings
from statesync.vitals import DeriveVitals, derive_vitals, load_function

__all__ = ["BackupReport", "GameStateOrchestrator", "RestoreReport"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_ROUNDS = 4
"""How often a backup brings a core up to its row, or a restore reads a row again, in one call."""


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


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What became of one restore: ``restored``, ``live`` or ``not_found``."""

    char_id: int
    outcome: str
    version: int | None = None


class GameStateOrchestrator:
    """Restores characters into Redis and backs them up to PostgreSQL; safe to share by threads."""

    def __init__(
        self,
        hot: HotStore,
        engine: Engine,
        *,
        lease_us: int = 120_000_000,
        batch_size: int = 500,
        vitals: DeriveVitals = derive_vitals,
    ) -> None:
        self.hot = hot
        self.engine = engine
        self._lease_us = lease_us
        self._batch_size = batch_size
        self._vitals = vitals

    @classmethod
    def from_settings(cls, settings: Settings) -> GameStateOrchestrator:
        """Build one on the servers of ``settings``; it connects when it is first used."""
        return cls(
            HotStore.from_settings(settings),
            database.connect(settings),
            lease_us=settings.lease_us,
            batch_size=settings.batch_size,
            vitals=load_function(settings.vitals),
        )

    def close(self) -> None:
        """Close all connections."""
        self.hot.close()
        self.engine.dispose()

    # Backup

    def backup_full_state(self, char_id: int) -> BackupReport:
        """Save one character now, dirty or not. Raises as ``backup_many`` does."""
        return self.backup_many([char_id])[0]

    def backup_many(self, char_ids: Iterable[int]) -> list[BackupReport]:
        """Save characters now, dirty or not, and report on each in the order given.

        Raises InvalidCharId before anything is done; ServerUnavailable, after which what was
        not saved is dirty or claimed, and the sweep saves it.
        """
        ids = list(dict.fromkeys(check_char_id(char_id) for char_id in char_ids))
        replies = self.hot.run_many(
            [self.hot.commands.claim(char_id, self._lease_us) for char_id in ids]
        )
        claimed = [_done(reply) for reply in replies]
        clean = {held.char_id for held, known in claimed if not known}
        return self._backup([held for held, _ in claimed], clean)

    def backup_claims(self, claims: Sequence[Claim]) -> list[BackupReport]:
        """Save characters that a sweep has claimed. Raises as ``backup_many`` does."""
        return self._backup(claims, frozenset())

    def evict(self, char_id: int) -> BackupReport | None:
        """Save a character and delete it from Redis; None where it was not loaded.

        Raises CharacterNotSaved where it cannot be saved or never stops changing: then it stays.
        """
        report = None
        for _ in range(_ROUNDS):
            if self.hot.look(char_id) is None:
                return report
            report = self.backup_full_state(char_id)
            if self.hot.evict(char_id):
                return report
            if report.outcome == "quarantined":
                break
        raise CharacterNotSaved(char_id)

    def _backup(
        self, claims: Sequence[Claim], clean: set[int] | frozenset[int]
    ) -> list[BackupReport]:
        reports: dict[int, BackupReport] = {}
        for start in range(0, len(claims), self._batch_size):
            batch = claims[start : start + self._batch_size]
            try:
                reports |= self._backup_batch(batch, clean)
            except BaseException:  # whatever it is, nobody has to wait for the leases
                self._release(claims[start:])
                raise
        return [reports[held.char_id] for held in claims]

    def _backup_batch(
        self, claims: Sequence[Claim], clean: set[int] | frozenset[int]
    ) -> dict[int, BackupReport]:
        reports: dict[int, BackupReport] = {}
        conflicts: set[int] = set()
        pending = {held.char_id: held for held in claims}
        for turn in range(_ROUNDS):
            taken = self._snapshot(pending, clean, reports)
            # A locked row holds up nobody: it is waited for when the others are acknowledged.
            results = self._commit([c for c, _ in taken.values()], wait=turn > 0)
            self._settle(pending, taken, results, conflicts, reports)
            if not pending or (turn > 0 and _all_busy(pending, results)):
                break
            self._reconcile(pending, results, conflicts)
        self._release(pending.values())
        reports |= {char_id: BackupReport(char_id, "released") for char_id in pending}
        self.hot.count(Counter(report.outcome for report in reports.values()))
        return reports

    def _snapshot(
        self,
        pending: dict[int, Claim],
        clean: set[int] | frozenset[int],
        reports: dict[int, BackupReport],
    ) -> dict[int, tuple[Character, int]]:
        """Take a snapshot of each pending claim: the character and when (ms), by id.

        Reports and drops from ``pending`` what has no snapshot to save.
        """
        held = list(pending.values())
        replies = self.hot.run_many([self.hot.commands.snapshot(claim) for claim in held])
        taken: dict[int, tuple[Character, int]] = {}
        for claim, reply in zip(held, replies, strict=True):
            char_id = claim.char_id
            try:
                snapshot = _done(reply)
                if snapshot.raw:
                    taken[char_id] = (codec.decode(char_id, snapshot.raw), snapshot.at_ms)
                    continue
                reports[char_id] = self._missing(claim, snapshot, was_dirty=char_id not in clean)
            except LeaseLost:
                reports[char_id] = BackupReport(char_id, "superseded")
            except CorruptState as error:
                reports[char_id] = self._quarantine(claim, error.reason, error.field)
            del pending[char_id]
        return taken

    def _missing(self, claim: Claim, snapshot: Snapshot, *, was_dirty: bool) -> BackupReport:
        """Report a character that is gone from Redis; where changes went with it, be loud."""
        error = "not in Redis: nothing to save"
        if was_dirty:
            error = "the character was dirty, but its core is gone from Redis: changes were lost"
            log.error("character %d: %s", claim.char_id, error)
            self.hot.quarantine(claim, error, "")
        else:
            self.hot.acknowledge(claim, 0, 0, snapshot.at_ms)
        return BackupReport(claim.char_id, "missing", error=error)

    def _quarantine(self, claim: Claim, reason: str, field: str) -> BackupReport:
        log.error("character %d is quarantined: %s: %s", claim.char_id, field, reason)
        self.hot.quarantine(claim, reason, field)
        return BackupReport(claim.char_id, "quarantined", error=reason, field=field)

    def _commit(
        self, snapshots: Sequence[Character], *, wait: bool
    ) -> dict[int, durable.Result | CorruptState]:
        """Save snapshots in one transaction; where PostgreSQL refuses it, halve it until the
        culprit is alone, so that the others are saved."""
        if not snapshots:
            return {}
        try:
            with database.transaction(self.engine) as connection:
                return dict(durable.save(connection, snapshots, wait=wait))
        except database.Rejected as error:
            if error.locked:
                return {snapshot.char_id: durable.Busy() for snapshot in snapshots}
            if len(snapshots) > 1:
                half = len(snapshots) // 2
                first, second = snapshots[:half], snapshots[half:]
                return self._commit(first, wait=wait) | self._commit(second, wait=wait)
            char_id = snapshots[0].char_id
            return {char_id: CorruptState(char_id, "", str(error))}

    def _settle(
        self,
        pending: dict[int, Claim],
        taken: dict[int, tuple[Character, int]],
        results: dict[int, durable.Result | CorruptState],
        conflicts: set[int],
        reports: dict[int, BackupReport],
    ) -> None:
        """Acknowledge and report what is decided; what is to be reconciled stays ``pending``."""
        refused = [i for i, result in results.items() if isinstance(result, durable.Refused)]
        looks = self.hot.run_many([self.hot.commands.look(char_id) for char_id in refused])
        live = {char_id: _done(look) for char_id, look in zip(refused, looks, strict=True)}
        acknowledge = self.hot.commands.acknowledge
        todo = []
        for char_id, result in results.items():
            character, at_ms = taken[char_id]
            claim = pending[char_id]
            if isinstance(result, durable.Saved):
                outcome = "saved" if result.changed else "unchanged"
                outcome = "conflict" if char_id in conflicts else outcome
                todo.append(acknowledge(claim, character.version, result.version, at_ms))
                reports[char_id] = BackupReport(char_id, outcome, version=result.version)
            elif isinstance(result, CorruptState):
                reports[char_id] = self._quarantine(claim, result.reason, result.field)
            elif isinstance(result, durable.Deleted):
                todo.append(acknowledge(claim, 0, 0, at_ms))
                reports[char_id] = BackupReport(char_id, "deleted")
            elif isinstance(result, durable.Refused) and (
                result.version > character.version and _newer(live[char_id], result.version)
            ):
                todo.append(acknowledge(claim, 0, 0, at_ms))
                reports[char_id] = BackupReport(char_id, "stale", version=result.version)
            else:
                continue
            del pending[char_id]
        self.hot.run_many(todo)

    def _reconcile(
        self,
        pending: dict[int, Claim],
        results: dict[int, durable.Result | CorruptState],
        conflicts: set[int],
    ) -> None:
        """Bring the cores of refused and incomplete snapshots up to their rows.

        The losing row is recorded, durably, before the core's version rises above it: a crash in
        between records it again, never not at all.
        """
        refused = [i for i in pending if isinstance(results.get(i), durable.Refused)]
        marks = self.hot.run_many([self.hot.commands.marks(i) for i in refused])
        # Who has lost the claim knows nothing of conflicts any more.
        refused = [
            i for i, m in zip(refused, marks, strict=True) if _done(m).token == pending[i].token
        ]
        conflicts.update(refused)
        with database.transaction(self.engine) as connection:
            for char_id in refused:
                log.warning("character %d: PostgreSQL holds a newer state than Redis", char_id)
                durable.record_conflict(connection, char_id, "Redis held an older version")
            rows = durable.load(connection, refused)
        rows |= {i: r.row for i in pending if isinstance(r := results.get(i), durable.Incomplete)}
        self.hot.run_many(
            [
                self.hot.commands.reconcile(char_id, row.version, codec.write(row.core()))
                for char_id, row in rows.items()
            ]
        )

    def _release(self, claims: Iterable[Claim]) -> None:
        """Give claims back; where Redis is away too, their lease does it later."""
        try:
            self.hot.run_many([self.hot.commands.release(claim) for claim in claims])
        except ServerUnavailable as error:
            log.warning("claims could not be given back, their lease will end: %s", error)

    # Restore

    def restore_full_state(self, char_id: int) -> RestoreReport:
        """Load one character into Redis where it is absent. Raises as ``restore_many`` does."""
        return self.restore_many([char_id])[0]

    def restore_many(
        self, char_ids: Iterable[int], *, progress: Callable[[int], object] = lambda _: None
    ) -> list[RestoreReport]:
        """Load characters into Redis where they are absent, and report on each in order.

        ``progress`` is called with the number done after each batch. Never overwrites what is
        live. Raises InvalidCharId before anything is done, and ServerUnavailable.
        """
        ids = list(dict.fromkeys(check_char_id(char_id) for char_id in char_ids))
        reports: dict[int, RestoreReport] = {}
        for start in range(0, len(ids), self._batch_size):
            pending = ids[start : start + self._batch_size]
            for _ in range(_ROUNDS):
                pending = self._restore_round(pending, reports)
                if not pending:
                    break
            if pending:
                raise DatabaseUnavailable(
                    f"PostgreSQL returned older rows than were evicted from Redis, for character "
                    f"{pending[0]} and {len(pending) - 1} more: is it a replica that lags?"
                )
            progress(min(start + self._batch_size, len(ids)))
        self.hot.count(Counter(report.outcome for report in reports.values()))
        return [reports[char_id] for char_id in ids]

    def _restore_round(self, ids: list[int], reports: dict[int, RestoreReport]) -> list[int]:
        """Restore what can be; returns the ids whose row was read too early."""
        looks = self.hot.run_many([self.hot.commands.look(char_id) for char_id in ids])
        versions = {char_id: _done(look) for char_id, look in zip(ids, looks, strict=True)}
        for char_id, version in versions.items():
            if version is not None:
                reports[char_id] = RestoreReport(char_id, "live", version)
        absent = [char_id for char_id, version in versions.items() if version is None]
        if not absent:
            return []
        with database.transaction(self.engine) as connection:
            rows = durable.load(connection, absent)
        fills = self.hot.run_many(
            [
                self.hot.commands.fill(char_id, row.version, codec.write(self._ready(row)))
                for char_id, row in rows.items()
            ]
        )
        again = []
        for (char_id, row), reply in zip(rows.items(), fills, strict=True):
            outcome = _done(reply)
            if outcome == "stale":
                again.append(char_id)
            else:
                reports[char_id] = RestoreReport(char_id, outcome, row.version)
        for char_id in absent:
            if char_id not in rows:
                reports[char_id] = RestoreReport(char_id, "not_found")
        return again

    def _ready(self, row: Character) -> dict[str, object]:
        core = row.core()
        if row.vitals is None and row.stats:
            core["vitals"] = self._vitals(row.stats)
        return core


def _done(reply: T | StatesyncError) -> T:
    if isinstance(reply, StatesyncError):
        raise reply
    return reply


def _all_busy(pending: Iterable[int], results: Mapping[int, durable.Result | CorruptState]) -> bool:
    return all(isinstance(results.get(char_id), durable.Busy) for char_id in pending)


def _newer(live: int | None, version: int) -> bool:
    """Whether another worker was faster: Redis is at the row's version, or the core is gone."""
    return live is None or live >= version
